"""What a job has stored, as lists: bounded, and paged by `seq`, the order of arrival.

Every function reads at most `limit` entries that come after `after`, the `seq` of the last one read before.
"""

import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import NotFound
from ke.contracts.ids import page_id, source_id
from ke.contracts.jobs import Artifacts, JobKind
from ke.storage.tables import entities, entity_tasks, extraction_tasks, extractions, jobs, pages, records, sources


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A stored document, without its text."""

    seq: int
    """Its place in the list it was read from."""
    id: uuid.UUID
    job_id: uuid.UUID
    """The job that stored it."""
    project: str
    """That job's."""
    url: str
    title: str | None
    content_type: str
    content_hash: bytes
    bytes: int
    fetched_at: datetime
    extraction_state: str | None
    """How far the job that was asked about is with extracting it; None: it does not."""
    entities_state: str | None
    """The same of its entities, which are looked for when it is extracted."""
    record_state: str | None = None
    """How far it is with records of it; None: it asks for none."""
    record_reason: str | None = None
    """Why no record was made."""


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """A stored document."""

    id: uuid.UUID
    job_id: uuid.UUID
    project: str
    """That job's."""
    url: str
    title: str | None
    text: str
    metadata: dict[str, Any]
    content_type: str
    content_hash: bytes
    bytes: int
    fetched_at: datetime


@dataclass(frozen=True, slots=True)
class PageRow:
    """An entry of the frontier."""

    seq: int
    id: uuid.UUID
    url: str
    depth: int
    state: str
    reason: str | None
    attempts: int
    http_status: int | None
    final_url: str | None
    canonical_url: str | None
    source_id: uuid.UUID | None
    source_is_stored: bool | None
    """Whether that document is there; None: there is none."""
    previous_source_id: uuid.UUID | None
    """The earlier document, where an earlier job was crawled again and the page has changed or is gone."""
    previous_is_stored: bool | None
    """Whether that is still there; None: there was none."""
    content_type: str | None
    bytes: int | None
    fetched_at: datetime | None
    found_on: str | None
    """The URL of the first page that it was found on."""


@dataclass(frozen=True, slots=True)
class ExtractionRow:
    """A chunk."""

    seq: int
    id: uuid.UUID
    job_id: uuid.UUID
    source_id: uuid.UUID
    chunk_number: int
    heading: str
    text: str
    start: int
    end: int
    tokens: int
    embedder: str
    state: str


@dataclass(frozen=True, slots=True)
class EntityRow:
    """A mention of a named entity, by its place in its chunk."""

    seq: int
    id: uuid.UUID
    job_id: uuid.UUID
    source_id: uuid.UUID
    extraction_id: uuid.UUID
    text: str
    label: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class RecordRow:
    """What a model read out of a source."""

    seq: int
    id: uuid.UUID
    job_id: uuid.UUID
    source_id: uuid.UUID
    url: str
    """The source's."""
    number: int
    data: Any
    truncated: bool
    model: str
    tokens_in: int
    tokens_out: int


_PROJECT: Final = sa.select(jobs.c.project).where(jobs.c.id == sources.c.job_id).scalar_subquery()
SOURCE_COLUMNS: Final[tuple[sa.ColumnElement[Any], ...]] = (
    *(sources.c[name] for name in ("id", "job_id")),
    _PROJECT,
    *(sources.c[name] for name in ("url", "title", "content_type", "content_hash", "bytes", "fetched_at")),
)
"""What lists tell of a source, in the order of `SourceRow`."""


