"""Rows against points: walks over all extractions, and the deletion of what nothing stands behind.

Every walk goes in order of id, a window at a time, each in a transaction of its own: memory does not grow with the
store, and a walk that was broken off goes on after the last window.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupScope, CleanupStatus
from ke.contracts.jobs import TERMINAL, Artifacts
from ke.storage.cleanup_batches import unclaimed
from ke.storage.tables import cleanups, entities, extractions, jobs

WINDOW: Final = 1_000
"""Rows of one window: as many points as one call takes."""
LOCK_TIMEOUT_MS: Final = 3_000
"""For the lock under which points without rows are deleted: while it is waited for, writers wait too. Longer than
the second after which Postgres ends an autovacuum that is in the way."""

_makers: Final = jobs.alias("makers")
_owners: Final = jobs.alias("owners")
_TERMINAL: Final = [status.value for status in TERMINAL]


@dataclass(frozen=True, slots=True)
class WalkedRow:
    """An extraction, as far as it matters whether it has a point."""

    id: uuid.UUID
    collection: str
    job_id: uuid.UUID
    is_ready: bool
    is_kept: bool
    """Whether nothing of it is being cleaned up, or is to be."""
    is_abandoned: bool
    """Whether it is pending, and the job that began it has ended and is not being retried."""


@dataclass(frozen=True, slots=True)
class LostRow:
    """A ready extraction without a point, with all that a new one is made of."""

    id: uuid.UUID
    text: str
    embedder: str
    collection: str


@dataclass(frozen=True, slots=True)
class WritableRow:
    """An extraction whose point may be written at this moment, under these epochs."""

    id: uuid.UUID
    job_id: uuid.UUID
    owner_job_id: uuid.UUID
    source_id: uuid.UUID
    job_epoch: int
    owner_epoch: int


def _is_kept() -> sa.ColumnElement[bool]:
    """Of an extraction whose maker and owner keep what they made, and whose source nobody forgets.

    A cleanup says so before it deletes its first point: the job's artifacts by their state, a source by its receipt.
    """
    forgotten = sa.select(cleanups.c.source_id).where(
        cleanups.c.scope == CleanupScope.SOURCE.value,
        cleanups.c.status != CleanupStatus.CLEANED.value,
        cleanups.c.source_id.is_not(None),
    )
    present = Artifacts.PRESENT.value
    return sa.and_(
        _makers.c.artifacts == present, _owners.c.artifacts == present, extractions.c.source_id.not_in(forgotten)
    )


def _with_jobs() -> sa.FromClause:
    return extractions.join(_makers, _makers.c.id == extractions.c.job_id).join(
        _owners, _owners.c.id == extractions.c.owner_job_id
    )


async def walk(connection: AsyncConnection, after: uuid.UUID | None) -> list[WalkedRow]:
    """The next window of all extractions, in order of id, after `after`."""
    is_abandoned = sa.and_(
        extractions.c.state == "pending", _makers.c.status.in_(_TERMINAL), _makers.c.retry_id.is_(None)
    )
    statement = (
        sa.select(
            extractions.c.id,
            extractions.c.collection,
            extractions.c.job_id,
            (extractions.c.state == "ready").label("is_ready"),
            _is_kept().label("is_kept"),
            is_abandoned.label("is_abandoned"),
        )
        .select_from(_with_jobs())
        .order_by(extractions.c.id)
        .limit(WINDOW)
    )
    if after is not None:
        statement = statement.where(extractions.c.id > after)
    return [WalkedRow(*record) for record in await connection.execute(statement)]


async def still_lost(connection: AsyncConnection, ids: Collection[uuid.UUID]) -> list[LostRow]:
    """Those of these extractions that should have a point.

    Asked after their points were found missing: a cleanup that deleted these meanwhile had said so before.
    """
    if not ids:
        return []
    statement = (
        sa.select(extractions.c.id, extractions.c.text, extractions.c.embedder, extractions.c.collection)
        .select_from(_with_jobs())
        .where(extractions.c.id.in_(ids), extractions.c.state == "ready", _is_kept())
        .order_by(extractions.c.id)
    )
    return [LostRow(*record) for record in await connection.execute(statement)]


async def writable(connection: AsyncConnection, ids: Collection[uuid.UUID]) -> list[WritableRow]:
    """Those of these extractions whose points may be written, and under which epochs.

    A cleanup that begins after this raises the epochs, so that what is written under these is refused, or swept.
    """
    statement = (
        sa.select(
            extractions.c.id,
            extractions.c.job_id,
            extractions.c.owner_job_id,
            extractions.c.source_id,
            _makers.c.write_epoch,
            _owners.c.write_epoch,
        )
        .select_from(_with_jobs())
        .where(extractions.c.id.in_(ids), extractions.c.state == "ready", _is_kept())
    )
    return [WritableRow(*record) for record in await connection.execute(statement)]


async def without_rows(connection: AsyncConnection, collection: str, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Those of these points of a collection that no extraction stands behind, in their order."""
    statement = sa.select(extractions.c.id).where(extractions.c.id.in_(ids), extractions.c.collection == collection)
    known = set((await connection.execute(statement)).scalars())
    return [point for point in ids if point not in known]


