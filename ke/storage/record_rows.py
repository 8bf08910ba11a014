"""The records lane's rows: which sources are to do, and what a model read out of them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import Fenced
from ke.contracts.ids import record_id
from ke.contracts.jobs import Artifacts, Counters, Lane
from ke.storage.arrays import among_found
from ke.storage.dead_letters import DeadLetter, settle_letters, write_dead_letters
from ke.storage.extracting import ClaimedSource, hold_fences, is_forgotten
from ke.storage.jobs import add_progress, hold_lease
from ke.storage.record_queue import OPEN
from ke.storage.tables import extraction_tasks, jobs, records, sources


@dataclass(frozen=True, slots=True)
class ClaimedRecord:
    """A source of which a record is to be made."""

    source: ClaimedSource
    attempts: int
    """How often that has failed in a way that may pass."""


@dataclass(frozen=True, slots=True)
class NewRecords:
    """What was read out of a source: any number of records, of which each is valid against the schema."""

    schema_hash: bytes
    data: Sequence[Any]
    truncated: bool
    model: str
    tokens_in: int
    tokens_out: int


async def claim_records(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, *, limit: int
) -> list[ClaimedRecord]:
    """Takes sources, in the order in which they were stored, as `ke.storage.extracting.claim_tasks` does.

    What another slice has claimed is taken too: call it with the lane's lease, which says that that one is dead.

    Raises:
        Fenced: Some of them are being cleaned up by the job that owns them.
    """
    tasks = extraction_tasks
    due = (
        sa.select(tasks.c.source_id)
        .where(
            tasks.c.job_id == job_id,
            tasks.c.record_state.in_(OPEN),
            tasks.c.record_claim.is_distinct_from(claim),
            ~is_forgotten(extraction_tasks),
        )
        .order_by(tasks.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        sa.update(tasks)
        .where(tasks.c.job_id == job_id, among_found(tasks.c.source_id, due))
        .values(record_state="claimed", record_claim=claim)
        .returning(tasks.c.source_id, tasks.c.seq, tasks.c.record_attempts)
        .cte("taken")
    )
    names = ("url", "title", "text", "content_hash")
    statement = (
        sa.select(
            jobs.c.artifacts,
            taken.c.record_attempts,
            sources.c.id,
            sources.c.job_id,
            jobs.c.write_epoch,
            *(sources.c[name] for name in names),
        )
        .join_from(taken, sources, sources.c.id == taken.c.source_id)
        .join(jobs, jobs.c.id == sources.c.job_id)
        .order_by(taken.c.seq)
    )
    claimed: list[ClaimedRecord] = []
    for artifacts, attempts, *values in await connection.execute(statement):
        source = ClaimedSource(*values)
        if artifacts != Artifacts.PRESENT.value:
            raise Fenced(f"The sources of job {source.owner_job_id} are being cleaned up.")
        claimed.append(ClaimedRecord(source, attempts))
    return claimed


async def give_back_record(
    connection: AsyncConnection, job_id: uuid.UUID, epoch: int, claim: uuid.UUID, item: ClaimedRecord, spent: Counters
) -> Counters:
    """Gives one source back, with how often it has failed and what its calls have cost."""
    await _hold(connection, job_id, epoch, claim, item.source)
    values = {"record_state": "pending", "record_claim": None, "record_attempts": item.attempts}
    await _move(connection, job_id, claim, item.source, values)
    return await add_progress(connection, job_id, Lane.RECORDS, spent)


async def store_records(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    source: ClaimedSource,
    made: NewRecords,
    spent: Counters,
) -> Counters:
    """Writes a source's records, marks it done, and counts it; what another slice has done since is not done again.

    Args:
        connection: The transaction.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the source was claimed.
        source: The source.
        made: Its records.
        spent: Tokens and cost of its calls.

    Returns:
        The lane's totals.

    Raises:
        Fenced: The job may not be written any more, or the source's owner was cleaned meanwhile.
        WorkLost: Another slice has taken the lane over.
    """
    await _hold(connection, job_id, epoch, claim, source)
    values = {"record_state": "done", "record_claim": None, "record_reason": None}
    if not await _move(connection, job_id, claim, source, values):
        return await add_progress(connection, job_id, Lane.RECORDS, spent)
    rows = [
        {
            "id": record_id(job_id, source.id, made.schema_hash, number),
            "job_id": job_id,
            "owner_job_id": source.owner_job_id,
            "source_id": source.id,
            "number": number,
            "data": data,
            "truncated": made.truncated,
            "model": made.model,
            "tokens_in": 0 if number else made.tokens_in,
            "tokens_out": 0 if number else made.tokens_out,
            "epoch": epoch,
        }
        for number, data in enumerate(made.data)
    ]
    if rows:
        await connection.execute(insert(records).on_conflict_do_nothing(), rows)
    await settle_letters(connection, job_id, "record", {source.id: False})
    return await add_progress(connection, job_id, Lane.RECORDS, spent + Counters(records=len(rows)))


async def fail_record(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    source: ClaimedSource,
    letter: DeadLetter,
    spent: Counters,
) -> Counters:
    """Turns a source of which no record can be made into a dead letter, with what its calls have cost."""
    await _hold(connection, job_id, epoch, claim, source)
    values = {"record_state": "failed", "record_claim": None, "record_attempts": letter.attempts}
    if not await _move(connection, job_id, claim, source, values):
        return await add_progress(connection, job_id, Lane.RECORDS, spent)
    await settle_letters(connection, job_id, "record", {source.id: True})
    await write_dead_letters(connection, job_id, [letter])
    return await add_progress(connection, job_id, Lane.RECORDS, spent + Counters(dead_letters=1))


async def open_records(connection: AsyncConnection, job_id: uuid.UUID) -> int:
    """How many sources are still to do, claimed ones included; without those that are being forgotten."""
    statement = (
        sa.select(sa.func.count())
        .select_from(extraction_tasks)
        .where(
            extraction_tasks.c.job_id == job_id,
            extraction_tasks.c.record_state.in_(OPEN),
            ~is_forgotten(extraction_tasks),
        )
    )
    return int((await connection.execute(statement)).scalar_one())


async def _hold(
    connection: AsyncConnection, job_id: uuid.UUID, epoch: int, claim: uuid.UUID, source: ClaimedSource
) -> None:
    await hold_fences(connection, job_id, epoch, [source])
    await hold_lease(connection, job_id, Lane.RECORDS, claim)


async def _move(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, source: ClaimedSource, values: Mapping[str, Any]
) -> bool:
    """Moves a source's task on; False when it is not this slice's any more.

    One task a transaction: the extract lane locks many, in another order, and holds nothing that is waited for here.
    """
    statement = sa.update(extraction_tasks).where(
        extraction_tasks.c.job_id == job_id,
        extraction_tasks.c.source_id == source.id,
        extraction_tasks.c.record_claim == claim,
        extraction_tasks.c.record_state == "claimed",
    )
    return bool((await connection.execute(statement.values(values))).rowcount)