async def list_sources(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    kind: JobKind,
    *,
    limit: int,
    after: int | None = None,
    state: str | None = None,
    url: str | None = None,
    url_prefix: str | None = None,
) -> list[SourceRow]:
    """The sources a job stored; of an `extract` job, and with `state`, those it extracts.

    Args:
        connection: The transaction.
        job_id: The job.
        kind: Its kind: an `extract` job stores no sources, it works on others'.
        limit: Entries at most.
        after: Where the list was left off.
        state: Only those whose extraction is in this state (`ke.storage.tables.TASK_STATES`).
        url: Only that with exactly this URL, canonical.
        url_prefix: Only those whose URL begins so.
    """
    by_task = kind is JobKind.EXTRACT or state is not None
    seq = extraction_tasks.c.seq if by_task else sources.c.seq
    of_job = sa.and_(extraction_tasks.c.source_id == sources.c.id, extraction_tasks.c.job_id == job_id)
    searched = sa.and_(entity_tasks.c.source_id == sources.c.id, entity_tasks.c.job_id == job_id)
    of_task = (
        extraction_tasks.c.state,
        entity_tasks.c.state,
        extraction_tasks.c.record_state,
        extraction_tasks.c.record_reason,
    )
    columns: list[sa.ColumnElement[Any]] = [seq, *SOURCE_COLUMNS, *of_task]
    statement = (
        sa.select(*columns)
        .select_from(
            sources.join(extraction_tasks, of_job, isouter=not by_task).join(entity_tasks, searched, isouter=True)
        )
        .order_by(seq)
        .limit(limit)
    )
    if not by_task:
        # A job stores one source of a URL, and its id tells both.
        its = sources.c.job_id == job_id if url is None else sources.c.id == source_id(job_id, url)
        statement = statement.where(its)
    elif url is not None:
        statement = statement.where(sources.c.url == url)
    if state is not None:
        statement = statement.where(extraction_tasks.c.state == state)
    if url_prefix is not None:
        statement = statement.where(sources.c.url.startswith(url_prefix, autoescape=True))
    if after is not None:
        statement = statement.where(seq > after)
    return [SourceRow(*record) for record in await connection.execute(statement)]


async def get_source(connection: AsyncConnection, source_id: uuid.UUID) -> SourceDocument:
    """One document with its text.

    Raises:
        NotFound: It is not there, or its job's cleanup has begun.
    """
    names = SourceDocument.__dataclass_fields__
    statement = (
        sa.select(*(jobs.c.project if name == "project" else sources.c[name] for name in names))
        .join(jobs, jobs.c.id == sources.c.job_id)
        .where(sources.c.id == source_id, jobs.c.artifacts == Artifacts.PRESENT.value)
    )
    record = (await connection.execute(statement)).first()
    if record is None:
        raise NotFound(f"There is no source {source_id}.")
    return SourceDocument(*record)


async def list_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    *,
    limit: int,
    after: int | None = None,
    state: str | None = None,
    url: str | None = None,
) -> list[PageRow]:
    """The URLs a job has seen, and what became of each.

    Args:
        connection: The transaction.
        job_id: The job.
        limit: Entries at most.
        after: Where the list was left off.
        state: Only those in this state (`ke.storage.tables.PAGE_STATES`); or `changed`, those that have content and
            had other content in the job that was crawled again; or `new`, those that have content and had none.
        url: Only that with exactly this URL, canonical.
    """
    origin = pages.alias("origin")
    told: dict[str, sa.ColumnElement[Any]] = {
        "source_is_stored": _is_stored(pages.c.source_id),
        "previous_is_stored": _is_stored(pages.c.previous_source_id),
        "found_on": sa.select(origin.c.url).where(origin.c.id == pages.c.found_on).correlate(pages).scalar_subquery(),
    }
    statement = (
        sa.select(*(told[name] if name in told else pages.c[name] for name in PageRow.__dataclass_fields__))
        # A job has one page of a URL, and its id tells both.
        .where(pages.c.job_id == job_id if url is None else pages.c.id == page_id(job_id, url))
        .order_by(pages.c.seq)
        .limit(limit)
    )
    if state is not None:
        statement = statement.where(_page_is(state))
    if after is not None:
        statement = statement.where(pages.c.seq > after)
    return [PageRow(*record) for record in await connection.execute(statement)]


