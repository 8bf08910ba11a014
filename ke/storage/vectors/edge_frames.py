"""Writes as frames of a kind and two parts: for the process that builds an optimised copy, and for the journal."""

import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, BinaryIO, Final

import numpy as np
import orjson
import qdrant_edge as qdrant

from ke.storage.vectors.checks import Matrix

_HEAD: Final = struct.Struct("<BII")


class Kind(IntEnum):
    """What a frame asks for."""

    UPSERT = 1
    DELETE = 2
    BUILD = 3
    CLOSE = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One request: JSON, and vectors as little-endian 32-bit floats."""

    kind: Kind
    content: Any
    vectors: bytes

    def points(self, dimensions: int) -> list[qdrant.Point]:
        """The points of an upsert."""
        matrix = np.frombuffer(self.vectors, dtype="<f4").reshape(-1, dimensions)
        return [
            qdrant.Point(uuid.UUID(point), vector, payload)
            for (point, payload), vector in zip(self.content, matrix.tolist(), strict=True)
        ]

    def ids(self) -> list[uuid.UUID]:
        """The ids of a delete."""
        return [uuid.UUID(point) for point in self.content]


def upsert(ids: Sequence[uuid.UUID], payloads: Sequence[dict[str, Any]], vectors: Matrix) -> bytes:
    """A frame with points: their ids, their payloads, and their vectors, one a row."""
    content = orjson.dumps(list(zip(ids, payloads, strict=True)))
    return _frame(Kind.UPSERT, content, vectors.astype("<f4", copy=False).tobytes())


def upsert_records(records: Sequence[qdrant.Record]) -> bytes:
    """A frame with points as a shard gave them, which have their vectors and payloads."""
    content = orjson.dumps([(str(record.id), record.payload) for record in records])
    return _frame(Kind.UPSERT, content, np.array([record.vector for record in records], dtype="<f4").tobytes())


def delete(ids: Sequence[uuid.UUID]) -> bytes:
    """A frame with ids whose points are to go."""
    return _frame(Kind.DELETE, orjson.dumps(ids))


def order(kind: Kind) -> bytes:
    """A frame without content."""
    return _frame(kind, b"null")


def read(stream: BinaryIO) -> Frame | None:
    """The next frame, or None when the other side has gone."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    kind, content_bytes, vector_bytes = _HEAD.unpack(head)
    body = stream.read(content_bytes + vector_bytes)
    if len(body) < content_bytes + vector_bytes:
        return None
    return Frame(Kind(kind), orjson.loads(body[:content_bytes]), body[content_bytes:])


def _frame(kind: Kind, content: bytes, vectors: bytes = b"") -> bytes:
    return _HEAD.pack(kind, len(content), len(vectors)) + content + vectors
