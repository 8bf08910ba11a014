"""Which other pages have documents that a cleanup deletes: duplicates, and what re-crawls found as it was."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import RelyingPages
from ke.contracts.ids import page_id
from ke.contracts.jobs import Artifacts
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.tables import jobs, pages, sources

MAX_NAMED: Final = 10
"""Jobs that a receipt names."""
MAX_PAGES_NAMED: Final = 20
"""Pages that the plan for one source names."""


@dataclass(frozen=True, slots=True)
class OtherPage:
    """A page whose document was stored for another one."""

    url: str
    job_id: uuid.UUID
    state: str


@dataclass(frozen=True, slots=True)
class OtherPages:
    """The pages whose document is one that was stored for another page."""

    pages: int = 0
    first: Sequence[OtherPage] = ()
    """At most `MAX_PAGES_NAMED`, those of the newest job first."""


async def relying_on(connection: AsyncConnection, target: CleanupTarget) -> RelyingPages:
    """The pages of other jobs whose document is one of a job, or this one source."""
    return await _relying(connection, target.sources, pages.c.job_id != target.job_id)


async def relying_on_project(connection: AsyncConnection, project: str) -> RelyingPages:
    """The pages of jobs of other projects whose document is one of this project."""
    its = sa.select(jobs.c.id).where(jobs.c.project == project).correlate(None)
    return await _relying(connection, sources.c.job_id.in_(its), jobs.c.project != project)


async def other_pages(connection: AsyncConnection, target: CleanupTarget) -> OtherPages:
    """The pages, of whichever job, whose document is a source, but for the one that it was stored for.

    That is the page of its own job that was fetched, and the one with its very URL, where a redirect had led to it
    before. Pages that are gone do not count.
    """
    its_url = (await connection.execute(sa.select(sources.c.url).where(target.sources))).scalar_one_or_none()
    if its_url is None:
        return OtherPages()
    is_its_own = (pages.c.job_id == target.job_id) & (pages.c.state == "fetched")
    statement = (
        sa.select(pages.c.url, pages.c.job_id, pages.c.state, sa.func.count().over().label("pages"))
        .select_from(pages.join(jobs, jobs.c.id == pages.c.job_id))
        .where(pages.c.source_id == target.source_id, pages.c.state != "gone")
        .where(jobs.c.artifacts == Artifacts.PRESENT.value, jobs.c.deleted_at.is_(None))
        .where(~is_its_own, pages.c.id != page_id(target.job_id, its_url))
        .order_by(jobs.c.seq.desc(), pages.c.seq)
        .limit(MAX_PAGES_NAMED)
    )
    rows = (await connection.execute(statement)).all()
    first = [OtherPage(row.url, row.job_id, row.state) for row in rows]
    return OtherPages(rows[0].pages if rows else 0, first)


async def _relying(
    connection: AsyncConnection, documents: sa.ColumnElement[bool], elsewhere: sa.ColumnElement[bool]
) -> RelyingPages:
    """Pages that are gone do not count: they have no use for the document that they had."""
    statement = (
        sa.select(jobs.c.id, sa.func.count().label("pages"))
        .select_from(pages.join(sources, sources.c.id == pages.c.source_id).join(jobs, jobs.c.id == pages.c.job_id))
        .where(documents, elsewhere, pages.c.source_id.is_not(None), pages.c.state != "gone")
        .where(jobs.c.artifacts == Artifacts.PRESENT.value, jobs.c.deleted_at.is_(None))
        .group_by(jobs.c.id)
        .order_by(jobs.c.seq)
    )
    found = (await connection.execute(statement)).all()
    named = tuple(str(record.id) for record in found[:MAX_NAMED])
    return RelyingPages(sum(record.pages for record in found), len(found), named)


def relying_of(planned: Mapping[str, Any]) -> RelyingPages:
    """What the plan of a cleanup has written down of them."""
    stored = planned.get(RELYING, {})
    return RelyingPages(**{**stored, "job_ids": tuple(stored.get("job_ids", ()))})


RELYING: Final = "relying"
"""The member of a plan, beside the count of each store, that tells them."""
