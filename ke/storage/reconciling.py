"""The records of reconciliations: what each found, and what it repaired."""

from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.reconciling import (
    CloseReconciliation,
    Finding,
    FindingKind,
    OpenReconciliation,
    ReconcileStatus,
    Reconciliation,
)
from ke.storage.tables import reconciliations

KEPT: Final = 100
"""Records of ended reconciliations that are kept; at one every 15 minutes that is a day."""
_NOW: Final = sa.func.clock_timestamp()
_OPEN_LOCK: Final = 0x6B67
"""An advisory lock: a record is opened by one transaction at a time."""


@dataclass(frozen=True, slots=True)
class ReconciliationRow:
    """A record with its place in the list."""

    seq: int
    record: Reconciliation


async def open_reconciliation(
    connection: AsyncConnection, opened: OpenReconciliation, *, is_announced: bool = False
) -> None:
    """Writes the record of a run that begins; a repeat changes nothing, and an ended record stays as it is.

    Records of other runs that read as running are closed: a reconciliation's workflow has one id, so there is one run
    at a time, and theirs ended without a word.

    Args:
        connection: The transaction.
        opened: The run, and what it was asked to do.
        is_announced: Whether this is not the run itself, but someone who started or joined it: then what the run has
            written stands.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_OPEN_LOCK)))
    running = reconciliations.c.status == ReconcileStatus.RUNNING.value
    others = sa.update(reconciliations).where(running, reconciliations.c.id != opened.id)
    await connection.execute(others.values(**_ended("Its workflow ended without a word.")))
    request = {"repair": opened.request.repair, "max_share": opened.request.max_share}
    first = insert(reconciliations).values(
        id=opened.id, status=ReconcileStatus.RUNNING.value, started_at=_NOW, **request
    )
    if is_announced:
        await connection.execute(first.on_conflict_do_nothing())
    else:
        await connection.execute(first.on_conflict_do_update(index_elements=["id"], set_=request, where=running))


async def close_reconciliation(connection: AsyncConnection, close: CloseReconciliation) -> Reconciliation:
    """Writes how a run ended, once, and forgets the oldest records."""
    await connection.execute(
        sa.update(reconciliations)
        .where(reconciliations.c.id == close.id, reconciliations.c.status == ReconcileStatus.RUNNING.value)
        .values(
            status=close.status.value,
            findings=[asdict(finding) for finding in close.findings],
            error=close.error,
            completed_at=_NOW,
        )
    )
    await _prune(connection)
    return await _one(connection, close.id)


async def fail_reconciliation(connection: AsyncConnection, reconciliation_id: str, error: str) -> None:
    """Closes the record of a run whose workflow is closed; one that has ended stays as it is."""
    await connection.execute(
        sa.update(reconciliations)
        .where(reconciliations.c.id == reconciliation_id, reconciliations.c.status == ReconcileStatus.RUNNING.value)
        .values(**_ended(error))
    )


async def find_reconciliation(connection: AsyncConnection, reconciliation_id: str) -> Reconciliation | None:
    """The record, or None."""
    statement = sa.select(reconciliations).where(reconciliations.c.id == reconciliation_id)
    record = (await connection.execute(statement)).first()
    return _reconciliation(record) if record else None


async def list_reconciliations(
    connection: AsyncConnection, *, limit: int, before_seq: int | None = None
) -> list[ReconciliationRow]:
    """Records, newest first, at most `limit`; the next part starts before the last one's `seq`."""
    statement = sa.select(reconciliations).order_by(reconciliations.c.seq.desc()).limit(limit)
    if before_seq is not None:
        statement = statement.where(reconciliations.c.seq < before_seq)
    return [ReconciliationRow(record.seq, _reconciliation(record)) for record in await connection.execute(statement)]


def _ended(error: str) -> dict[str, Any]:
    return {"status": ReconcileStatus.FAILED.value, "error": error, "completed_at": _NOW}


async def _prune(connection: AsyncConnection) -> None:
    ended = reconciliations.c.status != ReconcileStatus.RUNNING.value
    oldest_kept = (
        sa.select(reconciliations.c.seq)
        .where(ended)
        .order_by(reconciliations.c.seq.desc())
        .offset(KEPT - 1)
        .limit(1)
        .scalar_subquery()
    )
    await connection.execute(sa.delete(reconciliations).where(ended, reconciliations.c.seq < oldest_kept))


async def _one(connection: AsyncConnection, reconciliation_id: str) -> Reconciliation:
    statement = sa.select(reconciliations).where(reconciliations.c.id == reconciliation_id)
    return _reconciliation((await connection.execute(statement)).one())


def _reconciliation(record: sa.Row[Any]) -> Reconciliation:
    return Reconciliation(
        id=record.id,
        status=ReconcileStatus(record.status),
        repair=record.repair,
        max_share=record.max_share,
        findings=tuple(_finding(stored) for stored in record.findings),
        error=record.error,
        started_at=record.started_at.isoformat(),
        completed_at=record.completed_at.isoformat() if record.completed_at else None,
    )


def _finding(stored: dict[str, Any]) -> Finding:
    return Finding(**{**stored, "kind": FindingKind(stored["kind"]), "examples": tuple(stored["examples"])})
