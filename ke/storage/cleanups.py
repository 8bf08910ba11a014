"""The receipts of cleanups, what a job still has, and the tombstone that a deleted job leaves."""

import uuid
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import STORES, CleanupReceipt, CleanupScope, CleanupStatus, StoreCounts
from ke.contracts.errors import NotFound
from ke.contracts.jobs import ACTIVE, COUNTER_NAMES
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.jobs import find_job
from ke.storage.relying import relying_of
from ke.storage.retries import give_up_retries
from ke.storage.tables import (
    cleanup_batches,
    cleanups,
    collect_shards,
    dead_letters,
    entities,
    entity_tasks,
    extraction_tasks,
    extractions,
    job_progress,
    jobs,
    pages,
    records,
    sources,
)
from ke.storage.vectors.base import VectorStore

_NOW: Final = sa.func.clock_timestamp()
_KEPT_OF_RESULT: Final = frozenset({*COUNTER_NAMES, "pages_new", "pages_changed", "elapsed_s"})


def counts_of(stored: Mapping[str, Any]) -> StoreCounts:
    """The counts that a JSON column holds; a store it does not name counts zero."""
    return StoreCounts(**{store: int(stored.get(store, 0)) for store in STORES})


# What there is


async def row_counts(connection: AsyncConnection, target: CleanupTarget) -> StoreCounts:
    """What a cleanup would delete from Postgres, exactly; `vectors` stays zero.

    Of a job counts what it made, and what other jobs made from the sources it owns.
    """

    async def count(table: sa.FromClause, these: sa.ColumnElement[bool]) -> int:
        # One statement each: all of them together could outlast the deadline of one on a very large job.
        statement = sa.select(sa.func.count()).select_from(table).where(these)
        return int((await connection.execute(statement)).scalar_one())

    its_own = target.owned | target.made
    chunks = await count(extractions, its_own)
    return StoreCounts(
        sources=await count(sources, target.sources),
        extractions=chunks,
        # Without an extraction there is no entity, which the index of a table that was just emptied is slow to tell.
        entities=await count(entities.join(extractions), its_own) if chunks else 0,
        dead_letters=await count(dead_letters, target.dead_letters),
        pages=await count(pages, await target.pages(connection)),
        records=await count(records, target.owned_records) + await count(records, target.made_records),
    )


async def vector_counts(vectors: VectorStore, target: CleanupTarget) -> dict[str, int]:
    """How many points of the target each collection that has some holds, exactly; of a job as maker or as owner.

    Raises:
        VectorStoreUnavailable: The store did not answer.
    """
    found = {name: await target.count_points(vectors, name) for name in await vectors.collections()}
    return {name: number for name, number in found.items() if number}


async def active_dependents(connection: AsyncConnection, job_id: uuid.UUID) -> list[uuid.UUID]:
    """The active jobs that extract from this job's sources or crawl them again, even if only told to so far.

    An ended job whose dead letters are being retried is one of them.
    """
    task_of_this = (
        sa.select(sa.literal(1))
        .select_from(extraction_tasks.join(sources))
        .where(extraction_tasks.c.job_id == jobs.c.id, sources.c.job_id == job_id)
    )
    listed = jobs.c.params["source_ids"]
    listed_or_none = sa.case((sa.func.json_typeof(listed) == "array", listed), else_=sa.text("'[]'::json"))
    named = sa.func.json_array_elements_text(listed_or_none).table_valued("id").render_derived()
    names_source = (
        sa.select(sa.literal(1))
        .select_from(named.join(sources, sources.c.id == sa.cast(named.c.id, sa.Uuid)))
        .where(sources.c.job_id == job_id)
        .correlate(jobs)
    )
    # A re-crawl of a re-crawl points to the documents of the first.
    earlier = jobs.c.params["recrawl_of"].astext
    points_here = (
        sa.select(sa.literal(1))
        .select_from(pages.join(sources, sources.c.id == pages.c.source_id))
        .where(pages.c.job_id.in_([jobs.c.id, sa.cast(earlier, sa.Uuid)]), sources.c.job_id == job_id)
        .correlate(jobs)
    )
    statement = (
        sa.select(jobs.c.id)
        .where(
            jobs.c.status.in_([status.value for status in ACTIVE]) | jobs.c.retry_id.is_not(None),
            jobs.c.id != job_id,
            sa.exists(task_of_this)
            | (jobs.c.params["source_job_id"].astext == str(job_id))
            | (earlier == str(job_id))
            | (earlier.is_not(None) & sa.exists(points_here))
            | sa.exists(names_source),
        )
        .order_by(jobs.c.seq)
    )
    return list((await connection.execute(statement)).scalars())


