"""The `pages` table as a crawl's frontier: what is to be fetched, and who is fetching it."""

import asyncio
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import page_id
from ke.storage.arrays import among
from ke.storage.collect_shards import WHOLE, Shard
from ke.storage.host_turns import HostTurns, hosts_with_room
from ke.storage.tables import pages

_OPEN: Final = ("pending", "fetching")
_ANY: Final[sa.ColumnElement[bool]] = sa.true()

HAD_CONTENT: Final = ("fetched", "duplicate", "unchanged")
"""States of a page that was there."""
NO_MORE: Final = frozenset({404, 410})
"""The statuses by which a server says that a page is not there (RFC 9110, 15.5.5 and 15.5.11)."""
PIECE: Final = 2_000
"""URLs in one statement, at most: their ids are computed on the event loop, which nobody else has meanwhile."""
SKIP_BATCH: Final = 10_000
"""Pages that one transaction skips, at most: a second or less, far below the statement timeout."""


@dataclass(frozen=True, slots=True)
class EarlierPage:
    """What an earlier job knows of a page that is crawled again."""

    state: str
    http_status: int | None
    depth: int
    url: str
    """Where its content came from, after redirects."""
    content_type: str | None
    content_hash: bytes | None
    etag: str | None
    last_modified: str | None
    source_id: uuid.UUID | None
    """The document that has its content, as long as it is there."""
    source_url: str | None = None
    """Where that was found."""


@dataclass(frozen=True, slots=True)
class FrontierEntry:
    """A claimed page."""

    id: uuid.UUID
    url: str
    depth: int
    attempts: int
    """Failed attempts so far."""
    host: str = ""
    """`host:port`."""
    earlier: EarlierPage | None = None
    """What there was, where an earlier job is crawled again."""


@dataclass(frozen=True, slots=True)
class FrontierState:
    """What is left of a frontier."""

    due: int
    """Pages that may be fetched now."""
    waiting: int
    """Pages that are tried again later."""
    next_at: datetime | None
    """When the first of the waiting ones is due."""
    elsewhere: int = 0
    """Pages of other shards that are not done, claimed ones included."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left, for nobody."""
        return self.due == self.waiting == self.elsewhere == 0


Link: TypeAlias = tuple[str, int, uuid.UUID | None]
"""A canonical URL, its depth, and the page that it was found on; None: on none."""


async def add_pages(connection: AsyncConnection, job_id: uuid.UUID, urls: Iterable[tuple[str, int]]) -> None:
    """Adds canonical URLs that are on no page, as seeds and those of sitemaps, with their depths."""
    await add_links(connection, job_id, ((url, depth, None) for url, depth in urls))


async def add_links(connection: AsyncConnection, job_id: uuid.UUID, links: Iterable[Link]) -> None:
    """Adds links; URLs that are there already stay as they are, and so does the first page that they were found on."""
    left = iter(links)
    while piece := list(islice(left, PIECE)):
        found = [url for url, _, _ in piece]
        values = {
            "ids": [page_id(job_id, url) for url in found],
            "urls": found,
            "hosts": [host_of(url) for url in found],
            "depths": [depth for _, depth, _ in piece],
            "origins": [origin for _, _, origin in piece],
        }
        await asyncio.sleep(0)
        await connection.execute(_ADD_PAGES, {"job": job_id, **values})


async def page_urls(connection: AsyncConnection, page_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, str]:
    """The URLs of the pages with these ids, of whichever jobs, as long as they are there."""
    found = await connection.execute(sa.select(pages.c.id, pages.c.url).where(among(pages.c.id, page_ids)))
    return {record.id: record.url for record in found}


def host_of(url: str) -> str:
    """The `host:port` of a canonical URL, default port included, without parsing it once more."""
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0]
    if host.rpartition(":")[2].isdigit():
        return host
    return f"{host}:{443 if scheme == 'https' else 80}"


