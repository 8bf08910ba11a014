"""What an earlier job knows of the pages that a job crawls again."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import page_id
from ke.contracts.jobs import ENDED_WELL, Artifacts, CollectSpec
from ke.contracts.params import specs_of
from ke.storage.arrays import among
from ke.storage.documents import PRESENT
from ke.storage.frontier import HAD_CONTENT, NO_MORE, EarlierPage, FrontierEntry, Link
from ke.storage.jobs import find_job
from ke.storage.tables import jobs, pages, sources

PIECE: Final = 2_000
"""Pages of an earlier frontier that one statement reads."""
MAX_LINE: Final = 100
"""Jobs that a re-crawl goes back to, itself included: what those before have replaced is kept."""
MAX_OLDER: Final = 10
"""Jobs before the earlier one that are asked about a page of which that one has found nothing out."""
_UNKNOWN_LINKS: Final = 1_000_000
"""The depth of a page whose links are in no frontier for sure: beyond each `max_depth`."""


async def note_depth(connection: AsyncConnection, job_id: uuid.UUID, max_depth: int) -> None:
    """Writes down that a crawl goes on under a smaller `max_depth` than before: it leaves links aside from now on.

    In a transaction of its own: one that holds the lane or the fence is not to wait for the job's row.
    """
    deeper = sa.select(jobs.c.params).where(jobs.c.id == job_id, _least_depth() > max_depth).with_for_update()
    params = (await connection.execute(deeper)).scalar_one_or_none()
    if params is not None:
        noted = {**params, "least_depth": max_depth}
        await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(params=noted))


def _least_depth() -> sa.ColumnElement[int]:
    least = sa.func.coalesce(jobs.c.params["least_depth"].astext, jobs.c.params["limits"]["max_depth"].astext)
    return least.cast(sa.Integer)


async def whole_frontiers(connection: AsyncConnection, missing: sa.ColumnElement[bool]) -> Sequence[uuid.UUID]:
    """The jobs of these pages of which `note_missing` writes something down, in order of id."""
    statement = sa.select(jobs.c.id).join(pages, pages.c.job_id == jobs.c.id).where(missing, _least_depth() > 0)
    return (await connection.execute(statement.distinct().order_by(jobs.c.id))).scalars().all()


async def note_missing(connection: AsyncConnection, missing: sa.ColumnElement[bool]) -> None:
    """Writes down of the jobs of these pages that their frontiers lack some from now on.

    A re-crawl of such a job cannot rely on knowing the links of any page: it has to see them, so that what is still
    linked to is found again.
    """
    for job_id in await whole_frontiers(connection, missing):
        await note_depth(connection, job_id, 0)


async def earlier_spec(connection: AsyncConnection, job_id: uuid.UUID) -> CollectSpec | None:
    """What an earlier job was to fetch; None when what it made is deleted, or about to be.

    Its `max_depth` is the smallest one that ever held: only of less deep pages it has surely followed every link. Of a
    re-crawl that was broken off it is 0: what it had not come to yet of the job before it is not in its frontier.
    """
    row = await find_job(connection, job_id)
    if row is None or row.deleted_at is not None or row.artifacts is not Artifacts.PRESENT:
        return None
    spec = specs_of(row.kind, row.params)[0]
    if spec is None:
        return None
    is_broken_off = spec.recrawl_of is not None and row.status not in ENDED_WELL
    depth = 0 if is_broken_off else row.params.get("least_depth", spec.limits.max_depth)
    return replace(spec, limits=replace(spec.limits, max_depth=depth))


_TELLING: Final = frozenset({*HAD_CONTENT, "gone"})
"""States of a page of which a job has found out what it is, or that it is not."""


async def line_of(connection: AsyncConnection, job_id: uuid.UUID) -> Sequence[uuid.UUID]:
    """A job, the one that it crawls again, the one which that crawled again, and so on, `MAX_LINE` at most."""
    earlier = jobs.c.params["recrawl_of"].astext
    line = sa.select(jobs.c.id, earlier.label("earlier"), sa.literal(0).label("back")).where(jobs.c.id == job_id)
    steps = line.cte("line", recursive=True)
    before = sa.select(jobs.c.id, earlier, steps.c.back + 1).where(
        jobs.c.id == sa.cast(steps.c.earlier, sa.Uuid), steps.c.back + 1 < MAX_LINE
    )
    steps = steps.union_all(before)
    members = sa.select(steps.c.id).order_by(steps.c.back)
    return (await connection.execute(members)).scalars().all()


async def older_jobs(connection: AsyncConnection, job_id: uuid.UUID, spec: CollectSpec) -> list[uuid.UUID]:
    """The jobs before an earlier one, the newest first, that made the same text of a page as `spec` does."""
    line = (await line_of(connection, job_id))[1 : MAX_OLDER + 1]
    alike = sa.select(jobs.c.id).where(
        jobs.c.id.in_(line),
        jobs.c.params["reading"].astext == spec.reading.value,
        jobs.c.params["browser"].astext == str(spec.browser).lower(),
    )
    found = set((await connection.execute(alike)).scalars())
    return [job for job in line if job in found]


async def with_earlier(
    connection: AsyncConnection, job_id: uuid.UUID, older: Sequence[uuid.UUID], entries: Sequence[FrontierEntry]
) -> list[FrontierEntry]:
    """The entries with what the earlier job `job_id` knows of them, or, where it found nothing out, an older one.

    A page that failed in the earlier job, or was left out by its limits, is what it was before that. What an older job
    knows of its links is not relied on.
    """
    known = await _known(connection, {page_id(job_id, entry.url): entry.id for entry in entries})
    open_entries = [e for e in entries if e.id not in known or known[e.id].state not in _TELLING]
    for member in older if open_entries else ():
        found = await _known(connection, {page_id(member, entry.url): entry.id for entry in open_entries})
        told = {key: page for key, page in found.items() if page.state in _TELLING}
        known |= {key: replace(page, depth=_UNKNOWN_LINKS) for key, page in told.items()}
        open_entries = [entry for entry in open_entries if entry.id not in told]
    return [replace(entry, earlier=known.get(entry.id)) for entry in entries]


async def _known(connection: AsyncConnection, ids: Mapping[uuid.UUID, uuid.UUID]) -> dict[uuid.UUID, EarlierPage]:
    """What is known of pages of an earlier job, by the ids that stand for these here."""
    statement = (
        sa.select(
            *(pages.c[name] for name in ("id", "state", "http_status", "depth", "content_type", "etag")),
            pages.c.last_modified,
            # Of a page that is gone: by it a page is known that has come back.
            sa.case((_has_gone, sources.c.content_hash), else_=pages.c.content_hash).label("content_hash"),
            sa.func.coalesce(pages.c.final_url, pages.c.url).label("url"),
            sources.c.id.label("source_id"),
            sources.c.url.label("source_url"),
        )
        .select_from(pages.outerjoin(sources.join(jobs, PRESENT), sources.c.id == _document))
        .where(among(pages.c.id, ids))
    )
    return {
        ids[record.id]: EarlierPage(
            **{name: record._mapping[name] for name in EarlierPage.__dataclass_fields__}  # noqa: SLF001
        )
        for record in await connection.execute(statement)
    }


_of_page: Final = jobs.alias("of_page")
_read_alike: Final = sa.and_(
    *(_of_page.c.params[name].astext == jobs.c.params[name].astext for name in ("reading", "browser"))
)
_has_gone: Final = sa.and_(
    pages.c.state == "gone", sa.exists(sa.select(1).where(_of_page.c.id == pages.c.job_id, _read_alike))
)
"""Whether a page is gone whose document was read as its job read pages."""
_document: Final = sa.case((pages.c.state == "gone", pages.c.previous_source_id), else_=pages.c.source_id)
"""The document of a page; of one that is gone, the one that it had."""


async def known_pages(connection: AsyncConnection, job_id: uuid.UUID, urls: Sequence[str]) -> frozenset[str]:
    """Those of the URLs that an earlier job has seen, and that were not gone by then."""
    ids = [page_id(job_id, url) for url in urls]
    statement = sa.select(pages.c.url).where(among(pages.c.id, ids), pages.c.state != "gone")
    return frozenset((await connection.execute(statement)).scalars())


@dataclass(frozen=True, slots=True)
class EarlierLink:
    """A URL that an earlier job has seen."""

    url: str
    depth: int
    found_on: uuid.UUID | None
    is_broken: bool = False
    """Whether there was nothing, and the job's own seeds are not what it is."""
    is_gone: bool = False
    """Whether there was nothing any more, and the document from before is still stored."""
    was_gone: bool = False
    """Whether there was nothing any more, and the document from before is forgotten."""


