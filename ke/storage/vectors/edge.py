"""The embedded vector store, from outside: a client of `edge_server.py` over its Unix socket."""

import asyncio
import base64
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from ke.contracts.errors import Fenced, InvalidInput, KeError, NotFound, VectorStoreUnavailable
from ke.storage.vectors.base import Hit, Point
from ke.storage.vectors.checks import (
    as_matrix,
    check_batch,
    check_collection,
    check_epochs,
    check_matrix,
    check_search_ids,
)
from ke.storage.vectors.edge_searches import CONNECTIONS, SearchClient

HEALTH_TIMEOUT_S: Final = 1.0
CALLS: Final = 32
"""Of one client at once, beside its searches, whose connections stay open."""
_ERRORS: Final[dict[str, type[KeError]]] = {error.code: error for error in (Fenced, InvalidInput, NotFound)}


class EdgeVectors:
    """A `VectorStore` over the socket of the embedded vector store; one for all tasks of an event loop.

    It may be made before the process is up, and outlives restarts of it: every call takes a connection that works.
    """

    def __init__(self, socket: Path, *, timeout_s: float = 10.0) -> None:
        """Takes the socket's path and the deadline of each call, in seconds."""
        self._socket = socket
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._searches = SearchClient()

    async def ensure_collection(self, collection: str, dimensions: int) -> None:
        """Creates the collection when it is missing; `InvalidInput` when it has another dimension."""
        await self._call("PUT", _path(collection), {"dimensions": dimensions})

    async def collections(self) -> list[str]:
        """The names of all collections."""
        return list((await self._call("GET", "/collections"))["collections"])

    async def upsert(self, collection: str, points: Sequence[Point], *, epochs: Mapping[uuid.UUID, int]) -> None:
        """Writes points, all or none, durable when it returns; `Fenced` when an epoch is too old."""
        if not points:
            return
        check_batch(len(points))
        check_epochs(points, epochs)
        vectors = as_matrix([point.vector for point in points])
        check_matrix(vectors, vectors.shape[1])
        await self._call(
            "POST",
            f"{_path(collection)}/upsert",
            {
                "points": [(p.id, p.job_id, p.owner_job_id, p.source_id) for p in points],
                "dimensions": vectors.shape[1],
                "vectors": base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii"),
                "epochs": {str(job_id): epoch for job_id, epoch in epochs.items()},
            },
        )

    async def fence(self, job_id: uuid.UUID, epoch: int) -> bool:
        """From now on refuses this job's writes under an older epoch; always possible here."""
        await self._call("PUT", f"/fences/{job_id}", {"epoch": epoch})
        return True

    async def delete(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """Deletes points, durable when it returns; absent ones are no error. Returns how many are left, exactly."""
        check_batch(len(ids))
        if not ids:
            return 0
        return int((await self._call("POST", f"{_path(collection)}/delete", {"ids": list(ids)}))["left"])

    async def count_ids(self, collection: str, ids: Sequence[uuid.UUID]) -> int:
        """How many of these ids are there, exactly."""
        check_batch(len(ids))
        return await self._count(collection, {"ids": list(ids)})

    async def count_job(self, collection: str, job_id: uuid.UUID) -> int:
        """How many points belong to this job, as maker or as owner, exactly."""
        return await self._count(collection, {"job_id": job_id})

    async def count_source(self, collection: str, source_id: uuid.UUID) -> int:
        """How many points were made from this source, exactly."""
        return await self._count(collection, {"source_id": source_id})

    async def count_all(self, collection: str) -> int:
        """How many points the collection has, exactly."""
        return await self._count(collection, {})

    async def present(self, collection: str, ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
        """Which of these ids are there."""
        check_batch(len(ids))
        answer = await self._call("POST", f"{_path(collection)}/present", {"ids": list(ids)})
        return {uuid.UUID(point) for point in answer["ids"]}

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
        check_search_ids(ids)
        check_collection(collection)
        content = {
            "collection": collection,
            "limit": limit,
            "job_ids": None if job_ids is None else list(job_ids),
            "ids": None if ids is None else list(ids),
        }
        row = as_matrix([vector]).astype("<f4").tobytes()
        with _translated():
            async with asyncio.timeout(self._timeout_s):
                answer = _checked(*await self._searches.ask(self._open_session(), content, row))
        return [Hit(id=uuid.UUID(point), score=score) for point, score in answer["hits"]]

    async def scroll_job(
        self, collection: str, job_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of this job's points, in order, after `after`."""
        return await self._scroll(collection, {"job_id": job_id, "limit": limit, "after": after})

    async def scroll_source(
        self, collection: str, source_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of the points that were made from this source, in order, after `after`."""
        return await self._scroll(collection, {"source_id": source_id, "limit": limit, "after": after})

    async def scroll_all(self, collection: str, *, limit: int, after: uuid.UUID | None = None) -> list[uuid.UUID]:
        """Ids of the collection's points, in order, after `after`."""
        return await self._scroll(collection, {"limit": limit, "after": after})

    async def healthy(self) -> bool:
        """Whether the process answers within a second."""
        try:
            await self._call("GET", "/healthz", timeout_s=HEALTH_TIMEOUT_S)
        except KeError:
            return False
        return True

    async def close(self) -> None:
        """Ends the connections."""
        await self._searches.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _count(self, collection: str, which: dict[str, Any]) -> int:
        answer = await self._call("POST", f"{_path(collection)}/count", which)
        return int(answer["count"])

    async def _scroll(self, collection: str, page: dict[str, Any]) -> list[uuid.UUID]:
        answer = await self._call("POST", f"{_path(collection)}/scroll", page)
        return [uuid.UUID(point) for point in answer["ids"]]

    def _open_session(self) -> aiohttp.ClientSession:
        """Made with the first call, as it belongs to the event loop that runs then."""
        if self._session is None:
            connector = aiohttp.UnixConnector(path=str(self._socket), limit=CALLS + CONNECTIONS)
            self._session = aiohttp.ClientSession(connector=connector, base_url="http://vectors")
        return self._session

    async def _call(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        data = None if body is None else orjson.dumps(body, default=str)  # asyncpg has a UUID class of its own
        deadline = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        with _translated():
            async with self._open_session().request(method, path, data=data, timeout=deadline) as response:
                status, content = response.status, orjson.loads(await response.read())
        return _checked(status, content)


@contextmanager
def _translated() -> Iterator[None]:
    """Turns every sign of an absent process into `VectorStoreUnavailable`."""
    try:
        yield
    except (TimeoutError, aiohttp.ClientError, OSError, EOFError, orjson.JSONDecodeError) as error:
        raise VectorStoreUnavailable(f"the vector store did not answer: {error or type(error).__name__}") from error


def _checked(status: int, content: dict[str, Any]) -> dict[str, Any]:
    if status < 400:  # noqa: PLR2004
        return content
    detail = str(content.get("detail", ""))
    raise _ERRORS.get(str(content.get("code")), VectorStoreUnavailable)(detail)


def _path(collection: str) -> str:
    check_collection(collection)
    return f"/collections/{collection}"
