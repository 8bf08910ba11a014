"""Batches of points: claimed, counted, deleted, done, so that no crash and no second deleter changes a number.

A batch is claimed by its ids: while it is open no other batch holds any of them, of whichever cleanup. It is counted
once, after it was claimed, and nothing is deleted before its count is committed. So the count is of what was there,
and whoever finds an open batch (the next attempt, an attempt that was thought dead, the cleanup of another job
that shares the points) may finish it: deleting again changes nothing.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.tables import cleanup_batches, cleanups

_STORE: Final = "vectors"
_CLAIM_LOCK: Final = 0x6B66
"""An advisory lock: claims are made one at a time, each in a transaction of two statements."""


@dataclass(frozen=True, slots=True)
class PointBatch:
    """An open batch."""

    cleanup_id: str
    number: int
    collection: str
    ids: Sequence[uuid.UUID]


def _open_batches() -> sa.Select[Any]:
    return (
        sa.select(
            cleanup_batches.c.cleanup_id,
            cleanup_batches.c.number,
            cleanup_batches.c.collection,
            cleanup_batches.c.ids,
        )
        .where(cleanup_batches.c.store == _STORE, ~cleanup_batches.c.done)
        .order_by(cleanup_batches.c.cleanup_id, cleanup_batches.c.number)
    )


def _batch(record: sa.Row[Any]) -> PointBatch:
    return PointBatch(record.cleanup_id, record.number, record.collection, record.ids)


def _this(batch: PointBatch) -> sa.ColumnElement[bool]:
    return (
        (cleanup_batches.c.cleanup_id == batch.cleanup_id)
        & (cleanup_batches.c.store == _STORE)
        & (cleanup_batches.c.number == batch.number)
    )


async def open_batches(connection: AsyncConnection, cleanup_id: str) -> list[PointBatch]:
    """What an earlier attempt of this cleanup claimed and did not finish."""
    statement = _open_batches().where(cleanup_batches.c.cleanup_id == cleanup_id)
    return [_batch(record) for record in await connection.execute(statement)]


async def claim_points(
    connection: AsyncConnection, cleanup_id: str, collection: str, ids: Sequence[uuid.UUID]
) -> tuple[PointBatch | None, list[PointBatch]]:
    """Claims points for a new batch, unless open batches hold some of them.

    Returns:
        The batch; or None and the batches that are in the way, to be finished first.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    wanted = sa.cast(list(ids), ARRAY(UUID(as_uuid=True)))
    in_the_way = _open_batches().where(cleanup_batches.c.ids.overlap(wanted))
    others = [_batch(record) for record in await connection.execute(in_the_way)]
    if others:
        return None, others
    number = await next_number(connection, cleanup_id, _STORE)
    await connection.execute(
        sa.insert(cleanup_batches).values(
            cleanup_id=cleanup_id, store=_STORE, number=number, collection=collection, ids=list(ids)
        )
    )
    return PointBatch(cleanup_id, number, collection, ids), []


async def unclaimed(connection: AsyncConnection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Those of these points that no open batch holds; none of them can be claimed until the transaction ends."""
    if not ids:
        return []
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    held: set[uuid.UUID] = set()
    in_the_way = _open_batches().where(cleanup_batches.c.ids.overlap(sa.cast(list(ids), ARRAY(UUID(as_uuid=True)))))
    for record in await connection.execute(in_the_way):
        held.update(record.ids)
    return [point for point in ids if point not in held]


async def next_number(connection: AsyncConnection, cleanup_id: str, store: str) -> int:
    """The number of a cleanup's next batch in a store; the caller holds a lock that makes it his."""
    statement = sa.select(sa.func.coalesce(sa.func.max(cleanup_batches.c.number), 0) + 1).where(
        cleanup_batches.c.cleanup_id == cleanup_id, cleanup_batches.c.store == store
    )
    return int((await connection.execute(statement)).scalar_one())


async def is_counted(connection: AsyncConnection, batch: PointBatch) -> bool:
    """Whether the batch has its count; one that is done has."""
    statement = sa.select(cleanup_batches.c.counts).where(_this(batch))
    return _STORE in (await connection.execute(statement)).scalar_one()


async def record_count(connection: AsyncConnection, batch: PointBatch, count: int) -> None:
    """Writes how many of the batch's points there are, unless that was written already: the first count stands."""
    statement = sa.update(cleanup_batches).where(_this(batch), ~cleanup_batches.c.counts.has_key(_STORE))
    await connection.execute(statement.values(counts={_STORE: count}))


async def finish_points(connection: AsyncConnection, batch: PointBatch) -> None:
    """Marks the batch as done and forgets its ids, which nothing needs any more."""
    statement = sa.update(cleanup_batches).where(_this(batch), ~cleanup_batches.c.done)
    await connection.execute(statement.values(done=True, ids=[]))


async def lock_receipt(connection: AsyncConnection, cleanup_id: str) -> None:
    """Keeps every other attempt of this cleanup from deleting rows until the transaction ends."""
    await connection.execute(sa.select(cleanups.c.id).where(cleanups.c.id == cleanup_id).with_for_update())
