"""The files of the embedded vector store: one folder for each collection, made whole or not at all.

A collection's folder has `collection.json`, which names the folder of its shard beside it. To put another shard in
its place is to replace that file; whatever other folder is there is a copy that was not finished, or one that is not
in use any more. Beside it is the journal: what the shard's files do not have yet.
"""

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson
import qdrant_edge as qdrant

from ke.storage.vectors import edge_journal
from ke.storage.vectors.edge_copying import Copying
from ke.storage.vectors.edge_journal import Journal

FULL_SCAN_KB: Final = 10_000
"""Below so many kilobytes of vectors a search looks at all of them, graph or not; Qdrant's own default."""

_MANIFEST: Final = "collection.json"
_DRAFT: Final = ".collection.json"
_JOURNAL: Final = "journal"
_FIRST_SHARD: Final = "shard"
_INDEXED: Final = ("job_id", "owner_job_id", "source_id")
_GRAPH_EDGES: Final = 16
_GRAPH_CANDIDATES: Final = 100
_VERSION_BYTES: Final = 8
"""An id tracker's file of versions has so many bytes for each row, deleted or not."""


class FolderDamaged(Exception):
    """A collection's files cannot be opened."""


class OutcomeUnknown(BaseException):
    """A shard was put in another's place, and it is not known whether that is on disk.

    No `Exception`, since the process cannot go on: only the files can tell, at its next start.
    """


@dataclass(slots=True)
class Collection:
    """An open collection."""

    folder: Path
    dimensions: int
    shard: qdrant.EdgeShard
    shard_folder: Path
    journal: Journal
    dirty: bool = False
    """Whether it has writes that its shard's files lack; the journal has them."""
    changed: bool = True
    """Whether it was written to since it was last asked whether it should be optimised."""
    written_s: float = field(default_factory=time.monotonic)
    """When it was last written to, by the monotonic clock."""
    copying: Copying | None = None
    """What a copy that is being made of it lacks."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What a shard's files hold, as of the last flush."""

    growing: int
    """Rows that no graph covers: every search looks at each of them."""
    settled: int
    """Rows under a graph."""


def create(folder: Path, dimensions: int) -> None:
    """Makes an empty collection in a folder of its own; durable when it returns."""
    shard = create_shard(folder / _FIRST_SHARD, dimensions)
    shard.flush()
    shard.close()
    (folder / _JOURNAL).touch()
    _write_manifest(folder / _MANIFEST, dimensions, _FIRST_SHARD)
    sync_folder(folder)


def create_shard(folder: Path, dimensions: int, *, full_scan_kb: int = FULL_SCAN_KB) -> qdrant.EdgeShard:
    """Makes an empty shard, whose `optimize` puts all its points under one graph."""
    config = qdrant.EdgeConfig(
        vectors=qdrant.EdgeVectorParams(size=dimensions, distance=qdrant.Distance.Cosine),
        hnsw_config=qdrant.HnswIndexConfig(
            m=_GRAPH_EDGES,
            ef_construct=_GRAPH_CANDIDATES,
            full_scan_threshold=full_scan_kb,
            # The other half of the cores is for those who are waited for.
            max_indexing_threads=max(1, (os.cpu_count() or 1) // 2),
        ),
        optimizers=qdrant.EdgeOptimizersConfig(
            indexing_threshold=1, default_segment_number=1, max_segment_size=1_000_000_000
        ),
    )
    shard = qdrant.EdgeShard.create(str(folder), config)
    for key in _INDEXED:
        # Searches filter by the maker alone. Read from the page cache, or opening a shard would read it all in.
        index = qdrant.UuidIndexParams(enable_hnsw=key == "job_id", memory=qdrant.Memory.Cold)
        shard.update(qdrant.UpdateOperation.create_field_index(key, index))
    return shard


def load(folder: Path) -> Collection:
    """Opens a collection, and removes what is in its folder beside it.

    Raises:
        FolderDamaged: It cannot be opened; the message names the folder.
    """
    try:
        manifest = orjson.loads((folder / _MANIFEST).read_bytes())
        shard_folder = folder / str(manifest.get("shard", _FIRST_SHARD))
        dimensions = int(manifest["dimensions"])
        shard = load_shard(shard_folder)
        journal = folder / _JOURNAL
        if not journal.exists():  # a folder from before there were any
            journal.touch()
            sync_folder(folder)
        replayed = edge_journal.replay(journal, shard, shard_folder.name, dimensions)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a damaged file is a panic of the engine, which is no `Exception`
        raise FolderDamaged(f"collection {folder} cannot be opened: {error}") from error
    for left in folder.iterdir():
        if left.is_dir() and left != shard_folder:
            shutil.rmtree(left)
    (folder / _DRAFT).unlink(missing_ok=True)
    collection = Collection(folder, dimensions, shard, shard_folder, Journal(journal, shard_folder.name))
    if replayed:
        flush(collection)
    return collection


def flush(collection: Collection) -> None:
    """Brings the shard's files up to date, and empties the journal."""
    collection.shard.flush()
    collection.journal.clear()
    collection.dirty = False


def load_shard(folder: Path) -> qdrant.EdgeShard:
    """Opens a shard; raises whatever the engine does."""
    for log in (folder / "wal").glob("open-*"):
        # Killed while it began a new log file, the engine would refuse the empty one for ever.
        if log.stat().st_size == 0:
            log.unlink()
    return qdrant.EdgeShard.load(str(folder))


def name_shard(collection: Collection, shard_folder: Path) -> None:
    """Makes a shard in the collection's folder the one that counts; durable when it returns.

    Raises:
        OSError: Nothing has changed.
        OutcomeUnknown: It may have changed, or may yet.
    """
    draft = collection.folder / _DRAFT
    _write_manifest(draft, collection.dimensions, shard_folder.name)
    draft.rename(collection.folder / _MANIFEST)
    try:
        sync_folder(collection.folder)
    except OSError as error:
        raise OutcomeUnknown(f"{collection.folder}: {error}") from error


def rows(shard_folder: Path) -> Rows:
    """Counts the rows of a shard, deleted ones included, from the sizes of its files: the engine does not tell."""
    segments = shard_folder / "segments"
    growing = sum(path.stat().st_size for path in segments.glob("*/mutable_id_tracker.versions"))
    settled = sum(path.stat().st_size for path in segments.glob("*/id_tracker.versions"))
    return Rows(growing // _VERSION_BYTES, settled // _VERSION_BYTES)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Makes all that is in a folder durable, and the folder's own name."""
    for root, _, names in os.walk(folder):
        for name in names:
            handle = os.open(Path(root) / name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        sync_folder(Path(root))
    sync_folder(folder.parent)


def _write_manifest(path: Path, dimensions: int, shard: str) -> None:
    with path.open("wb") as file:
        file.write(orjson.dumps({"dimensions": dimensions, "shard": shard}))
        file.flush()
        os.fsync(file.fileno())
