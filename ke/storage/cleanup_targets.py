"""What a cleanup is about: for a job, or for one source, which rows and which points."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupScope
from ke.contracts.ids import page_id
from ke.contracts.naming import cleanup_id, source_cleanup_id
from ke.storage.tables import dead_letters, entity_tasks, extraction_tasks, extractions, pages, records, sources
from ke.storage.vectors.base import VectorStore


class _Named(Protocol):
    @property
    def job_id(self) -> str: ...
    @property
    def source_id(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class CleanupTarget:
    """A job with all that it made, or one source with all that was made of it.

    Its conditions say which rows of a table belong to it. Nothing else in a cleanup knows what it is about.
    """

    job_id: uuid.UUID
    """The job; of a source the one that owns it."""
    source_id: uuid.UUID | None = None

    @classmethod
    def of(cls, named: _Named) -> Self:
        """The target that the input of a cleanup names."""
        return cls(uuid.UUID(named.job_id), uuid.UUID(named.source_id) if named.source_id is not None else None)

    @property
    def scope(self) -> CleanupScope:
        """What kind of thing it is."""
        return CleanupScope.JOB if self.source_id is None else CleanupScope.SOURCE

    @property
    def receipt_id(self) -> str:
        """The id of its receipt, which is that of its workflow."""
        return cleanup_id(str(self.job_id)) if self.source_id is None else source_cleanup_id(str(self.source_id))

    @property
    def subject(self) -> str:
        """What it is, for people."""
        return f"job {self.job_id}" if self.source_id is None else f"source {self.source_id}"

    # Rows

    @property
    def sources(self) -> sa.ColumnElement[bool]:
        """Its sources."""
        return sources.c.job_id == self.job_id if self.source_id is None else sources.c.id == self.source_id

    @property
    def owned(self) -> sa.ColumnElement[bool]:
        """The extractions of its sources, by whichever job; they go with the source."""
        if self.source_id is None:
            return extractions.c.owner_job_id == self.job_id
        return extractions.c.source_id == self.source_id

    @property
    def made(self) -> sa.ColumnElement[bool]:
        """The extractions that it made of sources that are not its own."""
        if self.source_id is None:
            return (extractions.c.job_id == self.job_id) & (extractions.c.owner_job_id != self.job_id)
        return sa.false()

    @property
    def owned_records(self) -> sa.ColumnElement[bool]:
        """The records of its sources, by whichever job; they go with the source."""
        if self.source_id is None:
            return records.c.owner_job_id == self.job_id
        return records.c.source_id == self.source_id

    @property
    def made_records(self) -> sa.ColumnElement[bool]:
        """The records that it made of sources that are not its own."""
        if self.source_id is None:
            return (records.c.job_id == self.job_id) & (records.c.owner_job_id != self.job_id)
        return sa.false()

    @property
    def extraction_tasks(self) -> sa.ColumnElement[bool]:
        """Its entries of extract lanes."""
        return self._tasks(extraction_tasks)

    @property
    def entity_tasks(self) -> sa.ColumnElement[bool]:
        """Its entries of entities lanes."""
        return self._tasks(entity_tasks)

    def _tasks(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return table.c.job_id == self.job_id if self.source_id is None else table.c.source_id == self.source_id

    @property
    def dead_letters(self) -> sa.ColumnElement[bool]:
        """Its dead letters; a source has one for each job that could not extract it."""
        if self.source_id is None:
            return dead_letters.c.job_id == self.job_id
        return dead_letters.c.subject.in_(("source", "record")) & (dead_letters.c.subject_id == self.source_id)

    async def pages(self, connection: AsyncConnection) -> sa.ColumnElement[bool]:
        """Its entries of the frontier; of a source those that name it: as their document, by its URL or its content.

        Entries of other jobs, which crawled it again and found it as it was, are among them. Those that found it gone
        are not: they are a finding of that job's, see `gone_pages`. A source's are found by its row, so they go first.
        """
        if self.source_id is None:
            return pages.c.job_id == self.job_id
        is_its_own = (pages.c.source_id == self.source_id) & ~self._found_gone
        its = sa.select(sources.c.url, sources.c.content_hash).where(sources.c.id == self.source_id)
        found = (await connection.execute(its)).first()
        if found is None:
            return is_its_own
        # What has no document has another address or content in common with this one; two indexes hold such pages only.
        has_none = (pages.c.job_id == self.job_id) & pages.c.source_id.is_(None)
        return sa.or_(
            is_its_own,
            (pages.c.id == page_id(self.job_id, found.url)) & pages.c.source_id.is_(None),
            has_none & (pages.c.final_url == found.url),
            has_none & (pages.c.content_hash == found.content_hash),
        )

    @property
    def gone_pages(self) -> sa.ColumnElement[bool]:
        """The entries of other jobs that have found a source's page gone: they stay, and lose their document."""
        if self.source_id is None:
            return sa.false()
        return (pages.c.source_id == self.source_id) & self._found_gone

    @property
    def _found_gone(self) -> sa.ColumnElement[bool]:
        return (pages.c.state == "gone") & (pages.c.job_id != self.job_id)

    # Points

    async def count_points(self, vectors: VectorStore, collection: str) -> int:
        """How many points a collection has of it, exactly.

        Raises:
            VectorStoreUnavailable: The store did not answer.
        """
        if self.source_id is None:
            return await vectors.count_job(collection, self.job_id)
        return await vectors.count_source(collection, self.source_id)

    async def scroll_points(
        self, vectors: VectorStore, collection: str, *, limit: int, after: uuid.UUID | None
    ) -> Sequence[uuid.UUID]:
        """The ids of its points, in order, after `after`.

        Raises:
            VectorStoreUnavailable: The store did not answer.
        """
        if self.source_id is None:
            return await vectors.scroll_job(collection, self.job_id, limit=limit, after=after)
        return await vectors.scroll_source(collection, self.source_id, limit=limit, after=after)
