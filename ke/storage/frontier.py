"""The `pages` table as a crawl's frontier: what is to be fetched, and who is fetching it."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import page_id
from ke.storage.tables import pages

_OPEN: Final = ("pending", "fetching")
_ANY: Final[sa.ColumnElement[bool]] = sa.true()

PIECE: Final = 2_000
"""URLs in one statement, at most: their ids are computed on the event loop, which nobody else has meanwhile."""
SKIP_BATCH: Final = 10_000
"""Pages that one transaction skips, at most: a second or less, far below the statement timeout."""


@dataclass(frozen=True, slots=True)
class FrontierEntry:
    """A claimed page."""

    id: uuid.UUID
    url: str
    depth: int
    attempts: int
    """Failed attempts so far."""


@dataclass(frozen=True, slots=True)
class FrontierState:
    """What is left of a frontier."""

    due: int
    """Pages that may be fetched now."""
    waiting: int
    """Pages that are tried again later."""
    next_at: datetime | None
    """When the first of the waiting ones is due."""


async def add_pages(connection: AsyncConnection, job_id: uuid.UUID, urls: Iterable[tuple[str, int]]) -> None:
    """Adds canonical URLs with their depths; those that are there already stay as they are."""
    left = iter(urls)
    while piece := list(islice(left, PIECE)):
        found = [url for url, _ in piece]
        values = {
            "ids": [page_id(job_id, url) for url in found],
            "urls": found,
            "depths": [depth for _, depth in piece],
        }
        await asyncio.sleep(0)
        await connection.execute(_ADD_PAGES, {"job": job_id, **values})


def _add_pages() -> sa.Executable:
    """One statement with three arrays: the same rows one by one take twice as long."""
    incoming = (
        sa.func.unnest(
            sa.bindparam("ids", type_=ARRAY(pages.c.id.type)),
            sa.bindparam("urls", type_=ARRAY(sa.Text)),
            sa.bindparam("depths", type_=ARRAY(sa.Integer)),
        )
        .table_valued("id", "url", "depth", with_ordinality="number")
        .render_derived()
    )
    job = sa.bindparam("job", type_=pages.c.job_id.type)
    rows = sa.select(incoming.c.id, job, incoming.c.url, incoming.c.depth).order_by(incoming.c.number)
    return insert(pages).from_select(["id", "job_id", "url", "depth"], rows).on_conflict_do_nothing()


_ADD_PAGES: Final = _add_pages()


async def claim_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    claim: uuid.UUID,
    *,
    limit: int,
    only: sa.ColumnElement[bool] = _ANY,
) -> list[FrontierEntry]:
    """Takes due pages out of the frontier, breadth first, for the holder of `claim`; with `only` those that fit it."""
    due = (
        sa.select(pages.c.id)
        .where(
            pages.c.job_id == job_id,
            pages.c.state == "pending",
            sa.or_(pages.c.not_before.is_(None), pages.c.not_before <= sa.func.clock_timestamp()),
            only,
        )
        .order_by(pages.c.depth, pages.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    statement = (
        sa.update(pages)
        .where(pages.c.id.in_(due.scalar_subquery()))
        .values(state="fetching", claim=claim)
        .returning(pages.c.id, pages.c.url, pages.c.depth, pages.c.attempts, pages.c.seq)
    )
    found = sorted(await connection.execute(statement), key=lambda record: (record.depth, record.seq))
    return [FrontierEntry(record.id, record.url, record.depth, record.attempts) for record in found]


async def release_pages(
    connection: AsyncConnection, job_id: uuid.UUID, *, claim: uuid.UUID | None = None, ids: Sequence[uuid.UUID] = ()
) -> None:
    """Gives claimed pages back: those of one holder, or all that a dead one left."""
    statement = sa.update(pages).where(pages.c.job_id == job_id, pages.c.state == "fetching")
    if claim is not None:
        statement = statement.where(pages.c.claim == claim, pages.c.id.in_(ids))
    await connection.execute(statement.values(state="pending", claim=None))


async def frontier_state(connection: AsyncConnection, job_id: uuid.UUID) -> FrontierState:
    """What is left to fetch, claimed pages aside."""
    waiting = pages.c.not_before > sa.func.clock_timestamp()
    statement = sa.select(
        sa.func.count().filter(sa.or_(pages.c.not_before.is_(None), ~waiting)),
        sa.func.count().filter(waiting),
        sa.func.min(pages.c.not_before).filter(waiting),
    ).where(pages.c.job_id == job_id, pages.c.state == "pending")
    due, later, next_at = (await connection.execute(statement)).one()
    return FrontierState(due, later, next_at)


async def next_reason(connection: AsyncConnection, job_id: uuid.UUID) -> str | None:
    """Why the page that is tried again next has failed."""
    statement = (
        sa.select(pages.c.reason)
        .where(pages.c.job_id == job_id, pages.c.state == "pending", pages.c.not_before.is_not(None))
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
    # In the order of the partial index, so that a batch need not sort all that is left.
    some = (
        sa.select(pages.c.id)
        .where(pages.c.job_id == job_id, pages.c.state.in_(_OPEN))
        .order_by(pages.c.depth, pages.c.seq)
        .limit(limit)
    )
    statement = (
        sa.update(pages)
        .where(pages.c.id.in_(some.scalar_subquery()), pages.c.state.in_(_OPEN))
        .values(state="skipped", reason=reason, claim=None)
    )
    return (await connection.execute(statement)).rowcount
