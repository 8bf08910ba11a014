"""Which pages of other jobs have documents that a cleanup deletes: re-crawls found them as they were."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import RelyingPages
from ke.contracts.jobs import Artifacts
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.tables import jobs, pages, sources

MAX_NAMED: Final = 10
"""Jobs that a receipt names."""


async def relying_on(connection: AsyncConnection, target: CleanupTarget) -> RelyingPages:
    """The pages of other jobs whose document is one of a job, or this one source."""
    return await _relying(connection, target.sources, pages.c.job_id != target.job_id)


async def relying_on_project(connection: AsyncConnection, project: str) -> RelyingPages:
    """The pages of jobs of other projects whose document is one of this project."""
    its = sa.select(jobs.c.id).where(jobs.c.project == project).correlate(None)
    return await _relying(connection, sources.c.job_id.in_(its), jobs.c.project != project)


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