def _add_pages() -> sa.Executable:
    """One statement with an array for each column: the same rows one by one take twice as long."""
    incoming = (
        sa.func.unnest(
            sa.bindparam("ids", type_=ARRAY(pages.c.id.type)),
            sa.bindparam("urls", type_=ARRAY(sa.Text)),
            sa.bindparam("hosts", type_=ARRAY(sa.Text)),
            sa.bindparam("depths", type_=ARRAY(sa.Integer)),
            sa.bindparam("origins", type_=ARRAY(pages.c.found_on.type)),
        )
        .table_valued("id", "url", "host", "depth", "found_on", with_ordinality="number")
        .render_derived()
    )
    job = sa.bindparam("job", type_=pages.c.job_id.type)
    names = ("url", "host", "depth", "found_on")
    rows = sa.select(incoming.c.id, job, *(incoming.c[name] for name in names)).order_by(incoming.c.number)
    return insert(pages).from_select(["id", "job_id", *names], rows).on_conflict_do_nothing()


_ADD_PAGES: Final = _add_pages()


async def claim_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    claim: uuid.UUID,
    *,
    limit: int,
    room: Callable[[str], int] | None = None,
    turns: HostTurns | None = None,
    only: sa.ColumnElement[bool] = _ANY,
    shard: Shard = WHOLE,
) -> list[FrontierEntry]:
    """Takes due pages out of the frontier for the holder of `claim`, host by host in turn, breadth first in each.

    So a host that is slow, or asks for long pauses, holds up no other one.

    Args:
        connection: The transaction.
        job_id: The job.
        claim: Of the slice that fetches them.
        limit: Pages at most.
        room: How many pages of a `host:port` there is room for; `limit` for each when it is not given.
        turns: Kept by the caller from claim to claim, where there may be very many hosts.
        only: Only pages that fit this.
        shard: Only pages of its hosts.
    """
    turns = turns or HostTurns()
    rooms = await hosts_with_room(connection, job_id, turns, room or (lambda _: limit), shard)
    if not rooms:
        return []
    values = {"job": job_id, "hosts": list(rooms), "rooms": list(rooms.values()), "most": limit, "holder": claim}
    statement = _CLAIM if only is _ANY else _claim(only)
    found = sorted(await connection.execute(statement, values), key=lambda record: (record.depth, record.seq))
    if len(found) < min(limit, sum(rooms.values())):
        turns.forget()
    return [FrontierEntry(r.id, r.url, r.depth, r.attempts, r.host) for r in found]


def _claim(only: sa.ColumnElement[bool]) -> sa.Executable:
    return (
        sa.update(pages)
        .where(pages.c.id.in_(sa.select(_due(only).c.id)), pages.c.state == "pending")
        .values(state="fetching", claim=sa.bindparam("holder", type_=pages.c.claim.type))
        .returning(*(pages.c[name] for name in ("id", "url", "depth", "attempts", "host", "seq")))
    )


def _due(only: sa.ColumnElement[bool]) -> sa.CTE:
    """The due pages of the hosts in `:hosts`, of each as many as in `:rooms`: first the first of each, and so on."""
    hosts = (
        sa.func.unnest(
            sa.bindparam("hosts", type_=ARRAY(sa.Text), unique=False),
            sa.bindparam("rooms", type_=ARRAY(sa.Integer), unique=False),
        )
        .table_valued("host", "room")
        .render_derived("hosts")
    )
    first = (
        sa.select(pages.c.id, pages.c.depth, pages.c.seq)
        .where(
            pages.c.job_id == sa.bindparam("job", type_=pages.c.job_id.type),
            pages.c.host == hosts.c.host,
            pages.c.state == "pending",
            sa.or_(pages.c.not_before.is_(None), pages.c.not_before <= sa.func.clock_timestamp()),
            only,
        )
        .order_by(pages.c.depth, pages.c.seq)
        .limit(hosts.c.room)
        .correlate(hosts)
        .lateral("first")
    )
    turn = sa.func.row_number().over(partition_by=hosts.c.host, order_by=(first.c.depth, first.c.seq)).label("turn")
    ranked = (
        sa.select(first.c.id, first.c.depth, first.c.seq, turn).join_from(hosts, first, sa.true()).subquery("ranked")
    )
    return (
        sa.select(ranked.c.id)
        .order_by(ranked.c.turn, ranked.c.depth, ranked.c.seq)
        .limit(sa.bindparam("most", type_=sa.Integer))
        .cte("due")
    )


