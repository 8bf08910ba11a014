"""An HTTP answer as the crawler keeps it, and what its status means."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

MAX_ERROR_BODY_BYTES: Final = 65_536
"""What is read of the body of an error: enough to keep the connection, and no more."""
MAX_RETRY_AFTER_S: Final = 300.0
"""The longest pause a server can ask for."""

_RETRYABLE: Final = frozenset({408, 429, 500, 502, 503, 504, 507, 509, 520, 521, 522, 523, 524})


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, whatever its status; `classify` says what it means."""

    url: str
    """As asked for, canonical."""
    final_url: str
    """Where the body came from, canonical."""
    redirects: tuple[str, ...]
    """The URLs in between that redirected, `url` first; empty without a redirect."""
    status: int
    content_type: str
    """Lower case, without parameters; empty when the server gave none."""
    charset: str | None
    """As the Content-Type header names it, lower case."""
    etag: str | None
    last_modified: str | None
    retry_after_s: float | None
    """At most `MAX_RETRY_AFTER_S`."""
    body: bytes
    """Decompressed. Of an error at most `MAX_ERROR_BODY_BYTES`."""
    truncated: bool
    """Whether the body went on."""
    bytes_read: int
    """Bytes of the body as they came over the wire."""
    elapsed_s: float
    """From the first request to the end of the body."""
    loaded_bytes: int | None = None
    """Where a browser has shown the page: bytes of the page as it came, and of all that it has loaded."""

    @property
    def size(self) -> int:
        """Bytes that count against `max_bytes`."""
        return len(self.body) if self.loaded_bytes is None else self.loaded_bytes


@dataclass(frozen=True, slots=True)
class Ok:
    """The answer is what was asked for (or 304: unchanged)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The server cannot answer now."""

    reason: str
    after_s: float | None
    """What the server asks for, seconds."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The server will not answer otherwise if asked again."""

    reason: str


def classify(response: Response) -> Ok | Retry | Fail:
    """Says what an answer's status means for the one who asked."""
    status = response.status
    if 200 <= status < 300 or status == 304:  # noqa: PLR2004 - the numbers are HTTP's own
        return Ok()
    if status in _RETRYABLE:
        return Retry(f"HTTP {status}", response.retry_after_s)
    return Fail(f"HTTP {status}")


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Reads a Retry-After header, in seconds or as a date (RFC 9110, 10.2.3).

    Returns:
        Seconds from now, from 0 to `MAX_RETRY_AFTER_S`; None when there is no header or it cannot be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        wait_s = (moment - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(wait_s, 0.0), MAX_RETRY_AFTER_S)
