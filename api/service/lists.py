"""The lists of a job, a part at a time."""

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Protocol, TypeVar

from api.errors import ValidationFailed
from api.items import (
    DeadLetterItem,
    EntityItem,
    ExtractionItem,
    LetterSummaryView,
    PageItem,
    RecordItem,
    SourceItem,
    SourceView,
)
from api.pagination import Slice, UrlSlice
from api.resources import Gateway
from api.views import JobView, PageOf, ProjectView, PurgedView
from ke.contracts.errors import DatabaseUnavailable, NotFound
from ke.contracts.jobs import JobKind, JobStatus
from ke.contracts.retries import LetterFilter
from ke.runtime.engine import GLANCE_S
from ke.runtime.settling import settle
from ke.storage import dead_letters, listing
from ke.storage.jobs import JobRow, get_job, list_jobs, list_projects, progress_of
from ke.storage.sources_by_url import list_sources_by_url
from ke.web.errors import BadUrl
from ke.web.query import without_params
from ke.web.urls import canonicalize

LOOKED_UP_AT_ONCE: Final = 25
"""Open jobs of a page that are held against Temporal: as many as it answers for in a moment."""


_ONE_OF: Final = "Exactly one of url and url_prefix is to be given."
_NOT_BOTH: Final = "One of url and url_prefix is to be given, at most."
OF_RECRAWLS: Final = frozenset({"changed", "new"})
"""What pages can be listed by where there is an earlier job to compare with."""
MAX_ERRORS_TOLD: Final = 100
"""Errors that a summary of dead letters tells."""


class _Numbered(Protocol):
    @property
    def seq(self) -> int: ...


RowT = TypeVar("RowT", bound=_Numbered)


def _seq(row: _Numbered) -> int:
    return row.seq


def _shown(part: Slice, rows: Sequence[RowT]) -> Sequence[RowT]:
    return rows[: part.limit]


async def jobs(
    gateway: Gateway,
    part: Slice,
    *,
    kind: JobKind | None,
    statuses: Sequence[JobStatus],
    project: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
) -> PageOf[JobView]:
    """Jobs, newest first."""
    async with gateway.database.transaction() as connection:
        rows = await list_jobs(
            connection,
            limit=part.fetch,
            before_seq=part.after,
            kind=kind,
            statuses=statuses,
            project=project,
            created_after=created_after,
            created_before=created_before,
        )
    shown = await _settled(gateway, _shown(part, rows), statuses)
    async with gateway.database.transaction() as connection:
        lanes = await progress_of(connection, [row.id for row in shown])
    return PageOf(data=[JobView.of(row, lanes) for row in shown], next_cursor=part.next_cursor(rows, _seq))


