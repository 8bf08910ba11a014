"""Cursors: opaque to callers, bound to the list and the filters they were given out for.

A cursor is not a secret: a forged one that passes the checks is a place in the very list its caller may read anyway.
What the checks keep out is a cursor of another list, which would silently skip or repeat entries.
"""

import base64
import binascii
import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query

from api.errors import BadCursor

MAX_LIMIT: Final = 200
_LAYOUT: Final = struct.Struct(">Bq8s")
_VERSION: Final = 1

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries in one answer")]
Cursor = Annotated[str | None, Query(max_length=64, description="The `next_cursor` of the answer before")]

RowT = TypeVar("RowT")


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a list is asked for."""

    limit: int
    after: int | None
    """The `seq` of the last entry that was given out."""
    scope: bytes

    def next_cursor(self, rows: Sequence[RowT], seq: Callable[[RowT], int]) -> str | None:
        """The cursor for what follows `rows`, which were read with a limit of `fetch`; None at the end."""
        return _encode(seq(rows[self.limit - 1]), self.scope) if len(rows) > self.limit else None

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown tells whether there is more."""
        return self.limit + 1


def slice_of(limit: int, cursor: str | None, *scope: Any) -> Slice:
    """Reads what a caller asks for.

    Args:
        limit: Entries wanted.
        cursor: As it was given out, or None for the beginning.
        scope: The list's name and all its filters.

    Raises:
        BadCursor: It was not given out for this list with these filters.
    """
    digest = hashlib.blake2b(repr(scope).encode(), digest_size=8, person=b"ke-cursor").digest()
    return Slice(limit, None if cursor is None else _decode(cursor, digest), digest)


def _encode(seq: int, scope: bytes) -> str:
    return base64.urlsafe_b64encode(_LAYOUT.pack(_VERSION, seq, scope)).decode().rstrip("=")


def _decode(cursor: str, scope: bytes) -> int:
    problem = [{"parameter": "cursor", "detail": "Use `next_cursor` as it is, with the same filters."}]
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        version, seq, found = _LAYOUT.unpack(raw)
    except (binascii.Error, struct.error, ValueError):
        raise BadCursor("This is not a cursor.", errors=problem) from None
    if version != _VERSION or seq < 0 or _encode(seq, found) != cursor:
        raise BadCursor("This is not a cursor.", errors=problem)
    if found != scope:
        raise BadCursor("This cursor belongs to another list, or to other filters.", errors=problem)
    return int(seq)
