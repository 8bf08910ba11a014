"""Vectors in a Qdrant server or cluster, by its own client.

A Qdrant server knows no fences: a write that was under way when its job was cleaned up may land later. Such a point
is never shown, as search joins Postgres, and a second sweep removes it.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Self, TypeVar

import httpx
from grpc import RpcError  # type: ignore[import-untyped]
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException

from ke.contracts.errors import InvalidInput, NotFound, VectorStoreUnavailable
from ke.storage.vectors.base import Hit, Point
from ke.storage.vectors.checks import (
    as_matrix,
    check_batch,
    check_collection,
    check_dimensions,
    check_epochs,
    check_limit,
    check_matrix,
    check_search_ids,
    following,
)

T = TypeVar("T")

HEALTH_TIMEOUT_S: Final = 1.0
_INDEXED: Final = ("job_id", "owner_job_id", "source_id")
_FAILURES: Final = (RpcError, ApiException, QdrantException, httpx.HTTPError, OSError, TimeoutError)


class ServerVectors:
    """A `VectorStore` over `AsyncQdrantClient`."""

    def __init__(self, client: AsyncQdrantClient, *, timeout_s: float = 10.0) -> None:
        """Takes a client, which it closes, and the deadline of each call, in seconds."""
        self._client = client
        self._timeout_s = timeout_s
        self._dimensions: dict[str, int] = {}

    @classmethod
    def connect(cls, url: str, *, api_key: str | None = None, timeout_s: float = 10.0) -> Self:
        """A store at http(s)://host:6333, over gRPC on port 6334; nothing is sent before the first call."""
        client = AsyncQdrantClient(
            url=url, api_key=api_key, prefer_grpc=True, timeout=max(1, round(timeout_s)), check_compatibility=False
        )
        return cls(client, timeout_s=timeout_s)

    async def ensure_collection(self, collection: str, dimensions: int) -> None:
        """Creates the collection and its indexes when missing; `InvalidInput` when it has another dimension."""
        check_collection(collection)
        check_dimensions(dimensions)
        if not await self._call(lambda: self._client.collection_exists(collection)):
            await self._create(collection, dimensions)
        known = await self._dimensions_of(collection)
        if known != dimensions:
            raise InvalidInput(f"collection {collection} has {known} dimensions, not {dimensions}")

    async def collections(self) -> list[str]:
        """The names of all collections."""
        answer = await self._call(self._client.get_collections)
        return sorted(description.name for description in answer.collections)

    async def upsert(self, collection: str, points: Sequence[Point], *, epochs: Mapping[uuid.UUID, int]) -> None:
        """Writes points and waits until they are applied; epochs are kept with them, but not compared."""
        check_batch(len(points))
        dimensions = await self._dimensions_of(collection)
        if not points:
            return
        check_epochs(points, epochs)
        vectors = as_matrix([point.vector for point in points])
        check_matrix(vectors, dimensions)
        batch = models.Batch(
            ids=[str(point.id) for point in points],
            vectors=vectors.tolist(),
            payloads=[
                {
                    "job_id": str(point.job_id),
                    "owner_job_id": str(point.owner_job_id),
                    "source_id": str(point.source_id),
                    "epoch": epochs[point.job_id],
                }
                for point in points
            ],
        )
        await self._call(lambda: self._client.upsert(collection, points=batch, wait=True))

    async def fence(self, job_id: uuid.UUID, epoch: int) -> bool:  # noqa: ARG002  the protocol's signature
        """A Qdrant server cannot refuse stale writes: always False."""
        return False

    async def delete(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """Deletes points and waits until that is applied; absent ones are no error. Returns how many are left."""
        check_batch(len(ids))
        await self._dimensions_of(collection)
        if not ids:
            return 0
        selector = models.PointIdsList(points=[str(point_id) for point_id in ids])
        await self._call(lambda: self._client.delete(collection, points_selector=selector, wait=True))
        return await self.count_ids(collection, ids)

    async def count_ids(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """How many of these ids are there, exactly."""
        check_batch(len(ids))
        condition = models.HasIdCondition(has_id=[str(point_id) for point_id in ids])
        return await self._count(collection, models.Filter(must=[condition]))

    async def count_job(self, collection: str, job_id: uuid.UUID) -> int:
        """How many points belong to this job, as maker or as owner, exactly."""
        return await self._count(collection, _of_job(job_id))

    async def count_source(self, collection: str, source_id: uuid.UUID) -> int:
        """How many points were made from this source, exactly."""
        return await self._count(collection, _of_source(source_id))

    async def count_all(self, collection: str) -> int:
        """How many points the collection has, exactly."""
        return await self._count(collection, None)

    async def present(self, collection: str, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Which of these ids are there."""
        check_batch(len(ids))
        await self._dimensions_of(collection)
        if not ids:
            return set()
        wanted = [str(point_id) for point_id in ids]
        found = await self._call(
            lambda: self._client.retrieve(collection, ids=wanted, with_payload=False, with_vectors=False)
        )
        return {uuid.UUID(str(record.id)) for record in found}

    async def search(
        self,
        collection: str,
        vector: Sequence[float],
        *,
        limit: int,
        job_ids: Sequence[uuid.UUID] | None = None,
        ids: Sequence[uuid.UUID] | None = None,
    ) -> list[Hit]:
        """The nearest points, best first; with `job_ids` or `ids` only those made by these jobs, or named."""
        check_limit(limit)
        row = as_matrix([vector])
        check_matrix(row, await self._dimensions_of(collection))
        check_search_ids(ids)
        must: list[models.Condition] = []
        if job_ids is not None:
            match = models.MatchAny(any=[str(job_id) for job_id in job_ids])
            must.append(models.FieldCondition(key="job_id", match=match))
        if ids is not None:
            must.append(models.HasIdCondition(has_id=[str(point_id) for point_id in ids]))
        if any(names is not None and not names for names in (job_ids, ids)):
            return []
        answer = await self._call(
            lambda: self._client.query_points(
                collection,
                query=row[0].tolist(),
                query_filter=models.Filter(must=must) if must else None,
                limit=limit,
                with_payload=False,
            )
        )
        return [Hit(id=uuid.UUID(str(point.id)), score=point.score) for point in answer.points]

    async def scroll_job(
        self, collection: str, job_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of this job's points, in order, after `after`."""
        return await self._scroll(collection, _of_job(job_id), limit, after)

    async def scroll_source(
        self, collection: str, source_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of the points that were made from this source, in order, after `after`."""
        return await self._scroll(collection, _of_source(source_id), limit, after)

    async def scroll_all(self, collection: str, *, limit: int, after: uuid.UUID | None = None) -> list[uuid.UUID]:
        """Ids of the collection's points, in order, after `after`."""
        return await self._scroll(collection, None, limit, after)

    async def healthy(self) -> bool:
        """Whether the server answers within a second."""
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_S):
                await self._call(self._client.get_collections)
        except (VectorStoreUnavailable, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Ends the connections."""
        await self._client.close()

    async def _create(self, collection: str, dimensions: int) -> None:
        parameters = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        try:
            await self._call(lambda: self._client.create_collection(collection, vectors_config=parameters))
        except VectorStoreUnavailable:
            # Another process may have made it in between; then it is there, and that is what was asked for.
            if not await self._call(lambda: self._client.collection_exists(collection)):
                raise
        for field in _INDEXED:
            await self._index(collection, field)

    async def _index(self, collection: str, field: str) -> None:
        schema = models.PayloadSchemaType.UUID
        await self._call(lambda: self._client.create_payload_index(collection, field, field_schema=schema, wait=True))

    async def _count(self, collection: str, matching: models.Filter | None) -> int:
        await self._dimensions_of(collection)
        answer = await self._call(lambda: self._client.count(collection, count_filter=matching, exact=True))
        return int(answer.count)

    async def _scroll(
        self, collection: str, matching: models.Filter | None, limit: int, after: uuid.UUID | None
    ) -> list[uuid.UUID]:
        check_limit(limit)
        await self._dimensions_of(collection)
        offset = following(after)
        if after is not None and offset is None:
            return []
        records, _ = await self._call(
            lambda: self._client.scroll(
                collection,
                scroll_filter=matching,
                limit=limit,
                offset=None if offset is None else str(offset),
                with_payload=False,
            )
        )
        return [uuid.UUID(str(record.id)) for record in records]

    async def _dimensions_of(self, collection: str) -> int:
        check_collection(collection)
        if collection not in self._dimensions:
            if not await self._call(lambda: self._client.collection_exists(collection)):
                raise NotFound(f"there is no collection {collection!r}")
            info = await self._call(lambda: self._client.get_collection(collection))
            parameters = info.config.params.vectors
            if not isinstance(parameters, models.VectorParams):
                raise InvalidInput(f"collection {collection} was not made by ke: it has named vectors")
            self._dimensions[collection] = parameters.size
        return self._dimensions[collection]

    async def _call(self, run: Callable[[], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await run()
        except _FAILURES as error:
            raise VectorStoreUnavailable(f"the vector store did not answer: {error or type(error).__name__}") from error


def _of_job(job_id: uuid.UUID) -> models.Filter:
    match = models.MatchValue(value=str(job_id))
    return models.Filter(should=[models.FieldCondition(key=key, match=match) for key in ("job_id", "owner_job_id")])


def _of_source(source_id: uuid.UUID) -> models.Filter:
    match = models.MatchValue(value=str(source_id))
    return models.Filter(must=[models.FieldCondition(key="source_id", match=match)])