async def earlier_frontier(
    connection: AsyncConnection, job_id: uuid.UUID, after: int
) -> tuple[list[EarlierLink], int | None]:
    """The next URLs that an earlier job has seen, and where it found them.

    Returns:
        The URLs, and the `seq` of the last one that was looked at; None when there are no more.
    """
    statement = (
        sa.select(*(pages.c[name] for name in ("seq", "url", "depth", "found_on", "state", "http_status")))
        .add_columns(sa.exists().where(sources.c.id == pages.c.previous_source_id).label("is_left"))
        .where(pages.c.job_id == job_id, pages.c.seq > after)
        .order_by(pages.c.seq)
        .limit(PIECE)
    )
    found = (await connection.execute(statement)).all()
    links = [
        EarlierLink(
            r.url,
            r.depth,
            r.found_on,
            is_broken=r.depth > 0 and r.state == "failed" and r.http_status in NO_MORE,
            is_gone=r.state == "gone" and r.is_left,
            was_gone=(r.state == "gone" and not r.is_left) or (r.state == "skipped" and r.http_status in NO_MORE),
        )
        for r in found
    ]
    return links, found[-1].seq if found else None


async def still_linked(connection: AsyncConnection, job_id: uuid.UUID, links: Sequence[EarlierLink]) -> list[Link]:
    """Those of an earlier job's links to which a page of this job may still lead that was not read for its links.

    That is where the page on which it was found is as it was, or could not be had, or is not known. A page that has
    changed has told its links, also where it still reads the same, and one that is gone has none. What was gone is
    looked at again in any case, as long as its document is stored.
    """
    origins = await _seen(connection, {link.found_on for link in links if link.found_on is not None})
    here = {origin: page_id(job_id, page.url) for origin, page in origins.items()}
    now = await _seen(connection, here.values())
    left: list[Link] = []
    for link in links:
        origin = origins.get(link.found_on) if link.found_on is not None else None
        mine = here[origin.id] if origin is not None else None
        page = now.get(mine) if mine is not None else None
        if link.is_gone or origin is None or page is None or not _has_told_links(page, origin):
            left.append((link.url, link.depth, mine))
    return left


async def _seen(connection: AsyncConnection, ids: Collection[uuid.UUID]) -> dict[uuid.UUID, sa.Row[Any]]:
    statement = sa.select(*(pages.c[name] for name in ("id", "url", "state", "content_hash")))
    return {page.id: page for page in await connection.execute(statement.where(among(pages.c.id, ids)))}


def _has_told_links(page: sa.Row[Any], before: sa.Row[Any]) -> bool:
    """Whether the links of a page are in the frontier, as far as it has any."""
    if page.state == "unchanged":
        return bool(page.content_hash != before.content_hash)
    return page.state in _TELLING
