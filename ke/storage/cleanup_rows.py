"""Rows that a cleanup deletes: each batch is one transaction, with the record of what it took."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.arrays import among
from ke.storage.cleanup_batches import lock_receipt, next_number
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.tables import (
    cleanup_batches,
    dead_letters,
    entities,
    entity_tasks,
    extraction_tasks,
    extractions,
    pages,
    records,
    sources,
)

MAX_SOURCES: Final = 200
"""Sources in a batch, at most."""
MAX_EXTRACTIONS: Final = 5_000
"""Extractions that a batch takes, at most, unless one source alone has more."""
MAX_ROWS: Final = 10_000
"""Rows without dependents in a batch, at most."""
_MAX_POINTS: Final = MAX_EXTRACTIONS + 1
"""Ids that are read at once, at most: those of a batch, and it is known that there are no more."""


@dataclass(frozen=True, slots=True)
class PointPage:
    """The points of some extractions, which have the ids of these."""

    ids: Mapping[str, Sequence[uuid.UUID]]
    """By collection, in order of seq."""
    last_seq: int
    is_last: bool
    """Whether there are no more."""


async def points_made(connection: AsyncConnection, target: CleanupTarget, after: int) -> PointPage | None:
    """The points of the next extractions that a job made of other jobs' sources, in order of seq; None at the end."""
    return await _points(connection, target.made, after)


async def _points(connection: AsyncConnection, these: sa.ColumnElement[bool], after: int) -> PointPage | None:
    page = (
        sa.select(extractions.c.seq, extractions.c.id, extractions.c.collection)
        .where(these, extractions.c.seq > after)
        .order_by(extractions.c.seq)
        .limit(_MAX_POINTS)
        .subquery()
    )
    ids = aggregate_order_by(page.c.id, page.c.seq)
    statement = sa.select(
        page.c.collection, sa.func.array_agg(ids).label("ids"), sa.func.max(page.c.seq).label("last")
    ).group_by(page.c.collection)
    found = list(await connection.execute(statement))
    if not found:
        return None
    page_ids = {record.collection: record.ids for record in found}
    is_last = sum(map(len, page_ids.values())) < _MAX_POINTS
    return PointPage(page_ids, max(record.last for record in found), is_last)


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Sources that are deleted together."""

    ids: Sequence[uuid.UUID]
    last_seq: int


async def next_sources(connection: AsyncConnection, target: CleanupTarget, after: int) -> list[SourceBatch]:
    """The target's next sources, in order of `seq`, in batches that a transaction can take; none at the end."""
    # Source by source, by the index: the planner would sooner read all chunks of all jobs.
    weight = sa.select(sa.func.count()).where(extractions.c.source_id == sources.c.id).scalar_subquery()
    statement = (
        sa.select(sources.c.seq, sources.c.id, weight.label("weight"))
        .where(target.sources, sources.c.seq > after)
        .order_by(sources.c.seq)
        .limit(MAX_SOURCES)
    )
    return list(_bounded(await connection.execute(statement)))


def _bounded(found: Iterable[sa.Row[Any]]) -> Iterator[SourceBatch]:
    """Batches that together have no more than `MAX_EXTRACTIONS` each, and one source in any case."""
    chosen: list[sa.Row[Any]] = []
    weight = 0
    for record in found:
        if chosen and weight + record.weight > MAX_EXTRACTIONS:
            yield SourceBatch([other.id for other in chosen], chosen[-1].seq)
            chosen, weight = [], 0
        chosen.append(record)
        weight += record.weight
    if chosen:
        yield SourceBatch([other.id for other in chosen], chosen[-1].seq)


async def points_of(connection: AsyncConnection, batch: SourceBatch, after: int) -> PointPage | None:
    """The points of the next extractions of these sources, by whichever job, in order of seq; None at the end."""
    return await _points(connection, among(extractions.c.source_id, batch.ids), after)


async def delete_source_batch(connection: AsyncConnection, target: CleanupTarget, batch: SourceBatch) -> None:
    """Deletes sources whose points are deleted, with what goes by cascade, and records what there was."""
    await lock_receipt(connection, target.receipt_id)
    these, made = among(sources.c.id, batch.ids), among(extractions.c.source_id, batch.ids)
    # Locked first: from here on nobody can add an extraction to these sources, or an entity to their extractions.
    if not await _lock(connection, sources, these):
        return
    counts = {
        "extractions": await _lock(connection, extractions, made),
        "entities": await _count_entities(connection, made),
        "records": await _lock(connection, records, among(records.c.source_id, batch.ids)),
    }
    deleted = await connection.execute(sa.delete(sources).where(these))
    await _record(connection, target.receipt_id, "sources", {"sources": deleted.rowcount, **counts})


