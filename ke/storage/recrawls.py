"""What an earlier job knows of the pages that a job crawls again."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, ReplacedSources
from ke.contracts.ids import page_id
from ke.contracts.jobs import ENDED_WELL, Artifacts, CollectSpec
from ke.contracts.params import specs_of
from ke.storage.arrays import among
from ke.storage.frontier import EarlierPage, FrontierEntry
from ke.storage.jobs import find_job
from ke.storage.tables import jobs, pages, sources

PIECE: Final = 2_000
"""Pages of an earlier frontier that one statement reads."""


async def note_depth(connection: AsyncConnection, job_id: uuid.UUID, max_depth: int) -> None:
    """Writes down that a crawl goes on under a smaller `max_depth` than before: it leaves links aside from now on.

    In a transaction of its own: one that holds the lane or the fence is not to wait for the job's row.
    """
    least = sa.func.coalesce(jobs.c.params["least_depth"].astext, jobs.c.params["limits"]["max_depth"].astext)
    deeper = sa.select(jobs.c.params).where(jobs.c.id == job_id, least.cast(sa.Integer) > max_depth).with_for_update()
    params = (await connection.execute(deeper)).scalar_one_or_none()
    if params is not None:
        noted = {**params, "least_depth": max_depth}
        await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(params=noted))


async def earlier_spec(connection: AsyncConnection, job_id: uuid.UUID) -> CollectSpec | None:
    """What an earlier job was to fetch; None when what it made is deleted, or about to be.

    Its `max_depth` is the smallest one that ever held: only of less deep pages it has surely followed every link.
    """
    row = await find_job(connection, job_id)
    if row is None or row.deleted_at is not None or row.artifacts is not Artifacts.PRESENT:
        return None
    spec = specs_of(row.kind, row.params)[0]
    if spec is None or "least_depth" not in row.params:
        return spec
    return replace(spec, limits=replace(spec.limits, max_depth=row.params["least_depth"]))


async def with_earlier(
    connection: AsyncConnection, job_id: uuid.UUID, entries: Sequence[FrontierEntry]
) -> list[FrontierEntry]:
    """The entries with what the earlier job `job_id` knows of them."""
    ids = {page_id(job_id, entry.url): entry.id for entry in entries}
    statement = (
        sa.select(
            *(pages.c[name] for name in ("id", "state", "depth", "content_type", "content_hash", "etag")),
            pages.c.last_modified,
            sa.func.coalesce(pages.c.final_url, pages.c.url).label("url"),
            sources.c.id.label("source_id"),
        )
        .select_from(pages.outerjoin(sources.join(jobs, _present), sources.c.id == pages.c.source_id))
        .where(pages.c.id.in_(list(ids)))
    )
    known = {
        ids[record.id]: EarlierPage(
            **{name: record._mapping[name] for name in EarlierPage.__dataclass_fields__}  # noqa: SLF001
        )
        for record in await connection.execute(statement)
    }
    return [replace(entry, earlier=known.get(entry.id)) for entry in entries]


_present: Final = (jobs.c.id == sources.c.job_id) & (jobs.c.artifacts == Artifacts.PRESENT.value)


async def present_sources(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
    """Those of the sources that are there, and of which no cleanup has begun."""
    statement = sa.select(sources.c.id).join(jobs, _present).where(sources.c.id.in_(source_ids))
    return frozenset((await connection.execute(statement)).scalars())


async def known_pages(connection: AsyncConnection, job_id: uuid.UUID, urls: Sequence[str]) -> frozenset[str]:
    """Those of the URLs that an earlier job has seen, and that were not gone by then."""
    ids = [page_id(job_id, url) for url in urls]
    statement = sa.select(pages.c.url).where(among(pages.c.id, ids), pages.c.state != "gone")
    return frozenset((await connection.execute(statement)).scalars())


async def earlier_frontier(
    connection: AsyncConnection, job_id: uuid.UUID, after: int
) -> tuple[list[tuple[str, int]], int | None]:
    """The next URLs that an earlier job has seen, with their depths, those aside that were gone by then.

    Returns:
        The URLs, and the `seq` of the last one that was looked at; None when there are no more.
    """
    statement = (
        sa.select(pages.c.seq, pages.c.url, pages.c.depth, pages.c.state)
        .where(pages.c.job_id == job_id, pages.c.seq > after)
        .order_by(pages.c.seq)
        .limit(PIECE)
    )
    found = (await connection.execute(statement)).all()
    return [(r.url, r.depth) for r in found if r.state != "gone"], found[-1].seq if found else None


async def replaced_sources(connection: AsyncConnection, job_id: uuid.UUID, after: int, limit: int) -> ReplacedSources:
    """The next documents that a re-crawl has replaced, and that are still there.

    One that another page of the re-crawl still has, unchanged, is none of them. A re-crawl that did not end well, or
    whose own documents are deleted, has replaced nothing: what it found may be the only copy that is left.

    Args:
        connection: The transaction.
        job_id: The re-crawl.
        after: The `seq` after which to look.
        limit: Documents at most.
    """
    other = pages.alias("other")
    is_current = sa.exists().where(
        other.c.job_id == job_id, other.c.source_id == sources.c.id, other.c.state == "unchanged"
    )
    ended_well = sa.exists().where(
        jobs.c.id == job_id,
        jobs.c.status.in_([status.value for status in ENDED_WELL]),
        jobs.c.artifacts == Artifacts.PRESENT.value,
        jobs.c.deleted_at.is_(None),
    )
    named = sa.select(pages.c.previous_source_id).where(
        pages.c.job_id == job_id, pages.c.previous_source_id.is_not(None)
    )
    statement = (
        sa.select(sources.c.seq, sources.c.id, sources.c.job_id)
        .where(sources.c.id.in_(named), sources.c.seq > after, ended_well, ~is_current)
        .order_by(sources.c.seq)
        .limit(limit)
    )
    found = (await connection.execute(statement)).all()
    cleanups = tuple(CleanupInput(str(record.job_id), source_id=str(record.id)) for record in found)
    return ReplacedSources(cleanups, int(found[-1].seq) if found else after)
