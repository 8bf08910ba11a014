"""Qdrant's engine in this process: one shard for each collection, in a folder that is ours alone.

Nothing here is thread-safe or async: `edge_server.py` calls it from one thread.

`EdgeShard.optimize()` is never called here: it holds the interpreter for as long as it runs (20 s at 200,000 points).
`edge_optimiser.py` has another process do it on a copy. Rows that are under no graph yet are searched exhaustively.
Counts and lists are exact with a graph or without.
"""

import fcntl
import logging
import os
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import qdrant_edge as qdrant

from ke.contracts.errors import InvalidInput, NotFound
from ke.storage.vectors import edge_frames
from ke.storage.vectors.base import Hit
from ke.storage.vectors.checks import (
    Matrix,
    check_batch,
    check_collection,
    check_dimensions,
    check_epochs,
    check_limit,
    check_matrix,
    check_search_ids,
    following,
)
from ke.storage.vectors.edge_builder import end_left_builder
from ke.storage.vectors.edge_files import Collection, create, flush, load, sync_folder
from ke.storage.vectors.fences import Fences

JOURNAL_BYTES: Final = 16 << 20
"""How long a journal may get, about 12,000 points of 256 dimensions: half a second's work at the next start."""
_UNFINISHED: Final = ".new-"
_CANDIDATES: Final = 128
"""How many candidates a search follows through a graph; ADR 20 has the recall."""
_SEARCH: Final = qdrant.SearchParams(hnsw_ef=_CANDIDATES)
_EXACT: Final = qdrant.SearchParams(exact=True)
# Through neighbours that the filter leaves out: without it, 3 in 100 of the nearest were out of reach.
_SEARCH_FILTERED: Final = qdrant.SearchParams(hnsw_ef=_CANDIDATES, acorn=qdrant.AcornSearchParams(enable=True))

log = logging.getLogger("ke.vectors")


class FolderInUse(Exception):
    """Another process works on this folder."""


@dataclass(frozen=True, slots=True)
class Owner:
    """What a point belongs to."""

    id: uuid.UUID
    job_id: uuid.UUID
    owner_job_id: uuid.UUID
    source_id: uuid.UUID