async def delete_made_batch(connection: AsyncConnection, target: CleanupTarget, made: PointPage) -> None:
    """Deletes extractions that a job made of other jobs' sources, with their entities, and records what there was."""
    await lock_receipt(connection, target.receipt_id)
    these = among(extractions.c.id, chain.from_iterable(made.ids.values()))
    if not await _lock(connection, extractions, these):
        return
    counts = {"entities": await _count_entities(connection, these)}
    deleted = await connection.execute(sa.delete(extractions).where(these))
    await _record(connection, target.receipt_id, "extractions", {"extractions": deleted.rowcount, **counts})


async def delete_records_batch(connection: AsyncConnection, target: CleanupTarget, after: int) -> int | None:
    """Deletes the next records that a job made of other jobs' sources; returns the last `seq`, or None at the end."""
    await lock_receipt(connection, target.receipt_id)
    these = target.made_records & (records.c.seq > after)
    statement = sa.select(records.c.seq, records.c.id).where(these).order_by(records.c.seq).limit(MAX_ROWS)
    found = list(await connection.execute(statement))
    if not found:
        return None
    ids = records.c.id.in_([record.id for record in found])
    await _lock(connection, records, ids)
    deleted = await connection.execute(sa.delete(records).where(ids))
    await _record(connection, target.receipt_id, "records", {"records": deleted.rowcount})
    return int(found[-1].seq)


async def delete_tasks_batch(connection: AsyncConnection, target: CleanupTarget) -> int | None:
    """Deletes the next entries of these lanes, which no receipt counts; returns None when there was none."""
    deleted = 0
    for table, mine in ((entity_tasks, target.entity_tasks), (extraction_tasks, target.extraction_tasks)):
        key = sa.tuple_(table.c.job_id, table.c.source_id)
        these = sa.select(table.c.job_id, table.c.source_id).where(mine).limit(MAX_ROWS)
        deleted += (await connection.execute(sa.delete(table).where(mine, key.in_(these)))).rowcount
    return deleted or None


async def delete_dead_letters_batch(connection: AsyncConnection, target: CleanupTarget, after: int) -> int | None:
    """Deletes the target's next dead letters; returns the last `seq`, or None when there was none."""
    return await _delete_simple(connection, target.receipt_id, dead_letters, target.dead_letters, after)


async def delete_pages_batch(connection: AsyncConnection, target: CleanupTarget, after: int) -> int | None:
    """Deletes the target's next entries of the frontier; returns the last `seq`, or None when there was none.

    In the end those that found it gone, and stay, name it as their document no more.
    """
    last = await _delete_simple(connection, target.receipt_id, pages, await target.pages(connection), after)
    if last is None:
        await connection.execute(sa.update(pages).where(target.gone_pages).values(source_id=None))
    return last


async def _delete_simple(
    connection: AsyncConnection, cleanup_id: str, table: sa.Table, these: sa.ColumnElement[bool], after: int
) -> int | None:
    await lock_receipt(connection, cleanup_id)
    mine = these & (table.c.seq > after)
    piece = sa.select(table.c.seq).where(mine).order_by(table.c.seq).limit(MAX_ROWS).subquery()
    last: int | None = (await connection.execute(sa.select(sa.func.max(piece.c.seq)))).scalar_one()
    if last is None:
        return None
    deleted = await connection.execute(sa.delete(table).where(mine, table.c.seq <= last))
    await _record(connection, cleanup_id, table.name, {table.name: deleted.rowcount})
    return last


async def _lock(connection: AsyncConnection, table: sa.Table, which: sa.ColumnElement[bool]) -> int:
    """Locks rows, in order of id so that two cleanups never wait for each other; returns how many there are."""
    locked = sa.select(table.c.id).where(which).order_by(table.c.id).with_for_update().subquery()
    return int((await connection.execute(sa.select(sa.func.count()).select_from(locked))).scalar_one())


async def _count_entities(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> int:
    # As an array, which is looked up in the index: how many entities an extraction has, the planner does not know.
    made = sa.func.array(sa.select(extractions.c.id).where(which).scalar_subquery())
    statement = sa.select(sa.func.count()).where(entities.c.extraction_id == sa.any_(made))
    return int((await connection.execute(statement)).scalar_one())


async def _record(connection: AsyncConnection, cleanup_id: str, store: str, counts: dict[str, int]) -> None:
    number = await next_number(connection, cleanup_id, store)
    await connection.execute(
        sa.insert(cleanup_batches).values(cleanup_id=cleanup_id, store=store, number=number, counts=counts, done=True)
    )
