"""The shards of a collect lane: who works on which hosts, and what each has reserved of the job's limits.

A lane is whole, with one slice at a time, or split into shards of hosts, with one slice of each at a time. The
transactions of its slices are one after the other, whole or not: so claims, limits, duplicates and counters need no
more rules, and what shards do side by side is to wait for the web and the processors.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import WorkLost
from ke.contracts.jobs import Counters, Lane
from ke.storage.jobs import LaneProgress, add_progress, hold_lease, take_lease
from ke.storage.tables import collect_shards, job_progress, pages

_POSITIVE: Final[sa.ColumnElement[int]] = sa.literal_column("9223372036854775807")


@dataclass(frozen=True, slots=True)
class Shard:
    """The hosts whose hash, modulo `of`, is `number`; each host is in exactly one shard."""

    number: int = 0
    of: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole lane."""
        return self.of == 1

    def has(self, host: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        """The condition that a `host:port` is in this shard."""
        if self.is_whole:
            return sa.true()
        # What Postgres divides tables by: the same for as long as there is the database, upgrades included.
        return sa.func.hashtextextended(host, 0).op("&")(_POSITIVE) % self.of == self.number


WHOLE: Final = Shard()


@dataclass(frozen=True, slots=True)
class Held:
    """What is under way, and counts against the limits as if it had succeeded."""

    pages: int = 0
    bytes: int = 0
    out_of_bytes: bool = False
    """Whether a page did not fit into what was left of the bytes, which ends the crawl."""


async def queue_up(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard) -> None:
    """Keeps other shards of the lane from their transactions until this one ends; before any other lock.

    Those that wait must not hold the job's row meanwhile: one after the other they would share it for ever, and nobody
    could cancel the job.
    """
    if not shard.is_whole:
        key = sa.func.hashtextextended(f"{Lane.COLLECT} {job_id}", 0)
        await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


async def take_shard(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard, lease: uuid.UUID) -> LaneProgress:
    """Makes a slice the one that works on its shard; every other one of it, and of another split, is refused from now.

    Call it after `queue_up` and `hold_fence`.

    Returns:
        How far the lane is; its note is what the shard's slice before this one has told that it waits for.

    Raises:
        Stopping: The job is being cancelled.
    """
    # Kept for a whole lane; of a split one the row is only locked, and nobody has this lease.
    progress = await take_lease(connection, job_id, Lane.COLLECT, lease if shard.is_whole else uuid.uuid4())
    others = sa.delete(collect_shards).where(collect_shards.c.job_id == job_id)
    if shard.is_whole:
        await connection.execute(others)
        return progress
    await connection.execute(others.where(collect_shards.c.shards != shard.of))
    fresh = {"lease": lease, "pages_held": 0, "bytes_held": 0, "out_of_bytes": False}
    statement = insert(collect_shards).values(job_id=job_id, shard=shard.number, shards=shard.of, **fresh)
    taken = statement.on_conflict_do_update(index_elements=["job_id", "shard"], set_=fresh)
    note = (await connection.execute(taken.returning(collect_shards.c.note))).scalar_one()
    await _tell(connection, job_id)
    return replace(progress, note=str(note))


async def hold_shard(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard, lease: uuid.UUID) -> None:
    """Makes sure, until the transaction ends, that this slice is the one that works on its shard.

    Call it after `queue_up` and `hold_fence`, so that locks are always taken in one order.

    Raises:
        WorkLost: Another attempt has taken the shard over, or the lane is split in another way.
    """
    if shard.is_whole:
        await hold_lease(connection, job_id, Lane.COLLECT, lease)
        return
    # As every slice of a whole lane does, which may take this one over at any moment.
    lane = (job_progress.c.job_id == job_id) & (job_progress.c.lane == Lane.COLLECT.value)
    await connection.execute(sa.select(sa.literal(1)).select_from(job_progress).where(lane).with_for_update())
    found = sa.select(collect_shards.c.lease).where(
        collect_shards.c.job_id == job_id,
        collect_shards.c.shard == shard.number,
        collect_shards.c.shards == shard.of,
    )
    if (await connection.execute(found)).scalar_one_or_none() != lease:
        raise WorkLost("Another attempt has taken this slice over.")


async def held_by_others(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard) -> Held:
    """What all other shards have under way. It stays so until the transaction ends, in the queue's order."""
    statement = sa.select(
        sa.func.coalesce(sa.func.sum(collect_shards.c.pages_held), 0),
        sa.func.coalesce(sa.func.sum(collect_shards.c.bytes_held), 0),
        sa.func.coalesce(sa.func.bool_or(collect_shards.c.out_of_bytes), sa.false()),
    ).where(collect_shards.c.job_id == job_id, collect_shards.c.shard != shard.number)
    n_pages, n_bytes, out_of_bytes = (await connection.execute(statement)).one()
    return Held(int(n_pages), int(n_bytes), bool(out_of_bytes))


async def hold_pages(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard, held: Held) -> None:
    """Writes down what a shard has under way from now on, in the transaction that changes that."""
    statement = sa.update(collect_shards).where(
        collect_shards.c.job_id == job_id, collect_shards.c.shard == shard.number
    )
    await connection.execute(
        statement.values(pages_held=held.pages, bytes_held=held.bytes, out_of_bytes=held.out_of_bytes)
    )


async def write_note(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard, note: str) -> None:
    """Says what a slice waits for; the lane's note is what all of its shards say."""
    if shard.is_whole:
        await add_progress(connection, job_id, Lane.COLLECT, Counters(), note=note)
        return
    mine = (collect_shards.c.job_id == job_id) & (collect_shards.c.shard == shard.number)
    await connection.execute(sa.update(collect_shards).where(mine).values(note=note))
    await _tell(connection, job_id)


async def _tell(connection: AsyncConnection, job_id: uuid.UUID) -> None:
    told = (
        sa.select(collect_shards.c.note)
        .where(collect_shards.c.job_id == job_id, collect_shards.c.note != "")
        .order_by(collect_shards.c.shard)
    )
    notes = (await connection.execute(told)).scalars()
    await add_progress(connection, job_id, Lane.COLLECT, Counters(), note="; ".join(notes))


async def is_spread(connection: AsyncConnection, job_id: uuid.UUID, seeds: Sequence[uuid.UUID]) -> bool:
    """Whether a lane is worth splitting: pages of several hosts are to be fetched, and each of the seeds was tried.

    A seed may move to another host, which its links then lead to: all shards are to know of that from the start.
    """
    mine = (pages.c.job_id == job_id) & (pages.c.state == "pending")
    first, last = (sa.select(end(pages.c.host)).where(mine).scalar_subquery() for end in (sa.func.min, sa.func.max))
    untried = sa.exists().where(
        pages.c.id.in_(seeds), pages.c.state.in_(["pending", "fetching"]), pages.c.attempts == 0
    )
    return bool((await connection.execute(sa.select((first != last) & ~untried))).scalar_one())
