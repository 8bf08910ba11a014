"""What else relies on documents that a cleanup deletes: duplicates, pages of re-crawls, extractions of other jobs."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import ExtractingJob, Relying
from ke.contracts.ids import page_id
from ke.contracts.jobs import Artifacts, JobKind
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.tables import extractions, jobs, pages, sources

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


async def relying_on(connection: AsyncConnection, target: CleanupTarget) -> Relying:
    """What other jobs have of a job's documents, or of this one source."""
    relying = await _pages(connection, target.sources, pages.c.job_id != target.job_id)
    return await _with_extractions(connection, relying, target.owned)


async def relying_on_project(connection: AsyncConnection, project: str) -> Relying:
    """What jobs of other projects have of this project's documents."""
    its = sa.select(jobs.c.id).where(jobs.c.project == project).correlate(None)
    elsewhere = jobs.c.project != project
    relying = await _pages(connection, sources.c.job_id.in_(its), elsewhere)
    return await _with_extractions(connection, relying, extractions.c.owner_job_id.in_(its) & elsewhere)


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


async def _pages(
    connection: AsyncConnection, documents: sa.ColumnElement[bool], elsewhere: sa.ColumnElement[bool]
) -> Relying:
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
    return Relying(sum(record.pages for record in found), len(found), named)


async def _with_extractions(
    connection: AsyncConnection, relying: Relying, documents: sa.ColumnElement[bool]
) -> Relying:
    """Adds the extractions of these documents by jobs that do not own them, as far as these can be found by a search.

    That of a job whose record alone is deleted counts. It costs what the count of all the extractions does, and nothing
    where there is no extract job: only these read sources of others.
    """
    is_reader = (jobs.c.kind == JobKind.EXTRACT.value) & (jobs.c.artifacts == Artifacts.PRESENT.value)
    # Of no row of the statement: Postgres asks it once, and where there is none it does not begin with the extractions.
    some = sa.select(sa.literal(1)).select_from(jobs).where(is_reader)
    statement = (
        sa.select(
            jobs.c.id,
            jobs.c.project,
            sa.func.sum(sa.func.count()).over().label("extractions"),
            sa.func.count().over().label("extract_jobs"),
        )
        .select_from(extractions.join(jobs, jobs.c.id == extractions.c.job_id))
        .where(documents, extractions.c.job_id != extractions.c.owner_job_id)
        .where(is_reader, some.correlate(None).exists())
        .group_by(jobs.c.id)
        .order_by(jobs.c.seq)
        .limit(MAX_NAMED)
    )
    found = (await connection.execute(statement)).all()
    if not found:
        return relying
    named = tuple(ExtractingJob(str(record.id), record.project) for record in found)
    return replace(
        relying, extractions=int(found[0].extractions), extract_jobs=found[0].extract_jobs, extracted_by=named
    )


def most_relying(before: Relying, now: Relying) -> Relying:
    """What there was at the beginning of a cleanup of several runs: the later ones find less, or nothing."""
    pages_of, chunks_of = (max(before, now, key=attrgetter(name)) for name in ("pages", "extractions"))
    return replace(
        pages_of,
        extractions=chunks_of.extractions,
        extract_jobs=chunks_of.extract_jobs,
        extracted_by=chunks_of.extracted_by,
    )


def relying_of(planned: Mapping[str, Any]) -> Relying:
    """What the plan of a cleanup has written down of it; plans of older versions name no extractions."""
    stored = planned.get(RELYING, {})
    extracted_by = tuple(ExtractingJob(**each) for each in stored.get("extracted_by", ()))
    return Relying(**{**stored, "job_ids": tuple(stored.get("job_ids", ())), "extracted_by": extracted_by})


RELYING: Final = "relying"
"""The member of a plan, beside the count of each store, that tells it."""
