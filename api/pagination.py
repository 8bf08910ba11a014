"""Cursors: opaque to callers, bound to the list and the filters they were given out for.

A cursor is signed over its place and its list, so that only what this deployment gave out is taken: a cursor of another
list, or one that was changed, would silently skip or repeat entries. The key comes from the database's user, password
and name: all gateways of a deployment take each other's cursors, after a restart and at another address too. Where the
database has no password the key can be guessed; a cursor forged with it is still only a place in a list that its caller
may read anyway.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeVar
from uuid import UUID

from fastapi import Query
from sqlalchemy.engine import make_url

from api.errors import BadCursor

MAX_LIMIT: Final = 200
_TAG_BYTES: Final = 16
_PLACE: Final = struct.Struct(">Bq")
_VERSION: Final = 2
_RANK: Final = struct.Struct(">Bq16s")
_RANK_VERSION: Final = 3

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
    key: bytes = field(repr=False)

    def next_cursor(self, rows: Sequence[RowT], seq: Callable[[RowT], int]) -> str | None:
        """The cursor for what follows `rows`, which were read with a limit of `fetch`; None at the end."""
        return _encode(self.key, seq(rows[self.limit - 1]), self.scope) if len(rows) > self.limit else None

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown tells whether there is more."""
        return self.limit + 1


def signing_key(database_url: str) -> bytes:
    """What the cursors of all gateways on a database are signed with."""
    url = make_url(database_url)
    return hashlib.sha256(repr(("ke-cursor", url.username, url.password, url.database)).encode()).digest()


def slice_of(key: bytes, limit: int, cursor: str | None, *scope: Any) -> Slice:
    """Reads what a caller asks for.

    Args:
        key: What cursors are signed with.
        limit: Entries wanted.
        cursor: As it was given out, or None for the beginning.
        scope: The list's name and all its filters.

    Raises:
        BadCursor: It was not given out for this list with these filters.
    """
    named = repr(scope).encode()
    return Slice(limit, None if cursor is None else _decode(key, cursor, named), named, key)


@dataclass(frozen=True, slots=True)
class RankSlice:
    """Which part of a list is asked for whose entries are ordered by a number, and by their ids where that is equal."""

    limit: int
    after: tuple[int, UUID] | None
    """Number and id of the last entry that was given out."""
    scope: bytes
    key: bytes = field(repr=False)

    def next_cursor(self, rows: Sequence[RowT], rank: Callable[[RowT], tuple[int, UUID]]) -> str | None:
        """As that of `Slice`."""
        if len(rows) <= self.limit:
            return None
        number, entry = rank(rows[self.limit - 1])
        return _sign(self.key, _RANK.pack(_RANK_VERSION, number, entry.bytes), self.scope)

    @property
    def fetch(self) -> int:
        """As that of `Slice`."""
        return self.limit + 1


def rank_slice_of(key: bytes, limit: int, cursor: str | None, *scope: Any) -> RankSlice:
    """The same as `slice_of`, for a list that is ordered by a number.

    Raises:
        BadCursor: It was not given out for this list with these filters.
    """
    named = repr(scope).encode()
    if cursor is None:
        return RankSlice(limit, None, named, key)
    _, number, entry = _opened(key, cursor, named, _RANK)
    return RankSlice(limit, (number, UUID(bytes=entry)), named, key)


def _encode(key: bytes, seq: int, scope: bytes) -> str:
    return _sign(key, _PLACE.pack(_VERSION, seq), scope)


def _decode(key: bytes, cursor: str, scope: bytes) -> int:
    return int(_opened(key, cursor, scope, _PLACE)[1])


def _sign(key: bytes, place: bytes, scope: bytes) -> str:
    tag = hmac.digest(key, place + scope, "sha256")[:_TAG_BYTES]
    return base64.urlsafe_b64encode(place + tag).decode().rstrip("=")


def _opened(key: bytes, cursor: str, scope: bytes, form: struct.Struct) -> tuple[Any, ...]:
    problem = [{"parameter": "cursor", "detail": "Use `next_cursor` as it is, with the same filters."}]
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = form.unpack_from(raw)
    except (binascii.Error, struct.error, ValueError):
        raise BadCursor("This is not a cursor.", errors=problem) from None
    if not hmac.compare_digest(_sign(key, form.pack(*place), scope), cursor):
        raise BadCursor("This cursor was changed, or belongs to another list or to other filters.", errors=problem)
    return place
