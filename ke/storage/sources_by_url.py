"""Stored documents of all jobs by their URLs, in the order of these: of one URL the newest first."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Artifacts
from ke.storage.listing import SOURCE_COLUMNS, SourceRow
from ke.storage.search import begins, prefer_indexes
from ke.storage.tables import jobs, sources

_BY_URL: Final[sa.ColumnElement[str]] = sa.literal_column("sources.url USING ~<~")
"""The order of `ix_sources_url`, which compares bytes: a part of a list is read from the index, not sorted."""


async def list_sources_by_url(
    connection: AsyncConnection,
    *,
    url: str | None = None,
    url_prefix: str | None = None,
    limit: int,
    after: tuple[str, int] | None = None,
) -> Sequence[SourceRow]:
    """The documents with a URL, or with URLs that begin so; not those whose job is being cleaned up.

    Args:
        connection: The transaction.
        url: Exactly this URL, canonical.
        url_prefix: What the URL begins with.
        limit: Entries at most.
        after: URL and `seq` of the last entry that was given out.
    """
    await prefer_indexes(connection)
    found = await connection.execute(by_url(url=url, url_prefix=url_prefix, limit=limit, after=after))
    return [SourceRow(*record) for record in found]


def by_url(
    *, url: str | None, url_prefix: str | None, limit: int, after: tuple[str, int] | None
) -> sa.Select[*tuple[Any, ...]]:
    """The statement of `list_sources_by_url`."""
    nothing = (sa.null(),) * 4
    # Not a join: which job a document is of is looked up for what the index gives, and not the other way round.
    artifacts = sa.select(jobs.c.artifacts).where(jobs.c.id == sources.c.job_id).scalar_subquery()
    return (
        sa.select(sources.c.seq, *SOURCE_COLUMNS, *nothing)
        .where(artifacts == Artifacts.PRESENT.value, *_conditions(url, url_prefix, after))
        .order_by(_BY_URL, sources.c.seq.desc())
        .limit(limit)
    )


def _conditions(url: str | None, url_prefix: str | None, after: tuple[str, int] | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if url is not None:
        found.append(sources.c.url == url)
    if url_prefix is not None:
        found.append(begins(sources.c.url, url_prefix))
    if after is not None:
        last, seq = after
        # The first is what the index begins at.
        found.append(sources.c.url.op("~>=~", is_comparison=True)(last))
        found.append(sa.or_(sources.c.url != last, sources.c.seq < seq))
    return found
