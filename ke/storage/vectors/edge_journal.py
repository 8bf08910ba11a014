"""A collection's journal: what was written to it since its shard's files were last brought up to date.

The engine has no cheap way to make one batch durable: its `flush` syncs some forty files and mappings whatever the size
of the batch, and of its own log it reads but the last operation again. So a write is durable when it is in this file,
by one sync, and the shard is flushed now and then; what a crash leaves in the journal is written to the shard again
when it is opened.
"""

import io
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import qdrant_edge as qdrant

from ke.storage.vectors import edge_frames
from ke.storage.vectors.edge_frames import Kind

_HEAD: Final = struct.Struct("<II")
"""Before the name and each frame: its length and its checksum."""

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync

log = logging.getLogger("ke.vectors")


class Journal:
    """One file: the name of a shard, and frames in the order of the writes to it."""

    def __init__(self, file: Path, shard: str) -> None:
        """Opens it, to go on at its end."""
        self.shard = shard
        self._handle = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self._bytes = os.fstat(self._handle).st_size
        self._pending: list[bytes] = []

    @property
    def length(self) -> int:
        """Its length in bytes, what is not written yet included."""
        return self._bytes + sum(len(part) for part in self._pending)

    def append(self, frame: bytes) -> None:
        """Takes a frame; durable after `sync`."""
        for part in (frame,) if self.length else (self.shard.encode(), frame):
            self._pending += [_HEAD.pack(len(part), zlib.crc32(part)), part]

    def sync(self) -> None:
        """Writes what was taken, durably.

        Raises:
            OSError: It may be written in part; the next call writes all of it again, in the same place.
        """
        if not self._pending:
            return
        content = b"".join(self._pending)
        written = 0
        while written < len(content):
            written += os.pwrite(self._handle, memoryview(content)[written:], self._bytes + written)
        _sync(self._handle)
        self._bytes += written
        self._pending.clear()

    def clear(self) -> None:
        """Forgets everything, durably, as the shard's files have it now.

        They may have later writes than it, so that it must not come back: a deleted point would come back with it.

        Raises:
            OSError: It may be there or not.
        """
        os.ftruncate(self._handle, 0)
        _sync(self._handle)
        self._bytes = 0
        self._pending.clear()

    def close(self) -> None:
        """Closes the file."""
        os.close(self._handle)


def replay(file: Path, shard: qdrant.EdgeShard, name: str, dimensions: int) -> bool:
    """Writes to a shard what its journal has; returns whether there was anything.

    A journal of another shard is that of the one before, all of which was in this one when it took its place. What a
    crash has cut off at the end was never answered, and is left out.
    """
    with file.open("rb") as stream:
        parts = _parts(stream, file)
        if next(parts, b"") == name.encode():
            number = 0
            for part in parts:
                frame = edge_frames.read(io.BytesIO(part))
                if frame is None:
                    raise ValueError(f"{file} has a write that is no frame")
                if frame.kind == Kind.UPSERT:
                    shard.update(qdrant.UpdateOperation.upsert_points(frame.points(dimensions)))
                else:
                    shard.update(qdrant.UpdateOperation.delete_points(list(frame.ids())))
                number += 1
            log.info("%s: %d writes were put into the collection's files", file, number)
        return os.fstat(stream.fileno()).st_size > 0


def _parts(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    while head := stream.read(_HEAD.size):
        part = None
        if len(head) == _HEAD.size:
            length, checksum = _HEAD.unpack(head)
            part = stream.read(length)
        if not part or len(part) < length or zlib.crc32(part) != checksum:
            left = os.fstat(stream.fileno()).st_size - stream.tell() + len(head)
            log.warning("%s: its end was cut off by a crash; at least %d bytes are left out", file, left)
            return
        yield part
