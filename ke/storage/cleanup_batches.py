"""Batches of points: claimed, counted, deleted, done, so that no crash and no second deleter changes a number.

A batch is claimed by its ids: while it is open no other batch holds any of them, of whichever cleanup. It is counted
once, after it was claimed, and nothing is deleted before its count is committed. So the count is of what was there,
and whoever finds an open batch (the next attempt, an attempt that was thought dead, the cleanup of another job
that shares the points) may finish it: deleting again changes nothing.
"""

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.arrays import among
from ke.storage.tables import cleanup_batches, cleanups

_STORE: Final = "vectors"
_CLAIM_LOCK: Final = 0x6B66
"""An advisory lock: claims are made one at a time, each in a transaction of a few statements."""
Piece = tuple[str, Sequence[uuid.UUID]]
"""A collection, and ids of points in it: a batch to be."""


@dataclass(frozen=True, slots=True)
class PointBatch:
    """An open batch."""

    cleanup_id: str
    number: int
    collection: str
    ids: Sequence[uuid.UUID]
    counted: bool = False
    """Whether it had its count when it was looked at."""


def _open_batches() -> sa.Select[Any]:
    return (
        sa.select(
            cleanup_batches.c.cleanup_id,
            cleanup_batches.c.number,
            cleanup_batches.c.collection,
            cleanup_batches.c.ids,
            cleanup_batches.c.counts.has_key(_STORE).label("counted"),
        )
        .where(cleanup_batches.c.store == _STORE, ~cleanup_batches.c.done)
        .order_by(cleanup_batches.c.cleanup_id, cleanup_batches.c.number)
    )


def _batch(record: sa.Row[Any]) -> PointBatch:
    return PointBatch(record.cleanup_id, record.number, record.collection, record.ids, record.counted)


def _these(cleanup_id: str, numbers: Iterable[int]) -> sa.ColumnElement[bool]:
    return (
        (cleanup_batches.c.cleanup_id == cleanup_id)
        & (cleanup_batches.c.store == _STORE)
        & among(cleanup_batches.c.number, numbers)
    )


def _integers(values: Iterable[int]) -> sa.ColumnElement[Any]:
    return sa.bindparam(None, list(values), type_=ARRAY(sa.Integer))


async def open_batches(connection: AsyncConnection, cleanup_id: str) -> list[PointBatch]:
    """What an earlier attempt of this cleanup claimed and did not finish."""
    statement = _open_batches().where(cleanup_batches.c.cleanup_id == cleanup_id)
    return [_batch(record) for record in await connection.execute(statement)]


async def claim_points(
    connection: AsyncConnection, cleanup_id: str, pieces: Sequence[Piece], *, under_way: Collection[int] = ()
) -> tuple[list[PointBatch], list[PointBatch]]:
    """Claims points for new batches, unless open batches hold some of them.

    Args:
        connection: The transaction.
        cleanup_id: The cleanup.
        pieces: The points, by batch.
        under_way: Numbers of this cleanup's open batches that have none of these points, as the caller knows.

    Returns:
        The batches, one for each piece; or none, and those that are in the way, to be finished first.
    """
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    mine = (cleanup_batches.c.cleanup_id == cleanup_id) & among(cleanup_batches.c.number, under_way)
    others = await _holding(connection, [point for _, ids in pieces for point in ids], but=mine)
    if others:
        return [], others
    first = await next_number(connection, cleanup_id, _STORE)
    batches = [PointBatch(cleanup_id, first + place, *piece) for place, piece in enumerate(pieces)]
    await connection.execute(
        sa.insert(cleanup_batches),
        [
            {
                "cleanup_id": cleanup_id,
                "store": _STORE,
                "number": batch.number,
                "collection": batch.collection,
                "ids": list(batch.ids),
            }
            for batch in batches
        ],
    )
    return batches, []


async def _holding(
    connection: AsyncConnection, ids: Sequence[uuid.UUID], *, but: sa.ColumnElement[bool] | None = None
) -> list[PointBatch]:
    """The open batches that hold some of these points."""
    # Compared here, by their hashes: Postgres's operator for arrays with something in common compares each with each.
    wanted = set(ids)
    others = _open_batches() if but is None else _open_batches().where(~but)
    found = [_batch(record) for record in await connection.execute(others)]
    return [batch for batch in found if not wanted.isdisjoint(batch.ids)]


async def unclaimed(connection: AsyncConnection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
    """Those of these points that no open batch holds; none of them can be claimed until the transaction ends."""
    if not ids:
        return []
    await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CLAIM_LOCK)))
    held = {point for batch in await _holding(connection, ids) for point in batch.ids}
    return [point for point in ids if point not in held]


async def next_number(connection: AsyncConnection, cleanup_id: str, store: str) -> int:
    """The number of a cleanup's next batch in a store; the caller holds a lock that makes it his."""
    statement = sa.select(sa.func.coalesce(sa.func.max(cleanup_batches.c.number), 0) + 1).where(
        cleanup_batches.c.cleanup_id == cleanup_id, cleanup_batches.c.store == store
    )
    return int((await connection.execute(statement)).scalar_one())


async def record_counts(connection: AsyncConnection, counts: Sequence[tuple[PointBatch, int]]) -> None:
    """Writes how many of each batch's points there are, unless that was written already: the first count stands."""
    for cleanup_id in sorted({batch.cleanup_id for batch, _ in counts}):
        found = {batch.number: count for batch, count in counts if batch.cleanup_id == cleanup_id}
        given = sa.func.unnest(_integers(found), _integers(found.values())).table_valued("number", "count")
        given = given.render_derived()
        statement = (
            sa.update(cleanup_batches)
            .where(_these(cleanup_id, found), cleanup_batches.c.number == given.c.number)
            .where(~cleanup_batches.c.counts.has_key(_STORE))
            .values(counts=sa.func.jsonb_build_object(sa.cast(_STORE, sa.Text), given.c.count))
        )
        await connection.execute(statement)


async def finish_points(connection: AsyncConnection, batches: Sequence[PointBatch]) -> None:
    """Marks batches as done and forgets their ids, which nothing needs any more."""
    for cleanup_id in sorted({batch.cleanup_id for batch in batches}):
        numbers = [batch.number for batch in batches if batch.cleanup_id == cleanup_id]
        statement = sa.update(cleanup_batches).where(_these(cleanup_id, numbers), ~cleanup_batches.c.done)
        await connection.execute(statement.values(done=True, ids=[]))


async def lock_receipt(connection: AsyncConnection, cleanup_id: str) -> None:
    """Keeps every other attempt of this cleanup from deleting rows until the transaction ends.

    It may claim points meanwhile, whose batches refer to the receipt.
    """
    held = sa.select(cleanups.c.id).where(cleanups.c.id == cleanup_id)
    await connection.execute(held.with_for_update(key_share=True))