async def _settled(gateway: Gateway, rows: Sequence[JobRow], statuses: Sequence[JobStatus]) -> Sequence[JobRow]:
    """The rows, the newest open ones held against Temporal; what is not told in time stays as it is.

    A job that turns out to be in none of the states that were asked for is left out.
    """
    open_rows = [row for row in rows if not row.status.is_terminal][:LOOKED_UP_AT_ONCE]
    if not open_rows:
        return rows
    looks = {row.id: asyncio.create_task(_glance(gateway, row)) for row in open_rows}
    done, late = await asyncio.wait(looks.values(), timeout=GLANCE_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    now = {job_id: task.result() for job_id, task in looks.items() if task in done}
    settled = [now.get(row.id, row) for row in rows]
    return [row for row in settled if not statuses or row.status in statuses]


async def _glance(gateway: Gateway, row: JobRow) -> JobRow:
    """The row as it is true, where that can be told."""
    try:
        row, _ = await settle(gateway, row)
    except (NotFound, DatabaseUnavailable):
        return row
    return row


async def projects(gateway: Gateway, part: Slice) -> PageOf[ProjectView]:
    """The projects of which something is left."""
    async with gateway.database.transaction() as connection:
        rows = await list_projects(connection, limit=part.fetch, after_seq=part.after)
    data = [ProjectView(name=row.name, jobs=row.jobs) for row in _shown(part, rows)]
    return PageOf(data=data, next_cursor=part.next_cursor(rows, _seq))


async def sources(
    gateway: Gateway, job_id: uuid.UUID, part: Slice, *, state: str | None, url: str | None, url_prefix: str | None
) -> PageOf[SourceItem]:
    """The sources a job stored, or works on.

    Raises:
        ValidationFailed: Both a URL and the beginning of one are given; or the URL is none.
    """
    if url is not None and url_prefix is not None:
        raise ValidationFailed("Give url or url_prefix.", errors=[{"parameter": "url", "detail": _NOT_BOTH}])
    exact = None if url is None else _canonical(url)
    async with gateway.database.transaction() as connection:
        job = await get_job(connection, job_id)
        filters = {"state": state, "url": _as_spelt_by(job, exact), "url_prefix": url_prefix}
        rows = await listing.list_sources(connection, job_id, job.kind, limit=part.fetch, after=part.after, **filters)
    return PageOf(data=[SourceItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def sources_by_url(
    gateway: Gateway, part: UrlSlice, *, url: str | None, url_prefix: str | None
) -> PageOf[SourceItem]:
    """The documents of all jobs with a URL, or with URLs that begin so.

    Raises:
        ValidationFailed: Neither is given, or both; or the URL is none.
    """
    if (url is None) == (url_prefix is None):
        raise ValidationFailed("Give either url or url_prefix.", errors=[{"parameter": "url", "detail": _ONE_OF}])
    exact = None if url is None else _canonical(url)
    async with gateway.database.transaction() as connection:
        rows = await list_sources_by_url(
            connection, url=exact, url_prefix=url_prefix, limit=part.fetch, after=part.after
        )
    data = [SourceItem.of(row) for row in rows[: part.limit]]
    return PageOf(data=data, next_cursor=part.next_cursor(rows, lambda row: (row.url, row.seq)))


def _canonical(url: str) -> str:
    try:
        return canonicalize(url)
    except BadUrl as error:
        errors = [{"parameter": "url", "detail": error.message}]
        raise ValidationFailed(f"url: {error.message}", errors=errors) from error


def _as_spelt_by(job: JobRow, url: str | None) -> str | None:
    """A canonical URL without the parameters that a crawl drops, as its pages are known."""
    dropped = (job.params.get("scope") or {}).get("drop_params") or ()
    return None if url is None else without_params(url, tuple(dropped))


async def pages(
    gateway: Gateway, job_id: uuid.UUID, part: Slice, *, state: str | None, url: str | None
) -> PageOf[PageItem]:
    """The URLs a job has seen.

    Raises:
        ValidationFailed: What has changed, or is new, is asked of a job that is no re-crawl; or the URL is none.
    """
    exact = None if url is None else _canonical(url)
    async with gateway.database.transaction() as connection:
        job = await get_job(connection, job_id)
        if state in OF_RECRAWLS and not job.params.get("recrawl_of"):
            told = f"{state} is of re-crawls only, and job {job_id} is none."
            raise ValidationFailed(f"state: {told}", errors=[{"parameter": "state", "detail": told}])
        filters = {"state": state, "url": _as_spelt_by(job, exact)}
        rows = await listing.list_pages(connection, job_id, limit=part.fetch, after=part.after, **filters)
    return PageOf(data=[PageItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def extractions(gateway: Gateway, job_id: uuid.UUID, part: Slice) -> PageOf[ExtractionItem]:
    """The chunks a job made."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id)
        rows = await listing.list_extractions(connection, job_id, limit=part.fetch, after=part.after)
    return PageOf(data=[ExtractionItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def entities(gateway: Gateway, job_id: uuid.UUID, part: Slice) -> PageOf[EntityItem]:
    """The named entities a job found."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id)
        rows = await listing.list_entities(connection, job_id, limit=part.fetch, after=part.after)
    return PageOf(data=[EntityItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def records(gateway: Gateway, job_id: uuid.UUID, part: Slice) -> PageOf[RecordItem]:
    """What a language model read out of a job's sources."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id)
        rows = await listing.list_records(connection, job_id, limit=part.fetch, after=part.after)
    return PageOf(data=[RecordItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def letters(gateway: Gateway, job_id: uuid.UUID, part: Slice, fitting: LetterFilter) -> PageOf[DeadLetterItem]:
    """A job's dead letters, those that fit."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id)
        rows = await dead_letters.list_dead_letters(
            connection, job_id, limit=part.fetch, after=part.after, letters=fitting
        )
    return PageOf(data=[DeadLetterItem.of(r) for r in _shown(part, rows)], next_cursor=part.next_cursor(rows, _seq))


async def summary_of_letters(gateway: Gateway, job_id: uuid.UUID, fitting: LetterFilter) -> LetterSummaryView:
    """A job's dead letters by their errors, those that fit."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id)
        found = await dead_letters.summarize_dead_letters(connection, job_id, limit=MAX_ERRORS_TOLD, letters=fitting)
    return LetterSummaryView.of(found)


async def purge_letters(gateway: Gateway, job_id: uuid.UUID, fitting: LetterFilter) -> PurgedView:
    """Deletes a job's dead letters, those that fit and that no retry has in hand."""
    async with gateway.database.transaction() as connection:
        await get_job(connection, job_id, lock=True)
        return PurgedView(purged=await dead_letters.purge_dead_letters(connection, job_id, fitting))


async def source(gateway: Gateway, source_id: uuid.UUID) -> SourceView:
    """A document with its text."""
    async with gateway.database.transaction() as connection:
        return SourceView.of(await listing.get_source(connection, source_id))
