"""The steps by which an optimised copy takes a collection's place; each is one short call in the engine's thread."""

import logging
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import qdrant_edge as qdrant

from ke.storage.vectors import edge_frames
from ke.storage.vectors.checks import following
from ke.storage.vectors.edge_copying import Copying
from ke.storage.vectors.edge_engine import EdgeEngine
from ke.storage.vectors.edge_files import FULL_SCAN_KB, Collection, OutcomeUnknown, load_shard, name_shard, rows

log = logging.getLogger("ke.vectors")

_ROOM: Final = 3
"""Times the size of its vectors that a copy takes on disk while it is built, about."""
_ROOM_BYTES: Final = 512 * 1024 * 1024
"""What must be free beyond that; the files of an empty shard are large."""


class NoCopy(Exception):
    """A copy cannot be made now; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """When a collection is optimised."""

    growing_rows: int = 20_000
    """Rows without a graph that are worth it: a search looks at each of them, 1 ms at 20,000 of 256 dimensions."""
    growing_share: float = 0.1
    """And what part of the rows under a graph they must be, at least."""
    removed_rows: int = 1_000
    """Rows of deleted points that are worth it."""
    removed_share: float = 0.2
    """And what part of all rows they must be, at least."""
    quiet_s: float = 5.0
    """How long nothing was written: a job has ended, or waits."""
    urgent_rows: int = 100_000
    """So many rows without a graph, and more than under it, are too many to wait for that."""
    check_s: float = 1.0
    full_scan_kb: int = FULL_SCAN_KB


@dataclass(slots=True)
class Copy:
    """A copy under way, and what has to be cleared away after it."""

    folder: Path
    """The copy's; once it has taken its place, that of the shard before it."""
    lacks: Copying
    shard: qdrant.EdgeShard | None = None
    """What is to be closed: the copy itself, or the shard before it."""


def due(engine: EdgeEngine, tuning: Tuning) -> str | None:
    """The name of a collection that should be optimised now."""
    for name in engine.collections():
        collection = engine.collection(name)
        if not collection.changed:
            continue
        quiet = time.monotonic() - collection.written_s >= tuning.quiet_s
        if quiet and not _flushed(engine, name):
            continue
        # As of the last flush; what the journal has is looked at when it is flushed.
        count = rows(collection.shard_folder)
        total = count.growing + count.settled
        removed = total - collection.shard.info().points_count
        grown = count.growing >= max(tuning.growing_rows, tuning.growing_share * count.settled)
        emptied = removed >= max(tuning.removed_rows, tuning.removed_share * total)
        if not grown and not emptied:
            collection.changed = collection.dirty
            continue
        if quiet or count.growing >= max(tuning.urgent_rows, count.settled):
            return name
    return None


def _flushed(engine: EdgeEngine, name: str) -> bool:
    """Whether a flush has succeeded; one that fails must not keep the other collections waiting."""
    try:
        engine.flush(name)
    except Exception:  # the engine raises nothing narrower
        log.exception("collection %s cannot be flushed; its journal has what its files lack", name)
        # As long as after a write until it is tried again.
        engine.collection(name).written_s = time.monotonic()
        return False
    return True


def begin(collection: Collection) -> Copy:
    """Takes note of changes from now on.

    Raises:
        NoCopy: There is too little room on the disk.
    """
    count = rows(collection.shard_folder)
    needed = _ROOM * (count.growing + count.settled) * collection.dimensions * 4 + _ROOM_BYTES
    if (free := shutil.disk_usage(collection.folder).free) < needed:
        raise NoCopy(f"{free >> 20} MB are free in {collection.folder}, {needed >> 20} MB are needed")
    collection.copying = Copying()
    return Copy(collection.folder / f"shard-{uuid.uuid4()}", collection.copying)


def next_page(collection: Collection, copy: Copy, limit: int) -> bytes:
    """A frame with the points after the last page; empty when there are no more."""
    lacks = copy.lacks
    offset = following(lacks.passed)
    if lacks.passed is not None and offset is None:
        lacks.whole = True
        return b""
    records, _ = collection.shard.scroll(
        qdrant.ScrollRequest(offset=offset, limit=limit, with_payload=True, with_vector=True)
    )
    if not records:
        lacks.whole = True
        return b""
    lacks.passed = _uuid(records[-1].id)
    return edge_frames.upsert_records(records)


def next_changes(collection: Collection, copy: Copy, limit: int) -> bytes:
    """Frames that put right some of what was written behind the reader; empty when nothing was."""
    present, absent = _now(collection, copy.lacks.take(limit))
    return (edge_frames.upsert_records(present) if present else b"") + (edge_frames.delete(absent) if absent else b"")


def open_copy(copy: Copy) -> None:
    """Opens what the builder has closed; the longest of these steps.

    Raises:
        NoCopy: It cannot be opened.
    """
    try:
        copy.shard = load_shard(copy.folder)
    except BaseException as error:  # a damaged file is a panic of the engine, which is no `Exception`
        raise NoCopy(f"{copy.folder} cannot be opened: {error}") from error


def catch_up(collection: Collection, copy: Copy, limit: int) -> int:
    """Puts right up to `limit` points of an open copy, and returns how many are left."""
    if copy.shard is None:
        raise NoCopy("the copy is not open")
    present, absent = _now(collection, copy.lacks.take(limit))
    if present:
        points = [qdrant.Point(record.id, cast("list[float]", record.vector), record.payload) for record in present]
        copy.shard.update(qdrant.UpdateOperation.upsert_points(points))
    if absent:
        copy.shard.update(qdrant.UpdateOperation.delete_points(list(absent)))
    return len(copy.lacks.noted)


def swap(collection: Collection, copy: Copy) -> None:
    """Puts right the rest and puts the copy in the collection's place, durably.

    Raises:
        OutcomeUnknown: It may be in place on disk or not; both shards are whole there.
    """
    catch_up(collection, copy, len(copy.lacks.noted))
    if copy.shard is None:
        raise NoCopy("the copy is not open")
    copy.shard.flush()
    name_shard(collection, copy.folder)
    collection.shard, copy.shard = copy.shard, collection.shard
    collection.shard_folder, copy.folder = copy.folder, collection.shard_folder
    # What waits for a sync was noted, and so is in the copy and on disk.
    collection.journal.shard = collection.shard_folder.name
    try:
        collection.journal.clear()
    except OSError as error:  # what came after it in a journal of the shard before would be left out
        raise OutcomeUnknown(f"{collection.folder}: {error}") from error
    collection.dirty = collection.changed = False
    collection.copying = None


def end(collection: Collection, copy: Copy) -> None:
    """Closes what is not in the collection's place, whether the copy came to be or not."""
    collection.copying = None
    shard, copy.shard = copy.shard, None
    if shard is not None:
        shard.close()


def _now(collection: Collection, ids: list[uuid.UUID]) -> tuple[list[qdrant.Record], list[uuid.UUID]]:
    """The points of these ids that are there, and the ids of those that are not."""
    present = collection.shard.retrieve(list(ids), with_payload=True, with_vector=True)
    return present, list(set(ids) - {_uuid(record.id) for record in present})


def _uuid(point_id: uuid.UUID | int | str) -> uuid.UUID:
    return point_id if isinstance(point_id, uuid.UUID) else uuid.UUID(str(point_id))
