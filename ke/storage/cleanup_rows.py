"""Rows that a cleanup deletes: each batch is one transaction, with the record of what it took."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.arrays import among, among_found
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


@dataclass(frozen=True, slots=True)
class PointPage:
    """The points of some extractions, which have the ids of these."""

    ids: Mapping[str, Sequence[uuid.UUID]]
    """By collection, in order of seq."""
    last_seq: int


async def points_made(connection: AsyncConnection, target: CleanupTarget, after: int) -> PointPage | None:
    """The points of the next extractions that a job made of other jobs' sources, in order of seq; None at the end."""
    return await _points(connection, target.made, after)


async def _points(connection: AsyncConnection, these: sa.ColumnElement[bool], after: int) -> PointPage | None:
    page = (
        sa.select(extractions.c.seq, extractions.c.id, extractions.c.collection)
        .where(these, extractions.c.seq > after)
        .order_by(extractions.c.seq)
        .limit(MAX_EXTRACTIONS)
        .subquery()
    )
    ids = aggregate_order_by(page.c.id, page.c.seq)
    statement = sa.select(
        page.c.collection, sa.func.array_agg(ids).label("ids"), sa.func.max(page.c.seq).label("last")
    ).group_by(page.c.collection)
    found = list(await connection.execute(statement))
    if not found:
        return None
    return PointPage({record.collection: record.ids for record in found}, max(record.last for record in found))


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Sources that are deleted together."""

    ids: Sequence[uuid.UUID]
    last_seq: int
    points: Mapping[str, Sequence[uuid.UUID]] | None
    """The ids of all points of theirs, by collection; None for one source that has more than `MAX_EXTRACTIONS`."""


async def next_sources(connection: AsyncConnection, target: CleanupTarget, after: int) -> SourceBatch | None:
    """The target's next sources, in order of `seq`, as many as a transaction can take; None at the end."""
    some = (
        sa.select(sources.c.seq, sources.c.id)
        .where(target.sources, sources.c.seq > after)
        .order_by(sources.c.seq)
        .limit(MAX_SOURCES)
        .subquery()
    )
    # Source by source, by the index, as far as the limit: the planner would sooner read all chunks of all jobs.
    most = MAX_EXTRACTIONS + 1
    made = (
        sa.select(extractions.c.id, extractions.c.collection)
        .where(extractions.c.source_id == some.c.id)
        .limit(most)
        .lateral()
    )
    page = (
        sa.select(some.c.seq, some.c.id, made.c.id.label("point"), made.c.collection)
        .select_from(some.outerjoin(made, sa.true()))
        .order_by(some.c.seq)
        .limit(most)
        .subquery()
    )
    points = sa.func.array_agg(page.c.point).label("points")
    statement = (
        sa.select(page.c.seq, page.c.id, page.c.collection, points)
        .group_by(page.c.seq, page.c.id, page.c.collection)
        .order_by(page.c.seq)
    )
    return _batch(list(await connection.execute(statement)))


def _batch(found: Sequence[sa.Row[Any]]) -> SourceBatch | None:
    """The sources of a page, without the last one when the page has not all of it, unless it is the only one."""
    if not found:
        return None
    last = found[-1].seq
    if sum(len(record.points) for record in found) > MAX_EXTRACTIONS:
        found = [record for record in found if record.seq != last] or found
        if found[-1].seq == last:
            return SourceBatch([found[0].id], last, None)
        last = found[-1].seq
    ids: dict[str, list[uuid.UUID]] = {}
    for record in found:
        # A source without extractions has one row, of nothing.
        if record.collection is not None:
            ids.setdefault(record.collection, []).extend(record.points)
    return SourceBatch(list(dict.fromkeys(record.id for record in found)), last, ids)


async def more_points_of(connection: AsyncConnection, batch: SourceBatch, after: int) -> PointPage | None:
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
        "entities": await _delete_entities(connection, made),
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
    counts = {"entities": await _delete_entities(connection, these)}
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


async def _delete_entities(connection: AsyncConnection, which: sa.ColumnElement[bool]) -> int:
    """Deletes the entities of locked extractions; returns how many, which a cascade does not tell."""
    # Looked up in the index: how many entities an extraction has, the planner does not know.
    made = among_found(entities.c.extraction_id, sa.select(extractions.c.id).where(which))
    return (await connection.execute(sa.delete(entities).where(made))).rowcount


async def _record(connection: AsyncConnection, cleanup_id: str, store: str, counts: dict[str, int]) -> None:
    number = await next_number(connection, cleanup_id, store)
    await connection.execute(
        sa.insert(cleanup_batches).values(cleanup_id=cleanup_id, store=store, number=number, counts=counts, done=True)
    )
