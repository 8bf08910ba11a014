"""Postgres's word on what a search may show: which chunks are there to be seen, and which of them a filter takes."""

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Artifacts
from ke.storage.tables import entities, extractions, jobs, sources

MAX_PROJECT_JOBS: Final = 100
"""Jobs by which the vector store is asked for a project; one with more is searched by its chunks."""

_LANGUAGE_CHARS: Final = 35
_NAME_CHARS: Final = 64
_DAY: Final = r"^\d{4}-\d\d-\d\d"
_language: Final = sa.literal_column(f"\"left\"(sources.metadata ->> 'language', {_LANGUAGE_CHARS})", sa.Text)
_date: Final = sa.literal_column("\"left\"(sources.metadata ->> 'date', 10)", sa.Text)
_maker, _owner = jobs.alias("maker"), jobs.alias("owner")

Chunks: TypeAlias = "sa.Select[Any]"
"""A statement over chunks."""


class Document(NamedTuple):
    """What copies of one page have in common that several jobs of a project have stored."""

    project: str
    """Of the job that owns the source."""
    url: str
    content_hash: bytes


DOCUMENT: Final = (_owner.c.project, sources.c.url, sources.c.content_hash)
"""The columns of a `Document`, in a statement over chunks."""


@dataclass(frozen=True, slots=True)
class ChunkFilter:
    """What a search is confined to; None: anything. All that is given must hold."""

    job_ids: tuple[uuid.UUID, ...] | None = None
    """Jobs that made the chunk."""
    project: str | None = None
    """Of the job that made the chunk."""
    url_prefix: str | None = None
    language: str | None = None
    """`en` takes `en-gb` too; a source whose language is not known is left out."""
    date_from: date | None = None
    """The first day on which the source was published; one whose day is not known is left out."""
    date_to: date | None = None
    """The last day."""
    entity: str | None = None
    """A named entity that the chunk mentions, in whatever case."""
    entity_label: str | None = None
    """What kind of entity that is."""

    @property
    def is_of_jobs(self) -> bool:
        """Whether a list of jobs can say all of it."""
        return self == ChunkFilter(job_ids=self.job_ids, project=self.project)


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk that may be shown, with the document it is from."""

    id: uuid.UUID
    job_id: uuid.UUID
    project: str
    """Of the job that made it, as a filter has it."""
    source_id: uuid.UUID
    text: str
    heading: str
    url: str
    title: str | None
    date: str | None
    """The day on which the source was published, as it says itself: YYYY-MM-DD; None: it does not say one."""
    language: str | None
    fetched_at: datetime


def showable(columns: Sequence[sa.ColumnElement[Any]], matching: ChunkFilter) -> Chunks:
    """A statement over the chunks that may be shown and that fit a filter.

    They are ready, with their source, and neither the job that made them nor the one that owns the source is being, or
    was, cleaned up. A deleted record whose artifacts were left on purpose still answers.
    """
    present: sa.ColumnClause[str] = sa.literal_column(f"'{Artifacts.PRESENT.value}'")
    statement = (
        sa.select(*columns)
        .select_from(extractions)
        .join(sources, sources.c.id == extractions.c.source_id)
        .join(_maker, _maker.c.id == extractions.c.job_id)
        .join(_owner, _owner.c.id == extractions.c.owner_job_id)
        # Literals, by which the planner knows the partial indexes.
        .where(extractions.c.state == sa.literal_column("'ready'"))
        .where(_maker.c.artifacts == present, _owner.c.artifacts == present)
    )
    return statement.where(*_conditions(matching))


def _conditions(matching: ChunkFilter) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if matching.job_ids is not None:
        found.append(extractions.c.job_id.in_(matching.job_ids))
    if matching.project is not None:
        found.append(_maker.c.project == matching.project)
    if matching.url_prefix is not None:
        found.append(begins(sources.c.url, matching.url_prefix))
    if matching.language is not None:
        found.append(_is_language(matching.language.lower()))
    if matching.date_from is not None or matching.date_to is not None:
        found += _is_between(matching.date_from, matching.date_to)
    if matching.entity is not None:
        found.append(_mentions(matching.entity, matching.entity_label))
    return found


def _is_language(language: str) -> sa.ColumnElement[bool]:
    return sa.or_(_language == language, begins(_language, f"{language}-"), begins(_language, f"{language}_"))


def _is_between(first: date | None, last: date | None) -> list[sa.ColumnElement[bool]]:
    """Days as ISO 8601 has them order like texts; `~>=~` and `~<~` compare bytes, as the index does."""
    found: list[sa.ColumnElement[bool]] = [_date.regexp_match(_DAY)]
    if first is not None:
        found.append(_date.op("~>=~", is_comparison=True)(first.isoformat()))
    if last is not None and last < date.max:
        found.append(_date.op("~<~", is_comparison=True)((last + timedelta(days=1)).isoformat()))
    return found


def _mentions(name: str, label: str | None) -> sa.ColumnElement[bool]:
    lowered = sa.func.lower(sa.literal(name))
    beginning = sa.literal_column(f'"left"(lower(entities.text), {_NAME_CHARS})', sa.Text)
    mention = sa.select(sa.literal(1)).where(
        entities.c.extraction_id == extractions.c.id,
        beginning == sa.func.left(lowered, _NAME_CHARS),
        sa.func.lower(entities.c.text) == lowered,
    )
    if label is not None:
        mention = mention.where(entities.c.label == label)
    return sa.exists(mention)


def begins(value: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """That a text begins so: a range of bytes, which the index knows whatever the plan; LIKE it knows by a constant."""
    last = chr(sys.maxunicode)
    return sa.and_(value.op("~>=~", is_comparison=True)(prefix), value.op("~<~", is_comparison=True)(f"{prefix}{last}"))


async def prefer_indexes(connection: AsyncConnection) -> None:
    """Lets the statements of this transaction go by the indexes, and be planned for the values that they have.

    One with a LIMIT over a word that the statistics call common would be planned as a walk through the whole table,
    which finds nothing for long when they are wrong; and a plan for any URL takes each prefix for a rare one.
    """
    await connection.exec_driver_sql(
        "SELECT set_config('enable_seqscan', 'off', true), set_config('plan_cache_mode', 'force_custom_plan', true)"
    )


async def visible_chunks(
    connection: AsyncConnection, ids: Sequence[uuid.UUID], matching: ChunkFilter = ChunkFilter()
) -> dict[uuid.UUID, FoundChunk]:
    """Those of the extractions that may be shown and fit the filter.

    Args:
        connection: The transaction.
        ids: Ids of points that the vector store found; late or left-over points have no row here.
        matching: The filter.
    """
    columns = (
        extractions.c.id,
        extractions.c.job_id,
        _maker.c.project,
        extractions.c.source_id,
        extractions.c.text,
        extractions.c.heading,
        sources.c.url,
        sources.c.title,
        sa.case((_date.regexp_match(_DAY), _date)).label("date"),
        _language.label("language"),
        sources.c.fetched_at,
    )
    statement = showable(columns, matching).where(extractions.c.id == sa.any_(_uuids(ids)))
    found = (FoundChunk(**record) for record in (await connection.execute(statement)).mappings())
    return {chunk.id: chunk for chunk in found}


async def fitting_chunks(
    connection: AsyncConnection,
    matching: ChunkFilter,
    *,
    limit: int,
    after: uuid.UUID | None = None,
) -> list[uuid.UUID]:
    """Ids of chunks that may be shown and fit the filter, at most `limit`.

    Args:
        connection: The transaction.
        matching: The filter.
        limit: How many, at most.
        after: None: any, in no order, as the filter's index gives them. Otherwise in order, those behind this id.
    """
    statement = showable([extractions.c.id], matching).limit(limit)
    if after is not None:
        statement = statement.where(extractions.c.id > after).order_by(extractions.c.id)
    return list((await connection.execute(statement)).scalars())


async def project_jobs(connection: AsyncConnection, project: str) -> list[uuid.UUID] | None:
    """The jobs of a project that have something to show; None when there are more than `MAX_PROJECT_JOBS`."""
    statement = (
        sa.select(jobs.c.id)
        .where(jobs.c.project == project, jobs.c.artifacts == Artifacts.PRESENT.value)
        .limit(MAX_PROJECT_JOBS + 1)
    )
    found = list((await connection.execute(statement)).scalars())
    return None if len(found) > MAX_PROJECT_JOBS else found


async def embedders_of(
    connection: AsyncConnection, names: Sequence[str], matching: ChunkFilter = ChunkFilter()
) -> list[str]:
    """Those of the embedders by which a chunk was embedded that may be shown and fits the filter."""
    found = []
    for name in names:
        one = showable([extractions.c.id], matching).where(extractions.c.embedder == name).limit(1)
        if (await connection.execute(one)).first() is not None:
            found.append(name)
    return found


def _uuids(ids: Sequence[uuid.UUID]) -> sa.ColumnElement[Any]:
    return sa.bindparam(None, list(ids), type_=sa.ARRAY(sa.UUID(as_uuid=True)), unique=True)
