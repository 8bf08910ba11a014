"""What a cleanup is about: for a job, or for one source, which rows and which points."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import sqlalchemy as sa

from ke.contracts.cleanup import CleanupScope
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

    @property
    def pages(self) -> sa.ColumnElement[bool]:
        """Its entries of the frontier; of a source those that name it: by its URL, or as the same document.

        Those of other jobs among them, which crawled it again and found it as it was, or gone.

        A source's are found by its row, so they go before it.
        """
        if self.source_id is None:
            return pages.c.job_id == self.job_id

        def its(column: sa.Column[object]) -> sa.ScalarSelect[object]:
            return sa.select(column).where(sources.c.id == self.source_id).scalar_subquery()

        url = its(sources.c.url)
        same = sa.or_(pages.c.url == url, pages.c.final_url == url, pages.c.content_hash == its(sources.c.content_hash))
        return ((pages.c.job_id == self.job_id) & same) | (pages.c.source_id == self.source_id)

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
