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
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID

from fastapi import Query
from sqlalchemy.engine import make_url

from api.errors import BadCursor
from ke.web.urls import MAX_URL_CHARS

MAX_LIMIT: Final = 200
_TAG_BYTES: Final = 16
_SEQ: Final = struct.Struct(">q")
_RANK: Final = struct.Struct(">q16s")
_MAX_URL_CURSOR: Final = (1 + _SEQ.size + MAX_URL_CHARS + _TAG_BYTES) * 4 // 3 + 1
"""Characters of the cursor of a list by URL: what base64 makes of its place."""

Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Entries in one answer")]
_CURSOR: Final = "The `next_cursor` of the answer before"
Cursor = Annotated[str | None, Query(max_length=64, description=_CURSOR)]
UrlCursor = Annotated[str | None, Query(max_length=_MAX_URL_CURSOR, description=_CURSOR)]

RowT = TypeVar("RowT")
PlaceT = TypeVar("PlaceT")


@dataclass(frozen=True, slots=True)
class _Form(Generic[PlaceT]):
    """How a place of a list is written: all that its order needs, so that the entry itself may be deleted meanwhile."""

    version: bytes
    pack: Callable[[PlaceT], bytes]
    unpack: Callable[[bytes], PlaceT]


_BY_SEQ: Final[_Form[int]] = _Form(b"\2", _SEQ.pack, lambda raw: int(_SEQ.unpack(raw)[0]))
_BY_RANK: Final[_Form[tuple[int, UUID]]] = _Form(
    b"\3", lambda place: _RANK.pack(place[0], place[1].bytes), lambda raw: _rank(*_RANK.unpack(raw))
)
_BY_URL: Final[_Form[tuple[str, int]]] = _Form(
    b"\4",
    lambda place: _SEQ.pack(place[1]) + place[0].encode(),
    lambda raw: (raw[_SEQ.size :].decode(), int(_SEQ.unpack_from(raw)[0])),
)


@dataclass(frozen=True, slots=True)
class Part(Generic[PlaceT]):
    """Which part of a list is asked for."""

    limit: int
    after: PlaceT | None
    """The place of the last entry that was given out."""
    scope: bytes
    key: bytes = field(repr=False)
    form: _Form[PlaceT] = field(repr=False)

    def next_cursor(self, rows: Sequence[RowT], place: Callable[[RowT], PlaceT]) -> str | None:
        """The cursor for what follows `rows`, which were read with a limit of `fetch`; None at the end."""
        if len(rows) <= self.limit:
            return None
        last = place(rows[self.limit - 1])
        return _sign(self.key, self.form.version + self.form.pack(last), self.scope)

    @property
    def fetch(self) -> int:
        """How many rows to read: one more than is shown tells whether there is more."""
        return self.limit + 1


Slice: TypeAlias = Part[int]
"""Of a list in the order of arrival, by `seq`."""
RankSlice: TypeAlias = Part[tuple[int, UUID]]
"""Of a list that is ordered by a number, and by ids where that is equal."""
UrlSlice: TypeAlias = Part[tuple[str, int]]
"""Of a list that is ordered by URL, and by `seq` where that is equal."""


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
    return _part(key, limit, cursor, scope, _BY_SEQ)


def rank_slice_of(key: bytes, limit: int, cursor: str | None, *scope: Any) -> RankSlice:
    """The same as `slice_of`, for a list that is ordered by a number.

    Raises:
        BadCursor: It was not given out for this list with these filters.
    """
    return _part(key, limit, cursor, scope, _BY_RANK)


def url_slice_of(key: bytes, limit: int, cursor: str | None, *scope: Any) -> UrlSlice:
    """The same as `slice_of`, for a list that is ordered by URL.

    Raises:
        BadCursor: It was not given out for this list with these filters.
    """
    return _part(key, limit, cursor, scope, _BY_URL)


def _part(key: bytes, limit: int, cursor: str | None, scope: tuple[Any, ...], form: _Form[PlaceT]) -> Part[PlaceT]:
    named = repr(scope).encode()
    after = None if cursor is None else form.unpack(_opened(key, cursor, named, form.version))
    return Part(limit, after, named, key, form)


def _rank(number: int, entry: bytes) -> tuple[int, UUID]:
    return number, UUID(bytes=entry)


def _sign(key: bytes, place: bytes, scope: bytes) -> str:
    tag = hmac.digest(key, place + scope, "sha256")[:_TAG_BYTES]
    return base64.urlsafe_b64encode(place + tag).decode().rstrip("=")


def _opened(key: bytes, cursor: str, scope: bytes, version: bytes) -> bytes:
    """The place in a cursor, once its signature holds."""
    problem = [{"parameter": "cursor", "detail": "Use `next_cursor` as it is, with the same filters."}]
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise BadCursor("This is not a cursor.", errors=problem) from None
    place = raw[:-_TAG_BYTES]
    if place[:1] != version or not hmac.compare_digest(_sign(key, place, scope), cursor):
        raise BadCursor("This cursor was changed, or belongs to another list or to other filters.", errors=problem)
    return place[1:]
