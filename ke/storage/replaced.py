"""Which documents a re-crawl has replaced: no page has them any more, and what the pages have now is found instead."""

import asyncio
import uuid
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, ReplacedPage, ReplacedSources
from ke.contracts.ids import page_id
from ke.contracts.jobs import ENDED_WELL, MAX_GONE_SHARE, Artifacts, Lane
from ke.storage.arrays import among
from ke.storage.documents import a_page_with
from ke.storage.frontier import HAD_CONTENT
from ke.storage.frontier import PIECE as URLS
from ke.storage.recrawls import line_of
from ke.storage.tables import extraction_tasks, extractions, job_progress, jobs, pages, records, sources

PIECE: Final = 200
"""Pages of a re-crawl that are looked at together."""
GONE_ANYWAY: Final = 10
"""Pages that may be gone whatever share they are: some pages of a small site say nothing about it."""
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


async def replaced_sources(
    connection: AsyncConnection, wanted: ReplacedPage, progress: Callable[[], None] = lambda: None
) -> ReplacedSources:
    """The next documents that a re-crawl, or a job that it goes back to, has replaced, and that are still there.

    Args:
        connection: The transaction.
        wanted: How many, and behind which page.
        progress: Called after each piece of pages that was looked at.
    """
    line = await _line_of(connection, uuid.UUID(wanted.job_id))
    if line is None:
        return ReplacedSources((), wanted.after, wanted.back, is_more=False)
    found: list[CleanupInput] = []
    first: dict[uuid.UUID, uuid.UUID | None] = {}
    after, back = wanted.after, _place(wanted, len(line.members) - 1)
    while len(found) < wanted.limit:
        named = await _naming(connection, pages.c.job_id == line.members[back], pages.c.seq > after)
        progress()
        if not named:
            if found:
                break
            if back == 0:
                return ReplacedSources((), after, back, is_more=False)
            after, back = 0, back - 1
            continue
        first |= await _replacing(connection, line, [page for page in named if page.previous_source_id not in first])
        for page in named:
            after = page.seq
            if first[page.previous_source_id] == page.id:
                found.append(
                    CleanupInput(
                        str(page.owner_id),
                        source_id=str(page.previous_source_id),
                        replaced_by=str(page.id),
                        recrawl_id=wanted.job_id,
                    )
                )
            if len(found) == wanted.limit:
                break
    return ReplacedSources(tuple(found), after, back, is_more=True)


def _place(wanted: ReplacedPage, oldest: int) -> int:
    if wanted.back is None:
        # A forgetting that an older version has begun knows the re-crawl's own pages only.
        return 0 if wanted.after else oldest
    return min(wanted.back, oldest)


async def is_replaced(connection: AsyncConnection, cleanup: CleanupInput) -> bool:
    """Whether a document is replaced as of now, by the re-crawl that it was listed for."""
    page, source = (uuid.UUID(key or "") for key in (cleanup.replaced_by, cleanup.source_id))
    named = await _naming(connection, pages.c.id == page, pages.c.previous_source_id == source)
    if not named:
        return False
    recrawl = named[0].job_id if cleanup.recrawl_id is None else uuid.UUID(cleanup.recrawl_id)
    line = await _line_of(connection, recrawl)
    return line is not None and (await _replacing(connection, line, named))[source] is not None


async def count_outdated(connection: AsyncConnection, job_id: uuid.UUID, most: int) -> int:
    """How many pages of a re-crawl have changed, or are gone, whose earlier document a search still finds.

    Those aside whose document another page of the re-crawl has now: it had the same content, and is as it was.

    Args:
        connection: The transaction.
        job_id: The re-crawl.
        most: How many pages that have changed or are gone to look at: this is read with the job, again and again.
    """
    return int((await connection.execute(outdated(job_id, most))).scalar_one())