def _is_stored(source: sa.ColumnElement[Any]) -> sa.ColumnElement[bool | None]:
    """Whether a document is there, and no cleanup of its job has begun; null where there is none."""
    there = sa.exists().where(
        sources.c.id == source, jobs.c.id == sources.c.job_id, jobs.c.artifacts == Artifacts.PRESENT.value
    )
    return sa.case((source.is_not(None), there))


def _page_is(state: str) -> sa.ColumnElement[bool]:
    if state not in {"changed", "new"}:
        return pages.c.state == state
    was_there = pages.c.previous_source_id.is_not(None)
    return pages.c.state.in_(("fetched", "duplicate")) & (was_there if state == "changed" else ~was_there)


async def list_extractions(
    connection: AsyncConnection, job_id: uuid.UUID, *, limit: int, after: int | None = None
) -> list[ExtractionRow]:
    """The chunks a job made."""
    statement = (
        sa.select(*(extractions.c[name] for name in ExtractionRow.__dataclass_fields__))
        .where(extractions.c.job_id == job_id)
        .order_by(extractions.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(extractions.c.seq > after)
    return [ExtractionRow(*record) for record in await connection.execute(statement)]


async def list_entities(
    connection: AsyncConnection, job_id: uuid.UUID, *, limit: int, after: int | None = None
) -> list[EntityRow]:
    """The named entities a job found."""
    statement = (
        sa.select(
            *(
                extractions.c.source_id if name == "source_id" else entities.c[name]
                for name in EntityRow.__dataclass_fields__
            )
        )
        .join(extractions, extractions.c.id == entities.c.extraction_id)
        .where(entities.c.job_id == job_id)
        .order_by(entities.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(entities.c.seq > after)
    return [EntityRow(*record) for record in await connection.execute(statement)]


async def list_records(
    connection: AsyncConnection, job_id: uuid.UUID, *, limit: int, after: int | None = None
) -> list[RecordRow]:
    """What a language model read out of a job's sources."""
    names = RecordRow.__dataclass_fields__
    statement = (
        sa.select(*(sources.c.url if name == "url" else records.c[name] for name in names))
        .join(sources, sources.c.id == records.c.source_id)
        .where(records.c.job_id == job_id)
        .order_by(records.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(records.c.seq > after)
    return [RecordRow(*record) for record in await connection.execute(statement)]


async def owners_of(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, uuid.UUID]:
    """Which job owns each of these sources; those that are not there are left out."""
    statement = sa.select(sources.c.id, sources.c.job_id).where(sources.c.id.in_(source_ids))
    return {record.id: record.job_id for record in await connection.execute(statement)}


async def projects_of(connection: AsyncConnection, job_ids: Collection[uuid.UUID]) -> list[str]:
    """The projects of these jobs, by name; those whose record is deleted count too."""
    statement = sa.select(jobs.c.project).where(jobs.c.id.in_(job_ids)).distinct().order_by(jobs.c.project)
    return list((await connection.execute(statement)).scalars())


@dataclass(frozen=True, slots=True)
class Owner:
    """A job, as one that owns sources."""

    kind: JobKind
    artifacts: Artifacts
    is_deleted: bool
    """Whether its record is deleted; what it made may still be there."""


async def hold_owners(connection: AsyncConnection, job_ids: Collection[uuid.UUID]) -> dict[uuid.UUID, Owner]:
    """These jobs, those that exist; no cleanup of them begins until the transaction ends."""
    statement = (
        sa.select(jobs.c.id, jobs.c.kind, jobs.c.artifacts, jobs.c.deleted_at)
        .where(jobs.c.id.in_(job_ids))
        .order_by(jobs.c.id)
        .with_for_update(read=True)
    )
    return {
        record.id: Owner(JobKind(record.kind), Artifacts(record.artifacts), record.deleted_at is not None)
        for record in await connection.execute(statement)
    }