# The receipt


async def deleted_counts(connection: AsyncConnection, receipt_id: str) -> StoreCounts:
    """The sum of the finished batches; of a project's cleanup that of the cleanups that are its parts."""
    return await sum_of_batches(connection, (cleanups.c.id == receipt_id) | (cleanups.c.part_of == receipt_id))


async def sum_of_batches(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> StoreCounts:
    """The sum of the finished batches of these cleanups."""
    item = sa.func.jsonb_each_text(cleanup_batches.c.counts).table_valued("key", "value").render_derived()
    statement = (
        sa.select(item.c.key, sa.func.sum(sa.cast(item.c.value, sa.BigInteger)).label("total"))
        .select_from(
            cleanup_batches.join(cleanups, cleanups.c.id == cleanup_batches.c.cleanup_id).join(item, sa.true())
        )
        .where(which, cleanup_batches.c.done)
        .group_by(item.c.key)
    )
    return counts_of({record.key: record.total for record in await connection.execute(statement)})


async def find_receipt(connection: AsyncConnection, receipt_id: str) -> CleanupReceipt | None:
    """The receipt as it stands; while it is not closed, `remaining` is what was planned and is not deleted yet."""
    record = (await connection.execute(sa.select(cleanups).where(cleanups.c.id == receipt_id))).first()
    if record is None:
        return None
    planned = counts_of(record.planned)
    closed = record.status != CleanupStatus.RUNNING
    deleted = counts_of(record.deleted) if closed else await deleted_counts(connection, receipt_id)
    scope = CleanupScope(record.scope)
    return CleanupReceipt(
        id=record.id,
        job_id=str(record.job_id) if record.job_id is not None else None,
        status=CleanupStatus(record.status),
        planned=planned,
        deleted=deleted,
        remaining=counts_of(record.remaining) if closed else _rest(planned, deleted),
        started_at=record.started_at.isoformat(),
        completed_at=record.completed_at.isoformat() if record.completed_at else None,
        delete_record=record.delete_record,
        error=record.error,
        fenced=record.fenced,
        scope=scope,
        source_id=str(record.source_id) if record.source_id is not None else None,
        project=record.project,
        relying=relying_of(record.planned),
        jobs=record.jobs if closed or scope is not CleanupScope.PROJECT else await _parts(connection, receipt_id),
    )


async def _parts(connection: AsyncConnection, receipt_id: str) -> int:
    statement = sa.select(sa.func.count()).select_from(cleanups).where(cleanups.c.part_of == receipt_id)
    return int((await connection.execute(statement)).scalar_one())


async def get_receipt(connection: AsyncConnection, receipt_id: str) -> CleanupReceipt:
    """The receipt of a cleanup that was begun.

    Raises:
        NotFound: There is none.
    """
    receipt = await find_receipt(connection, receipt_id)
    if receipt is None:
        raise NotFound(f"There is no cleanup {receipt_id}.")
    return receipt


def _rest(planned: StoreCounts, deleted: StoreCounts) -> StoreCounts:
    return StoreCounts(**{store: max(0, getattr(planned, store) - getattr(deleted, store)) for store in STORES})


# The tombstone


async def tombstone(connection: AsyncConnection, job_id: uuid.UUID) -> None:
    """Deletes the record of an ended job down to its tombstone; a job that is one already stays as it is.

    What is left: id, kind, state, times, counters, and the idempotency key, so that the key answers `gone` and is
    never taken for a new job. What could hold a URL or other people's words goes, the lanes' notes included, and so
    does the list of sources that the job was to extract, which no cleanup may ever come for.
    """
    row = await find_job(connection, job_id, lock=True)
    if row is None or row.deleted_at is not None:
        return
    # In a JSON column None would become JSON's null, which is a result.
    result: Any = sa.null()
    if row.result is not None:
        result = {name: value for name, value in row.result.items() if name in _KEPT_OF_RESULT}
    await give_up_retries(connection, job_id)
    for table in (collect_shards, job_progress, entity_tasks, extraction_tasks):
        await connection.execute(sa.delete(table).where(table.c.job_id == job_id))
    await connection.execute(
        sa.update(jobs)
        .where(jobs.c.id == job_id)
        .values(
            deleted_at=_NOW,
            params={},
            labels={},
            request_hash="",
            result=result,
            error={"type": row.error.get("type", ""), "message": ""} if row.error else sa.null(),
            cancel_reason=None,
        )
    )
