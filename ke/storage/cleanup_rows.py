"""Rows that a cleanup deletes: each batch is one transaction, with the record of what it took."""

import uuid
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

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


async def owned_ids(
    connection: AsyncConnection, target: CleanupTarget, after: uuid.UUID | None, limit: int
) -> list[tuple[uuid.UUID, str]]:
    """Extractions of the target's sources, by whichever job: id and collection, in order of id, after `after`."""
    statement = sa.select(extractions.c.id, extractions.c.collection).where(target.owned)
    if after is not None:
        statement = statement.where(extractions.c.id > after)
    found = await connection.execute(statement.order_by(extractions.c.id).limit(limit))
    return [(record.id, record.collection) for record in found]


async def made_ids(
    connection: AsyncConnection, target: CleanupTarget, after: int, limit: int
) -> list[tuple[int, uuid.UUID, str]]:
    """Extractions that a job made of other jobs' sources: seq, id and collection, in order of seq."""
    statement = (
        sa.select(extractions.c.seq, extractions.c.id, extractions.c.collection)
        .where(target.made, extractions.c.seq > after)
        .order_by(extractions.c.seq)
        .limit(limit)
    )
    return [(record.seq, record.id, record.collection) for record in await connection.execute(statement)]


async def delete_owned_batch(connection: AsyncConnection, target: CleanupTarget, after: int) -> int | None:
    """Deletes the target's next sources, with what goes by cascade, and records the batch.

    Args:
        connection: The transaction.
        target: What the cleanup is about.
        after: The `seq` after which to look.

    Returns:
        The `seq` of the last source deleted, or None when there was none.
    """
    await lock_receipt(connection, target.receipt_id)
    weight = sa.select(sa.func.count()).where(extractions.c.source_id == sources.c.id).scalar_subquery()
    statement = (
        sa.select(sources.c.seq, sources.c.id, weight.label("weight"))
        .where(target.sources, sources.c.seq > after)
        .order_by(sources.c.seq)
        .limit(MAX_SOURCES)
    )
    chosen = _bounded(list(await connection.execute(statement)))
    if not chosen:
        return None
    ids = [record.id for record in chosen]
    # Locked first: from here on nobody can add an extraction to these sources, or an entity to their extractions.
    await _lock(connection, sources, sources.c.id.in_(ids))
    made = extractions.c.source_id.in_(ids)
    counts = {
        "extractions": await _lock(connection, extractions, made),
        "entities": await _count_entities(connection, made),
        "records": await _lock(connection, records, records.c.source_id.in_(ids)),
    }
    deleted = await connection.execute(sa.delete(sources).where(sources.c.id.in_(ids)))
    await _record(connection, target.receipt_id, "sources", {"sources": deleted.rowcount, **counts})
    return int(chosen[-1].seq)


def _bounded(found: Sequence[sa.Row[Any]]) -> list[sa.Row[Any]]:
    """The first sources that together have no more than `MAX_EXTRACTIONS`, and one in any case."""
    chosen: list[sa.Row[Any]] = []
    weight = 0
    for record in found:
        weight += record.weight
        if chosen and weight > MAX_EXTRACTIONS:
            break
        chosen.append(record)
    return chosen


async def delete_made_batch(connection: AsyncConnection, target: CleanupTarget, after: int) -> int | None:
    """Deletes the next extractions that a job made of other jobs' sources, with their entities, and records the batch.

    Returns:
        The `seq` of the last extraction deleted, or None when there was none.
    """
    await lock_receipt(connection, target.receipt_id)
    found = await made_ids(connection, target, after, MAX_EXTRACTIONS)
    if not found:
        return None
    these = extractions.c.id.in_([extraction for _, extraction, _ in found])
    await _lock(connection, extractions, these)
    counts = {"entities": await _count_entities(connection, these)}
    deleted = await connection.execute(sa.delete(extractions).where(these))
    await _record(connection, target.receipt_id, "extractions", {"extractions": deleted.rowcount, **counts})
    return found[-1][0]


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
    statement = sa.select(sa.func.count()).select_from(entities.join(extractions)).where(which)
    return int((await connection.execute(statement)).scalar_one())


async def _record(connection: AsyncConnection, cleanup_id: str, store: str, counts: dict[str, int]) -> None:
    number = await next_number(connection, cleanup_id, store)
    await connection.execute(
        sa.insert(cleanup_batches).values(cleanup_id=cleanup_id, store=store, number=number, counts=counts, done=True)
    )
