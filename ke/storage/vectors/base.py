"""What `ke` asks of a vector store; `edge.py` and `server.py` answer it, under one contract test."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

MAX_BATCH: Final = 1000
"""Points in one call, at most."""
MAX_SEARCH_IDS: Final = 5000
"""Points that a search may be confined to by name, at most."""


@dataclass(frozen=True, slots=True)
class Point:
    """One vector and what it belongs to. The id is the extraction's."""

    id: uuid.UUID
    vector: Sequence[float]
    job_id: uuid.UUID
    """The job that made the extraction."""
    owner_job_id: uuid.UUID
    """The job that owns the source it was made from."""
    source_id: uuid.UUID


@dataclass(frozen=True, slots=True)
class Hit:
    """A point found by a search. Whether it may be shown is Postgres's word, not the vector store's."""

    id: uuid.UUID
    score: float
    """Cosine similarity."""


class VectorStore(Protocol):
    """A store of points in collections, one collection for each embedder and dimension.

    Every method raises `VectorStoreUnavailable` when the store does not answer within its deadline, `NotFound` for a
    collection that is not there, and `InvalidInput` for a batch, limit or name out of range, or a vector of the
    wrong length or with a value that is not a finite number, before anything of its batch is written.
    """

    async def ensure_collection(self, collection: str, dimensions: int) -> None:
        """Creates the collection (cosine distance) and its payload indexes when it is missing."""
        ...

    async def collections(self) -> list[str]:
        """The names of all collections."""
        ...

    async def upsert(self, collection: str, points: Sequence[Point], *, epochs: Mapping[uuid.UUID, int]) -> None:
        """Writes at most `MAX_BATCH` points, durable when it returns.

        Args:
            collection: An existing collection.
            points: The points; one with the same id replaces the old one.
            epochs: The write epoch under which the caller works, for each job named in the points.

        Raises:
            Fenced: One of the epochs is older than the fence of its job (the embedded store only).
        """
        ...

    async def fence(self, job_id: uuid.UUID, epoch: int) -> bool:
        """From now on refuses writes for this job under an older epoch; returns whether the store can do that."""
        ...

    async def delete(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """Deletes at most `MAX_BATCH` points, durable when it returns; ids that are not there are no error.

        Returns:
            How many of them are there afterwards, counted exactly: 0, unless the store failed.
        """
        ...

    async def count_ids(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """How many of these ids are there, exactly."""
        ...

    async def count_job(self, collection: str, job_id: uuid.UUID) -> int:
        """How many points belong to this job, as maker or as owner of the source, exactly."""
        ...

    async def count_source(self, collection: str, source_id: uuid.UUID) -> int:
        """How many points were made from this source, by whichever job, exactly."""
        ...

    async def count_all(self, collection: str) -> int:
        """How many points the collection has, exactly."""
        ...

    async def present(self, collection: str, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Which of at most `MAX_BATCH` ids are there."""
        ...

    async def search(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        limit: int,
        job_ids: Sequence[uuid.UUID] | None = None,
        ids: Sequence[uuid.UUID] | None = None,
    ) -> list[Hit]:
        """The nearest points, best first; with `job_ids` or `ids` only those made by these jobs, or named.

        Through a graph a store may miss a few of them: fewer than 2 in 100 of the ten nearest. With `ids` none.

        Args:
            collection: An existing collection.
            vector: What they shall be near to.
            limit: Points, at most.
            job_ids: Jobs that made the points.
            ids: At most `MAX_SEARCH_IDS` points; those that are not there are no error.
        """
        ...

    async def scroll_job(
        self, collection: str, job_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of this job's points (as maker or owner), in order of id, after `after`."""
        ...

    async def scroll_source(
        self, collection: str, source_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of the points that were made from this source, in order of id, after `after`."""
        ...

    async def scroll_all(self, collection: str, *, limit: int, after: uuid.UUID | None = None) -> list[uuid.UUID]:
        """Ids of the collection's points, in order of id, after `after`."""
        ...

    async def healthy(self) -> bool:
        """Whether the store answers within a second; never raises."""
        ...

    async def close(self) -> None:
        """Ends the connections."""
        ...