def outdated(job_id: uuid.UUID, most: int) -> sa.Select[Any]:
    """The statement of `count_outdated`."""
    some = (
        sa.select(pages.c.previous_source_id)
        .where(pages.c.job_id == job_id, pages.c.previous_source_id.is_not(None))
        .limit(most)
        .subquery()
    )
    # Each document once, however many pages had it.
    earlier = (
        sa.select(some.c.previous_source_id.label("id"), sa.func.count().label("pages"))
        .group_by(some.c.previous_source_id)
        .subquery()
    )
    # One by one, by the index: the planner would sooner read all sources of all jobs.
    is_found = (
        sa.select(sa.literal(1))
        .select_from(sources.join(jobs, jobs.c.id == sources.c.job_id))
        .where(sources.c.id == earlier.c.id, jobs.c.artifacts == Artifacts.PRESENT.value)
        .limit(1)
        .scalar_subquery()
    )
    is_had = a_page_with(earlier.c.id, sa.cast(job_id, sa.Uuid), pages.c.state != "gone")
    return (
        sa.select(sa.func.coalesce(sa.func.sum(earlier.c.pages), 0))
        .select_from(earlier)
        .where(is_found.is_not(None), is_had.is_(None))
    )


async def keeps_gone(connection: AsyncConnection, job_id: uuid.UUID, params: Mapping[str, Any]) -> bool:
    """Whether so many of a re-crawl's pages are gone that their documents are kept: the site is broken, most likely.

    Args:
        connection: The transaction.
        job_id: The re-crawl.
        params: Its parameters.
    """
    share = params.get("max_gone_share", MAX_GONE_SHARE)
    there = job_progress.c.pages_fetched + job_progress.c.pages_duplicate + job_progress.c.pages_unchanged
    found = sa.select(job_progress.c.pages_gone, there).where(
        job_progress.c.job_id == job_id, job_progress.c.lane == Lane.COLLECT.value
    )
    gone, still_there = (await connection.execute(found)).one_or_none() or (0, 0)
    few = GONE_ANYWAY if share else 0
    return bool(share < 1 and gone > max(few, share * (gone + still_there)))


@dataclass(frozen=True, slots=True)
class _Line:
    """A re-crawl that ended well, and the jobs that it goes back to."""

    job_id: uuid.UUID
    seq: int
    members: Sequence[uuid.UUID]
    """The re-crawl, the earlier job, that one's earlier job, and so on, `MAX_LINE` at most."""
    keeps_gone: bool
    """Whether so much is gone that it is kept."""


async def _line_of(connection: AsyncConnection, job_id: uuid.UUID) -> _Line | None:
    """None for a re-crawl that did not end well, or whose own documents are deleted.

    Such a one has replaced nothing: what it found may be the only copy that is left.
    """
    ended_well = sa.select(jobs.c.seq, jobs.c.params).where(
        jobs.c.id == job_id,
        jobs.c.status.in_([status.value for status in ENDED_WELL]),
        jobs.c.artifacts == Artifacts.PRESENT.value,
        jobs.c.deleted_at.is_(None),
    )
    job = (await connection.execute(ended_well)).one_or_none()
    if job is None:
        return None
    members = await line_of(connection, job_id)
    return _Line(job_id, job.seq, members, await keeps_gone(connection, job_id, job.params))


async def _naming(connection: AsyncConnection, *which: sa.ColumnElement[bool]) -> Sequence[sa.Row[Any]]:
    """The next of these pages that name a document which they had before, where it is still there."""
    statement = (
        sa.select(pages.c.id, pages.c.seq, pages.c.job_id, pages.c.url, pages.c.previous_source_id)
        .add_columns(sources.c.job_id.label("owner_id"))
        .select_from(pages.join(sources, sources.c.id == pages.c.previous_source_id))
        .where(pages.c.previous_source_id.is_not(None), *which)
        .order_by(pages.c.seq)
        .limit(PIECE)
    )
    return (await connection.execute(statement)).all()