class EdgeEngine:
    """All collections of one folder.

    A write is in memory until `sync` has put it into its collection's journal; only then is it safe from a crash.
    """

    def __init__(self, folder: Path, lock: int, fences: Fences, collections: dict[str, Collection]) -> None:
        self._folder = folder
        self._lock = lock
        self._fences = fences
        self._collections = collections

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Takes the folder and loads what is in it; what a crash left half made is removed.

        Raises:
            FolderInUse: Another process holds it.
            FolderDamaged: A collection cannot be loaded; the message names its folder.
            OSError: The folder cannot be made or written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise FolderInUse(f"{folder} is in use by another vector store process") from error
        end_left_builder(folder)
        root = folder / "collections"
        root.mkdir(exist_ok=True)
        for left in root.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        collections = {path.name: load(path) for path in sorted(root.iterdir()) if path.is_dir()}
        return cls(folder, lock, Fences(folder / "fences.sqlite"), collections)

    def collections(self) -> list[str]:
        """The names of all collections, in order."""
        return sorted(self._collections)

    def collection(self, name: str) -> Collection:
        """The open collection of this name; raises `NotFound`."""
        try:
            return self._collections[name]
        except KeyError:
            raise NotFound(f"there is no collection {name[:120]!r}") from None

    def ensure_collection(self, name: str, dimensions: int) -> None:
        """Creates the collection when it is missing; whole or not at all.

        Raises:
            InvalidInput: A bad name or length, or the collection exists with another length.
        """
        check_collection(name)
        check_dimensions(dimensions)
        if known := self._collections.get(name):
            if known.dimensions != dimensions:
                raise InvalidInput(f"collection {name} has {known.dimensions} dimensions, not {dimensions}")
            return
        root = self._folder / "collections"
        draft = root / f"{_UNFINISHED}{uuid.uuid4()}"
        draft.mkdir()
        create(draft, dimensions)
        draft.rename(root / name)
        sync_folder(root)
        self._collections[name] = load(root / name)

    def upsert(self, name: str, owners: Sequence[Owner], vectors: Matrix, epochs: Mapping[uuid.UUID, int]) -> None:
        """Writes points, or replaces them; checks everything first. Not durable before `sync`.

        Args:
            name: The collection.
            owners: At most `MAX_BATCH` points.
            vectors: Their vectors, one a row.
            epochs: The epoch of each job that the points name.

        Raises:
            InvalidInput: A batch too large, a vector of the wrong length or not finite, a job without an epoch.
            Fenced: A job's epoch is older than its fence.
            NotFound: There is no such collection.
        """
        collection = self.collection(name)
        check_batch(len(owners))
        if not owners:
            return
        check_matrix(vectors, collection.dimensions)
        if len(owners) != len(vectors):
            raise InvalidInput(f"{len(owners)} points, but {len(vectors)} vectors")
        check_epochs(owners, epochs)
        self._fences.check(epochs)
        ids = [owner.id for owner in owners]
        payloads = _payloads(owners, epochs)
        points = list(map(qdrant.Point, ids, vectors.tolist(), payloads))
        _changes(collection, ids)
        collection.shard.update(qdrant.UpdateOperation.upsert_points(points))
        collection.journal.append(edge_frames.upsert(ids, payloads, vectors))

    def delete(self, name: str, ids: Sequence[uuid.UUID]) -> int:
        """Deletes at most `MAX_BATCH` points; absent ones are no error. Not durable before `sync`.

        Returns:
            How many of them are there afterwards.
        """
        collection = self.collection(name)
        check_batch(len(ids))
        if not ids:
            return 0
        _changes(collection, ids)
        collection.shard.update(qdrant.UpdateOperation.delete_points(list(ids)))
        collection.journal.append(edge_frames.delete(ids))
        return len(collection.shard.retrieve(list(ids), with_payload=False, with_vector=False))

    def fence(self, job_id: uuid.UUID, epoch: int) -> None:
        """Refuses this job's writes under an older epoch from now on; durable when it returns."""
        self._fences.raise_to(job_id, epoch)

    def count_ids(self, name: str, ids: Sequence[uuid.UUID]) -> int:
        """How many of these at most `MAX_BATCH` ids are there."""
        check_batch(len(ids))
        if not ids:
            return 0
        return self._count(name, qdrant.Filter(must=[qdrant.HasIdCondition(set(ids))]))

    def count_job(self, name: str, job_id: uuid.UUID) -> int:
        """How many points a job made or owns the source of."""
        return self._count(name, _of_job(job_id))

    def count_source(self, name: str, source_id: uuid.UUID) -> int:
        """How many points were made from a source."""
        return self._count(name, _of_source(source_id))

    def count_all(self, name: str) -> int:
        """How many points there are."""
        return self._count(name, None)

    def present(self, name: str, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        """Which of these at most `MAX_BATCH` ids are there."""
        check_batch(len(ids))
        # Looked up one by one: a filter by ids would walk the whole collection.
        found = self.collection(name).shard.retrieve(list(ids), with_payload=False, with_vector=False)
        return [_uuid(record.id) for record in found]

    def search(
        self,
        name: str,
        vector: Matrix,
        *,
        limit: int,
        job_ids: Sequence[uuid.UUID] | None = None,
        ids: Sequence[uuid.UUID] | None = None,
    ) -> list[Hit]:
        """The nearest points, best first, by cosine; with `job_ids` or `ids` only those of these jobs, or these."""
        collection = self.collection(name)
        check_limit(limit)
        check_matrix(vector, collection.dimensions)
        check_search_ids(ids)
        must: list[Any] = []
        if job_ids is not None:
            match = qdrant.MatchAny([str(job_id) for job_id in job_ids])
            must.append(qdrant.FieldCondition("job_id", match=match))
        if ids is not None:
            must.append(qdrant.HasIdCondition(set(ids)))
        if any(names is not None and not names for names in (job_ids, ids)):
            return []
        found = collection.shard.search(
            qdrant.SearchRequest(
                query=qdrant.Query.Nearest(vector[0].tolist()),
                limit=limit,
                filter=qdrant.Filter(must=must) if must else None,
                params=_EXACT if ids is not None else _SEARCH_FILTERED if must else _SEARCH,
            )
        )
        return [Hit(id=_uuid(point.id), score=point.score) for point in found]

    def scroll_job(
        self, name: str, job_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of a job's points in order, from the one after `after`."""
        return self._scroll(name, _of_job(job_id), limit, after)

    def scroll_source(
        self, name: str, source_id: uuid.UUID, *, limit: int, after: uuid.UUID | None = None
    ) -> list[uuid.UUID]:
        """Ids of the points that were made from a source, in order, from the one after `after`."""
        return self._scroll(name, _of_source(source_id), limit, after)

    def scroll_all(self, name: str, *, limit: int, after: uuid.UUID | None = None) -> list[uuid.UUID]:
        """Ids of all points in order, from the one after `after`."""
        return self._scroll(name, None, limit, after)

    def sync(self, name: str) -> None:
        """Makes all writes to a collection durable: by its journal, or where that is long or fails, by a flush."""
        collection = self.collection(name)
        if collection.journal.length < JOURNAL_BYTES:
            try:
                collection.journal.sync()
            except OSError as error:
                log.warning("the journal of %s cannot be written: %s", name, error)
            else:
                return
        self.flush(name)

    def flush(self, name: str) -> None:
        """Brings a collection's own files up to date."""
        collection = self.collection(name)
        if collection.dirty:
            flush(collection)

    def close(self) -> None:
        """Flushes and closes everything, and lets go of the folder."""
        for name, collection in self._collections.items():
            self.flush(name)
            collection.journal.close()
            collection.shard.close()
        self._collections.clear()
        self._fences.close()
        os.close(self._lock)

    def _count(self, name: str, matching: qdrant.Filter | None) -> int:
        return self.collection(name).shard.count(qdrant.CountRequest(exact=True, filter=matching))

    def _scroll(
        self, name: str, matching: qdrant.Filter | None, limit: int, after: uuid.UUID | None
    ) -> list[uuid.UUID]:
        collection = self.collection(name)
        check_limit(limit)
        offset = following(after)
        if after is not None and offset is None:
            return []
        records, _ = collection.shard.scroll(
            qdrant.ScrollRequest(offset=offset, limit=limit, filter=matching, with_payload=False, with_vector=False)
        )
        return [_uuid(record.id) for record in records]


def _payloads(owners: Sequence[Owner], epochs: Mapping[uuid.UUID, int]) -> list[dict[str, Any]]:
    """What is kept with each point: the same object for those of one source, of which there are many in a batch."""

    @cache
    def payload(job_id: uuid.UUID, owner_job_id: uuid.UUID, source_id: uuid.UUID) -> dict[str, Any]:
        ids = {"job_id": str(job_id), "owner_job_id": str(owner_job_id), "source_id": str(source_id)}
        return ids | {"epoch": epochs[job_id]}

    return [payload(owner.job_id, owner.owner_job_id, owner.source_id) for owner in owners]


def _changes(collection: Collection, ids: Sequence[uuid.UUID]) -> None:
    """Takes note, before the points of these ids are written or deleted."""
    collection.dirty = collection.changed = True
    collection.written_s = time.monotonic()
    if collection.copying is not None:
        collection.copying.note(ids)


def _of_job(job_id: uuid.UUID) -> qdrant.Filter:
    match = qdrant.MatchValue(str(job_id))
    return qdrant.Filter(should=[qdrant.FieldCondition(key, match=match) for key in ("job_id", "owner_job_id")])


def _of_source(source_id: uuid.UUID) -> qdrant.Filter:
    return qdrant.Filter(must=[qdrant.FieldCondition("source_id", match=qdrant.MatchValue(str(source_id)))])


def _uuid(point_id: uuid.UUID | int | str) -> uuid.UUID:
    return point_id if isinstance(point_id, uuid.UUID) else uuid.UUID(str(point_id))
