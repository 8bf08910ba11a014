"""The `pages` table as a crawl's frontier: what is to be fetched, and who is fetching it."""

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import page_id
from ke.storage.tables import pages

_OPEN: Final = ("pending", "fetching")


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
    values = [{"id": page_id(job_id, url), "job_id": job_id, "url": url, "depth": depth} for url, depth in urls]
    if values:
        await connection.execute(insert(pages).on_conflict_do_nothing(), values)


async def claim_pages(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, *, limit: int
) -> list[FrontierEntry]:
    """Takes due pages out of the frontier, breadth first, for the holder of `claim`."""
    due = (
        sa.select(pages.c.id)
        .where(
            pages.c.job_id == job_id,
            pages.c.state == "pending",
            sa.or_(pages.c.not_before.is_(None), pages.c.not_before <= sa.func.clock_timestamp()),
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


async def skip_open_pages(connection: AsyncConnection, job_id: uuid.UUID, reason: str) -> int:
    """Marks all that was not fetched as skipped; returns how many."""
    statement = (
        sa.update(pages)
        .where(pages.c.job_id == job_id, pages.c.state.in_(_OPEN))
        .values(state="skipped", reason=reason, claim=None)
    )
    return (await connection.execute(statement)).rowcount
