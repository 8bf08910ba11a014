"""Postgres's word on what a search may show."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Artifacts
from ke.storage.tables import extractions, jobs, sources


@dataclass(frozen=True, slots=True)
class FoundChunk:
    """A chunk that may be shown, with the document it is from."""

    id: uuid.UUID
    job_id: uuid.UUID
    source_id: uuid.UUID
    text: str
    heading: str
    url: str
    title: str | None


async def visible_chunks(
    connection: AsyncConnection,
    ids: Sequence[uuid.UUID],
    *,
    project: str | None = None,
) -> dict[uuid.UUID, FoundChunk]:
    """Those of the extractions that may be shown: ready, with their source, and neither job in cleanup.

    Args:
        connection: The transaction.
        ids: Ids of points that the vector store found; late or left-over points have no row here.
        project: Only chunks made by jobs of this project.
    """
    maker, owner = jobs.alias("maker"), jobs.alias("owner")
    statement = (
        sa.select(
            extractions.c.id,
            extractions.c.job_id,
            extractions.c.source_id,
            extractions.c.text,
            extractions.c.heading,
            sources.c.url,
            sources.c.title,
        )
        .join(sources, sources.c.id == extractions.c.source_id)
        .join(maker, maker.c.id == extractions.c.job_id)
        .join(owner, owner.c.id == extractions.c.owner_job_id)
        .where(extractions.c.id.in_(ids), extractions.c.state == "ready")
    )
    for job in (maker, owner):
        # A deleted record whose artifacts were left on purpose still answers.
        statement = statement.where(job.c.artifacts == Artifacts.PRESENT.value)
    if project is not None:
        statement = statement.where(maker.c.project == project)
    return {record.id: FoundChunk(*record) for record in await connection.execute(statement)}