_CLAIM: Final = _claim(_ANY)


async def moved_seeds(connection: AsyncConnection, job_id: uuid.UUID, seeds: Sequence[str]) -> Sequence[str]:
    """Where those of the seeds led that a job has found to be moved: their hosts are in its reach."""
    statement = sa.select(pages.c.final_url).where(
        pages.c.id.in_([page_id(job_id, url) for url in seeds]),
        pages.c.depth == 0,
        pages.c.final_url.is_not(None),
        pages.c.state.in_(HAD_CONTENT),
    )
    return (await connection.execute(statement)).scalars().all()


async def release_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    *,
    claim: uuid.UUID | None = None,
    ids: Sequence[uuid.UUID] = (),
    shard: Shard = WHOLE,
) -> None:
    """Gives claimed pages back: those of one holder, or all that a dead one left of a shard's hosts."""
    statement = sa.update(pages).where(pages.c.job_id == job_id, pages.c.state == "fetching", shard.has(pages.c.host))
    if claim is not None:
        statement = statement.where(pages.c.claim == claim, pages.c.id.in_(ids))
    await connection.execute(statement.values(state="pending", claim=None))


async def frontier_state(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard = WHOLE) -> FrontierState:
    """What is left to fetch of a shard's hosts, claimed pages aside, and of all others."""
    later = pages.c.not_before > sa.func.clock_timestamp()
    mine = shard.has(pages.c.host) & (pages.c.state == "pending")
    statement = sa.select(
        sa.func.count().filter(mine, sa.or_(pages.c.not_before.is_(None), ~later)),
        sa.func.count().filter(mine, later),
        sa.func.min(pages.c.not_before).filter(mine, later),
        sa.func.count().filter(~shard.has(pages.c.host)),
    ).where(pages.c.job_id == job_id, pages.c.state.in_(["pending"] if shard.is_whole else _OPEN))
    due, waiting, next_at, elsewhere = (await connection.execute(statement)).one()
    return FrontierState(due, waiting, next_at, elsewhere)


async def next_reason(connection: AsyncConnection, job_id: uuid.UUID, shard: Shard = WHOLE) -> str | None:
    """Why the page of a shard's hosts that is tried again next has failed."""
    statement = (
        sa.select(pages.c.reason)
        .where(
            pages.c.job_id == job_id,
            pages.c.state == "pending",
            pages.c.not_before.is_not(None),
            shard.has(pages.c.host),
        )
        .order_by(pages.c.not_before)
        .limit(1)
    )
    return (await connection.execute(statement)).scalar_one_or_none()


async def skip_open_pages(
    connection: AsyncConnection, job_id: uuid.UUID, reason: str, *, limit: int = SKIP_BATCH
) -> int:
    """Marks the next pages that were not fetched as skipped, at most `limit`.

    Called until it returns less than `limit`, each time in a transaction of its own that holds the job's row, so that
    nobody claims or skips pages at the same time.

    Returns:
        How many it marked.
    """
    return (await connection.execute(_SKIP, {"job": job_id, "why": reason, "most": limit})).rowcount


def _skip() -> sa.Executable:
    # In the order of the partial index, so that a batch need not sort all that is left.
    some = (
        sa.select(pages.c.id)
        .where(pages.c.job_id == sa.bindparam("job"), pages.c.state.in_(_OPEN))
        .order_by(pages.c.host, pages.c.depth, pages.c.seq)
        .limit(sa.bindparam("most", type_=sa.Integer))
    )
    return (
        sa.update(pages)
        .where(pages.c.id.in_(some.scalar_subquery()), pages.c.state.in_(_OPEN))
        .values(state="skipped", reason=sa.bindparam("why"), claim=None)
    )


_SKIP: Final = _skip()
