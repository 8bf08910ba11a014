"""Which sources a lane is to do: queued and, in the end, skipped in batches, however many they are."""

import uuid
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import ExtractSpec
from ke.storage.record_queue import first_record_state
from ke.storage.tables import entity_tasks, extraction_tasks, sources
from ke.storage.task_locks import locked

_OPEN: Final = ("pending", "claimed")

QUEUE_BATCH: Final = 10_000
"""Sources that one transaction queues or skips, at most: a second or less, far below the statement timeout."""


async def queued_up_to(connection: AsyncConnection, job_id: uuid.UUID) -> int:
    """The `seq` of the last source that is queued, where `select_sources` goes on; 0 when none is."""
    joined = extraction_tasks.join(sources, sources.c.id == extraction_tasks.c.source_id)
    statement = sa.select(sa.func.coalesce(sa.func.max(sources.c.seq), 0)).select_from(joined)
    return int((await connection.execute(statement.where(extraction_tasks.c.job_id == job_id))).scalar_one())


async def select_sources(
    connection: AsyncConnection, job_id: uuid.UUID, spec: ExtractSpec, *, after: int = 0, limit: int = QUEUE_BATCH
) -> int | None:
    """Queues the next sources that an extract job names, in the order in which they were stored.

    Called until it returns None, each time in a transaction of its own. What is queued already stays as it is.

    Args:
        connection: The transaction.
        job_id: The extract job.
        spec: Names the sources: those of another job, or by their ids.
        after: The `seq` after which to look.
        limit: Sources at most.

    Returns:
        The `seq` of the last source looked at, or None when there was none left, or the job names none.
    """
    if spec.source_job_id is not None:
        named = sources.c.job_id == uuid.UUID(spec.source_job_id)
    elif spec.source_ids is not None:
        named = sources.c.id.in_([uuid.UUID(source) for source in spec.source_ids])
    else:
        return None
    piece = (
        sa.select(sources.c.id, sources.c.seq)
        .where(named, sources.c.seq > after)
        .order_by(sources.c.seq)
        .limit(limit)
        .cte("piece")
    )
    queued = (
        insert(extraction_tasks)
        .from_select(
            ["job_id", "source_id", "record_state"],
            sa.select(sa.literal(job_id), piece.c.id, first_record_state(job_id)).order_by(piece.c.seq),
        )
        .on_conflict_do_nothing()
        .cte("queued")
    )
    last = await connection.execute(sa.select(sa.func.max(piece.c.seq)).add_cte(queued))
    seq: int | None = last.scalar_one()
    return seq


async def skip_open_tasks(connection: AsyncConnection, job_id: uuid.UUID, limit: int = QUEUE_BATCH) -> int:
    """Marks the next sources that were not extracted, or whose entities were not found, as skipped; returns how many.

    Called until it returns less than `limit`, as `ke.storage.frontier.skip_open_pages` is.
    """
    skipped = 0
    for table in (extraction_tasks, entity_tasks):
        is_open = sa.and_(table.c.job_id == job_id, table.c.state.in_(_OPEN))
        some = locked(table, is_open, limit=limit - skipped)
        statement = sa.update(table).where(table.c.job_id == job_id, some)
        skipped += (await connection.execute(statement.values(state="skipped", claim=None))).rowcount
    return skipped
