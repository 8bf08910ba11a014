"""The collect lane's writes in short transactions, however many links a batch has and however much is left at the end.

Where there are very many, most of them go before the pages that they are on, in transactions of their own: a crash in
between repeats them, and what is in the frontier already stays as it is.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Counters, Lane
from ke.storage.collect_shards import WHOLE, Held, Shard, hold_pages, hold_shard, queue_up
from ke.storage.collecting import PageOutcome, write_pages
from ke.storage.database import Database
from ke.storage.frontier import PIECE, SKIP_BATCH, Link, add_links, skip_open_pages
from ke.storage.jobs import add_progress, hold_fence

_NOTHING: Final = Held()


async def _nothing_more(_connection: AsyncConnection, _totals: Counters) -> None:
    """What goes with a batch when nothing else does."""


async def write_batch(
    database: Database,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    batch: Sequence[PageOutcome],
    *,
    extract: bool,
    is_recrawl: bool = False,
    progress: Callable[[], None] = lambda: None,
    shard: Shard = WHOLE,
    held: Held = _NOTHING,
    end: Callable[[Counters], str | None] = lambda _: None,
    then: Callable[[AsyncConnection, Counters], Awaitable[None]] = _nothing_more,
) -> tuple[Counters, str | None]:
    """Writes a batch, in short transactions: its links but the last `PIECE`, then the pages with the rest.

    Args:
        database: The database.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the pages were claimed.
        batch: What became of them.
        extract: Whether new sources go to the extract lane.
        is_recrawl: Whether pages may have documents of an earlier job.
        progress: Called after each transaction but the last.
        shard: The shard of the slice.
        held: What the shard has under way after this batch.
        end: Says, by the lane's totals after this batch, why the lane is at its end; None when it is not.
        then: Does more in the batch's transaction, when the lane is not at its end; it is given the totals.

    Returns:
        The lane's totals, and what `end` said where the lane is done, which is then written with the batch.

    Raises:
        Fenced: The job may not be written any more.
        WorkLost: Another slice has taken the lane, or this shard, over.
    """
    early, rest = _split_links(batch)
    for first in range(0, len(early), PIECE):
        async with database.transaction() as connection:
            await write_links(connection, job_id, epoch, claim, early[first : first + PIECE], shard=shard)
        progress()
    async with database.transaction() as connection:
        totals = await write_pages(
            connection, job_id, epoch, claim, rest, extract=extract, is_recrawl=is_recrawl, shard=shard
        )
        if not shard.is_whole:
            await hold_pages(connection, job_id, shard, held)
        note = end(totals)
        if note is None:
            await then(connection, totals)
            return totals, None
        totals, done = await skip_batch(connection, job_id, note)
        return totals, note if done else None


def _split_links(batch: Sequence[PageOutcome]) -> tuple[list[Link], list[PageOutcome]]:
    """The links to write first, and the batch with the last `PIECE` links only."""
    too_many = sum(len(o.links) for o in batch) - PIECE
    early: list[Link] = []
    rest: list[PageOutcome] = []
    for outcome in batch:
        cut = min(max(too_many - len(early), 0), len(outcome.links))
        early.extend((url, outcome.entry.depth + 1, outcome.entry.id) for url in outcome.links[:cut])
        rest.append(replace(outcome, links=outcome.links[cut:]))
    return early, rest


async def write_links(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    links: Sequence[Link],
    *,
    shard: Shard = WHOLE,
) -> None:
    """Adds links to the frontier before the pages that they are on are written.

    Raises:
        Fenced: The job may not be written any more.
        WorkLost: Another slice has taken the lane, or this shard, over.
    """
    await queue_up(connection, job_id, shard)
    await hold_fence(connection, job_id, epoch)
    await hold_shard(connection, job_id, shard, claim)
    await add_links(connection, job_id, links)


async def skip_batch(
    connection: AsyncConnection, job_id: uuid.UUID, note: str, *, limit: int = SKIP_BATCH
) -> tuple[Counters, bool]:
    """Skips the next pages of a lane that is at its end, at most `limit`, and marks the lane done after the last.

    Called until it says that the lane is done, each time in a transaction of its own that holds the lane.

    Returns:
        The lane's totals, and whether it is done.
    """
    skipped = await skip_open_pages(connection, job_id, note, limit=limit)
    delta = Counters(pages_skipped=skipped)
    if skipped >= limit:
        return await add_progress(connection, job_id, Lane.COLLECT, delta), False
    return await add_progress(connection, job_id, Lane.COLLECT, delta, done=True, note=note), True