async def _replacing(
    connection: AsyncConnection, line: _Line, named: Sequence[sa.Row[Any]]
) -> dict[uuid.UUID, uuid.UUID | None]:
    """Of each document that these pages of a line name: the first page of the oldest job that does, if it is replaced.

    It is not as long as a page of any job has it, unless the re-crawl, or a job that it goes back to, has looked at the
    same address later and found another document there, or none. What a job has that was submitted after the re-crawl
    is kept in any case.
    """
    wanted: dict[uuid.UUID, dict[str, datetime]] = defaultdict(dict)
    for page in named:
        wanted[page.previous_source_id][page.url] = _LONG_AGO
    kept = set()
    for page in await _holding(connection, list(wanted)):
        if page.job_seq > line.seq or page.fetched_at is None:
            kept.add(page.source_id)
        else:
            known = wanted[page.source_id]
            known[page.url] = max(page.fetched_at, known.get(page.url, _LONG_AGO))
    urls = {url for source, of_source in wanted.items() if source not in kept for url in of_source}
    now = await _pages_at(connection, line, list(urls))
    made = await _made_of(connection, list(wanted))
    place = {member: number for number, member in enumerate(line.members)}
    first: dict[uuid.UUID, uuid.UUID | None] = dict.fromkeys(wanted)
    for source in made.keys() - kept:
        if all(
            any(_replaces(page, made[source], since, line) for page in now[url])
            for url, since in wanted[source].items()
        ):
            here = [page for url in wanted[source] for page in now[url] if page.previous_source_id == source]
            naming = min(here, key=lambda page: (-place[page.job_id], page.seq), default=None)
            first[source] = naming.id if naming is not None else None
    return first


async def _holding(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> Sequence[sa.Row[Any]]:
    """The pages, of whichever job, whose document is one of these; those aside that are gone."""
    statement = (
        sa.select(pages.c.source_id, pages.c.url, pages.c.fetched_at, jobs.c.seq.label("job_seq"))
        .select_from(pages.join(jobs, jobs.c.id == pages.c.job_id))
        .where(pages.c.source_id.is_not(None), among(pages.c.source_id, source_ids), pages.c.state != "gone")
    )
    return list(await connection.execute(statement))


async def _pages_at(connection: AsyncConnection, line: _Line, urls: Sequence[str]) -> dict[str, list[sa.Row[Any]]]:
    """What the jobs of a line have at these addresses, and how far the documents are that they have there."""
    owner = jobs.alias("owner")
    task = sa.select(sa.literal(1)).where(extraction_tasks.c.source_id == pages.c.source_id)
    looked = (
        sa.select(*(pages.c[name] for name in ("id", "seq", "job_id", "url", "state", "fetched_at", "source_id")))
        .add_columns(
            pages.c.previous_source_id,
            owner.c.id.is_not(None).label("is_stored"),
            sa.exists(task.where(extraction_tasks.c.state == "done")).label("is_extracted"),
            sa.exists(task.where(extraction_tasks.c.record_state == "done")).label("has_record"),
        )
        .select_from(
            pages.outerjoin(
                sources.join(owner, (owner.c.id == sources.c.job_id) & (owner.c.artifacts == Artifacts.PRESENT.value)),
                sources.c.id == pages.c.source_id,
            )
        )
    )
    found: dict[str, list[sa.Row[Any]]] = defaultdict(list)
    asked = [(member, url) for url in urls for member in line.members]
    for start in range(0, len(asked), URLS):
        ids = [page_id(member, url) for member, url in asked[start : start + URLS]]
        for page in await connection.execute(looked.where(among(pages.c.id, ids))):
            found[page.url].append(page)
        # Ids are computed on the event loop.
        await asyncio.sleep(0)
    return found


async def _made_of(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, sa.Row[Any]]:
    """What has been made of each of these documents, by whichever job."""
    statement = sa.select(
        sources.c.id,
        sa.exists().where(extractions.c.source_id == sources.c.id).label("extractions"),
        sa.exists().where(records.c.source_id == sources.c.id).label("records"),
    ).where(among(sources.c.id, source_ids))
    return {row.id: row for row in await connection.execute(statement)}


def _replaces(page: sa.Row[Any], made: sa.Row[Any], since: datetime, line: _Line) -> bool:
    """Whether a page has, since then, something in place of a document: nothing is lost that was searchable.

    That a page is gone must be the re-crawl's own finding: what a job before found may have come back. And the site as
    a whole must still be there.
    """
    if page.fetched_at is None or page.fetched_at < since:
        return False
    if page.state == "gone":
        return bool(page.job_id == line.job_id) and not line.keeps_gone
    has_another = page.state in HAD_CONTENT and page.is_stored and page.source_id != made.id
    return has_another and (page.is_extracted or not made.extractions) and (page.has_record or not made.records)
