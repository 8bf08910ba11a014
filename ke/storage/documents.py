"""Stored documents: whether they are there to be pointed to, and how they read."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupStatus
from ke.contracts.jobs import Artifacts
from ke.contracts.naming import source_cleanup_id
from ke.storage.arrays import among
from ke.storage.tables import cleanups, jobs, pages, sources

_SEPARATOR: Final = "\x1f"
_receipt: Final = sa.literal(source_cleanup_id("")).op("||")(sa.cast(sources.c.id, sa.Text))

PRESENT: Final = sa.and_(
    jobs.c.id == sources.c.job_id,
    jobs.c.artifacts == Artifacts.PRESENT.value,
    ~sa.exists().where(cleanups.c.id == _receipt, cleanups.c.status != CleanupStatus.CLEANED.value).correlate(sources),
)
"""Joins a source with the job that owns it, where no cleanup of either has begun."""
READING: Final = sa.func.sha256(
    sa.func.convert_to(sa.func.coalesce(sources.c.title, "") + _SEPARATOR + sources.c.text, "UTF8")
)
"""How a source reads: what `reading_of` says of its title and text."""


def reading_of(title: str | None, text: str) -> bytes:
    """SHA-256 of a document's title and text."""
    return hashlib.sha256(f"{title or ''}{_SEPARATOR}{text}".encode()).digest()


def unguessed(job_id: sa.ColumnElement[uuid.UUID]) -> sa.ScalarSelect[uuid.UUID]:
    """A job's id that the planner does not take for a plain value.

    Of that a new job has no statistics, and all its rows would be read where a few are looked up.
    """
    return sa.select(job_id).scalar_subquery()


def a_page_with(
    document: sa.ColumnElement[uuid.UUID], job_id: sa.ColumnElement[uuid.UUID], in_state: sa.ColumnElement[bool]
) -> sa.ScalarSelect[int]:
    """Not NULL where a page of a job has a document, in a state: looked up by the index, document by document."""
    mine = (pages.c.source_id == document) & (pages.c.job_id == unguessed(job_id))
    return sa.select(sa.literal(1)).where(mine, in_state).limit(1).scalar_subquery()


@dataclass(frozen=True, slots=True)
class StoredReading:
    """How a source reads, and what it says of itself."""

    url: str
    reading: bytes
    metadata: Mapping[str, Any]


async def present_sources(connection: AsyncConnection, source_ids: Sequence[uuid.UUID]) -> frozenset[uuid.UUID]:
    """Those of the sources that are there, and of which no cleanup has begun."""
    statement = sa.select(sources.c.id).join(jobs, PRESENT).where(among(sources.c.id, source_ids))
    return frozenset((await connection.execute(statement)).scalars())


async def stored_readings(
    connection: AsyncConnection, source_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, StoredReading]:
    """How those of the sources read that are there, and of which no cleanup has begun."""
    columns = (sources.c.url, READING.label("reading"), sources.c.metadata)
    statement = sa.select(sources.c.id, *columns).join(jobs, PRESENT).where(among(sources.c.id, source_ids))
    found = await connection.execute(statement)
    return {record.id: StoredReading(record.url, record.reading, record.metadata) for record in found}