async def hold_orphans(connection: AsyncConnection, collection: str, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Those of these points that may be deleted as long as the transaction lasts: nothing can come to need them.

    The table is locked against writers: a chunk that was extracted again gets the id that it had, and its row is
    written before its point, so it is either seen here, or its point is written after the deletion. Points that a
    cleanup has counted are left to it, for the sake of its receipt.
    """
    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
    await connection.exec_driver_sql("LOCK TABLE extractions IN SHARE MODE")
    return await unclaimed(connection, await without_rows(connection, collection, ids))


@dataclass(frozen=True, slots=True)
class AbandonedRow:
    """A row that is deleted, and its point with it."""

    id: uuid.UUID
    collection: str


async def hold_abandoned(
    connection: AsyncConnection, job_id: uuid.UUID, ids: Collection[uuid.UUID]
) -> list[AbandonedRow]:
    """Those of these extractions of a job that are abandoned, and stay so until the transaction ends.

    The rows of the job and of the owners of the sources are locked: that is where a retry of dead letters and a
    cleanup begin, so they have begun before this, and are seen, or begin after it.
    """
    owners = sa.select(extractions.c.owner_job_id).where(extractions.c.id.in_(ids))
    concerned = sa.select(jobs.c.id, jobs.c.status, jobs.c.retry_id).where(
        (jobs.c.id == job_id) | jobs.c.id.in_(owners)
    )
    held = {record.id: record for record in await connection.execute(concerned.order_by(jobs.c.id).with_for_update())}
    maker = held.get(job_id)
    if maker is None or maker.status not in _TERMINAL or maker.retry_id is not None:
        return []
    statement = (
        sa.select(extractions.c.id, extractions.c.collection)
        .select_from(_with_jobs())
        .where(extractions.c.id.in_(ids), extractions.c.job_id == job_id, extractions.c.state == "pending", _is_kept())
    )
    return [AbandonedRow(*record) for record in await connection.execute(statement)]


async def delete_abandoned(connection: AsyncConnection, job_id: uuid.UUID, held: Sequence[AbandonedRow]) -> None:
    """Deletes extractions whose points are deleted, and takes them out of the job's result, which counted them."""
    these = extractions.c.id.in_([row.id for row in held])
    counted = sa.select(sa.func.count()).select_from(entities.join(extractions)).where(these)
    n_entities: int = (await connection.execute(counted)).scalar_one()
    deleted = await connection.execute(sa.delete(extractions).where(these))
    result: dict[str, Any] | None = (
        await connection.execute(sa.select(jobs.c.result).where(jobs.c.id == job_id))
    ).scalar_one()
    if result is None:
        return
    lower = {"extractions": deleted.rowcount, "entities": n_entities}
    changed = {name: max(0, int(result[name]) - number) for name, number in lower.items() if name in result}
    await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(result={**result, **changed}))
