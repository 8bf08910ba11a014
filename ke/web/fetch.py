"""Fetches one URL: through the egress guard on every hop, within limits of time, size and redirects."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.http_exceptions import ContentEncodingError
from yarl import URL as WireURL  # noqa: N811 - told apart from ada_url's

from ke.contracts.errors import FetchRefused
from ke.web.egress import EgressPolicy, GuardedResolver, Lookup, system_lookup
from ke.web.errors import (
    BadCertificate,
    BadResponse,
    BadUrl,
    FetchError,
    FetchFailed,
    FetchTimeout,
    RedirectRefused,
    TooLarge,
    TooManyRedirects,
    UnsupportedType,
)
from ke.web.response import MAX_ERROR_BODY_BYTES, Response, parse_retry_after
from ke.web.urls import canonicalize

ACCEPT: Final = "text/html,application/xhtml+xml,text/markdown;q=0.9,text/plain;q=0.8,*/*;q=0.5"
MAX_REDIRECTS: Final = 10
MAX_HEADER_BYTES: Final = 16_384
"""The longest header line. Security policies and cookies of real sites go over the 8 KB that are common."""
MAX_HEADERS: Final = 256
MAX_VALIDATOR_CHARS: Final = 1_000
"""Of an ETag or Last-Modified that is kept."""
CONNECT_TIMEOUT_S: Final = 10.0
"""Seconds for each address of a host to take the connection."""
DNS_CACHE_S: Final = 60

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

FollowCheck = Callable[[str], Awaitable[str | None]]
"""Says why a redirect to this canonical URL is not followed, or None."""


@dataclass(slots=True)
class Allowance:
    """Bytes that several fetches may load together, counted as they come."""

    limit: int
    spent: int = 0
    is_short: bool = False
    """Whether something was refused, or broken off, because it did not fit."""

    def refuse(self, more: int) -> bool:
        """Whether so many bytes more are too many."""
        too_many = self.spent + more > self.limit
        self.is_short |= too_many
        return too_many

    def take(self, number: int) -> bool:
        """Counts bytes that have come; whether they are too many."""
        self.spent += number
        return self.refuse(0)


class Fetcher:
    """Fetches over HTTP, with one pool of connections. Use it as an async context manager, or `close()` it.

    Keeps no cookies, uses no proxy from the environment, and follows redirects itself, so that each hop passes the
    policy.

    Args:
        user_agent: Sent with each request.
        timeout_s: Seconds for one `fetch`, redirects and body included.
        max_bytes: The longest body, decompressed.
        policy: What may be fetched.
        connections_per_host: Open connections to one host, at most; callers beyond that wait.
        lookup: Resolves host names.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout_s: float,
        max_bytes: int,
        policy: EgressPolicy,
        connections_per_host: int = 32,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.user_agent = user_agent
        self.policy = policy
        self._timeout_s = timeout_s
        self.max_bytes = max_bytes
        self._connections_per_host = connections_per_host
        self._lookup = lookup
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection; a fetch under way fails."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(
        self,
        url: str,
        *,
        accept: str = ACCEPT,
        etag: str | None = None,
        last_modified: str | None = None,
        types: frozenset[str] | None = None,
        follow: FollowCheck | None = None,
        max_redirects: int = MAX_REDIRECTS,
        max_bytes: int | None = None,
        truncate: bool = False,
        allowance: Allowance | None = None,
    ) -> Response:
        """Fetches one URL and reads the whole body.

        Args:
            url: Absolute.
            accept: The Accept header.
            etag: Sent as If-None-Match: a status of 304 says that the page is the same.
            last_modified: Sent as If-Modified-Since.
            types: Content types that are wanted; the body of another one is not read.
            follow: Asked before each redirect is followed.
            max_redirects: Redirects that are followed.
            max_bytes: The longest body in place of the fetcher's own limit.
            truncate: Whether a longer body is cut and marked, instead of refused.
            allowance: What this body may take of the bytes of several.

        Raises:
            BadUrl, FetchRefused: This URL, or one it redirects to, may not be fetched.
            FetchTimeout, FetchFailed: Try again later.
            BadResponse, TooLarge, TooManyRedirects, RedirectRefused, UnsupportedType: It will be the same again.
        """
        headers = {"Accept": accept}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        limit_bytes = self.max_bytes if max_bytes is None else max_bytes
        try:
            first = self.policy.check_url(url)
            request = _Request(
                first, headers, limit_bytes, truncate, types, follow, max_redirects, allowance, time.monotonic()
            )
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(request)
        except TimeoutError:
            raise FetchTimeout(f"no complete answer within {self._timeout_s:g} s") from None
        except aiohttp.InvalidURL as error:
            raise BadUrl(f"the URL cannot be requested: {error}") from error
        except aiohttp.ClientError as error:
            raise _as_fetch_error(error) from error
        except OSError as error:
            raise FetchFailed(f"the connection broke: {error}") from error
        except ValueError as error:
            # A host name that no resolver takes (an empty or too long label), found only when it is dialled.
            raise BadUrl(f"the URL cannot be requested: {error}") from error

    async def _follow(self, request: "_Request") -> Response:
        """Goes from redirect to redirect until an answer is none."""
        trail: list[str] = []
        url = request.url
        while True:
            wire = WireURL(url, encoded=True)
            async with self._open().get(wire, headers=request.headers, allow_redirects=False) as answer:
                location = answer.headers.get("Location")
                if answer.status not in _REDIRECTS or location is None:
                    return await _read(request, answer, url, tuple(trail))
            trail.append(url)
            url = self._target(url, location)
            if url in trail:
                raise TooManyRedirects(f"{request.url} redirects in a circle, by {url}")
            if len(trail) > request.max_redirects:
                raise TooManyRedirects(f"{request.url} redirects more than {request.max_redirects} times")
            if request.follow is not None and (reason := await request.follow(url)) is not None:
                raise RedirectRefused(f"redirects to {url}, which is not followed: {reason}", target=url)

    def _target(self, url: str, location: str) -> str:
        try:
            return self.policy.check_url(canonicalize(location, url))
        except BadUrl as error:
            raise FetchRefused(f"{url} redirects to what cannot be fetched: {error.message}") from error
        except FetchRefused as error:
            raise FetchRefused(f"{url} redirects to what may not be fetched: {error.message}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=GuardedResolver(self.policy, self._lookup),
                    socket_factory=self.policy.open_socket,
                    ttl_dns_cache=DNS_CACHE_S,
                    limit=0,
                    limit_per_host=self._connections_per_host,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self.user_agent},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                trust_env=False,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
        return self._session


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of one `fetch`, checked."""

    url: str
    headers: Mapping[str, str]
    max_bytes: int
    truncate: bool
    types: frozenset[str] | None
    follow: FollowCheck | None
    max_redirects: int
    allowance: Allowance | None
    begun: float


async def _read(request: _Request, answer: aiohttp.ClientResponse, url: str, trail: tuple[str, ...]) -> Response:
    """Reads the body chunk by chunk: aiohttp decompresses at most a fixed piece at a time, so a bomb stays small."""
    good = answer.status < 400  # noqa: PLR2004 - where HTTP's errors begin
    content_type = answer.content_type.lower() if "Content-Type" in answer.headers else ""
    if good and request.types is not None and content_type and content_type not in request.types:
        raise UnsupportedType(f"documents of type {content_type} cannot be read", content_type=content_type)
    max_bytes = request.max_bytes if good else min(request.max_bytes, MAX_ERROR_BODY_BYTES)
    cut = request.truncate or not good
    if not cut and answer.content_length is not None and answer.content_length > max_bytes:
        raise TooLarge(f"the answer has {answer.content_length:,} bytes, more than {max_bytes:,}", bytes_read=0)
    allowance = request.allowance
    if allowance is not None and allowance.refuse(min(answer.content_length or 0, max_bytes)):
        raise TooLarge("the answer does not fit into what may be loaded", bytes_read=0)
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if allowance is not None and allowance.take(len(chunk)):
            raise TooLarge("the answer does not fit into what may be loaded", bytes_read=len(body))
        if len(body) > max_bytes:
            if not cut:
                raise TooLarge(f"the answer has more than {max_bytes:,} bytes", bytes_read=len(body))
            break
    truncated = len(body) > max_bytes
    return Response(
        url=request.url,
        final_url=url,
        redirects=trail,
        status=answer.status,
        content_type=content_type,
        charset=answer.charset.lower() if answer.charset else None,
        etag=_validator(answer.headers.get("ETag")),
        last_modified=_validator(answer.headers.get("Last-Modified")),
        retry_after_s=parse_retry_after(answer.headers.get("Retry-After")),
        body=bytes(body[:max_bytes]),
        truncated=truncated,
        # Only a compressed body is counted by aiohttp, and an empty one is of a class that counts nothing.
        bytes_read=getattr(answer.content, "total_compressed_bytes", None) or len(body),
        elapsed_s=time.monotonic() - request.begun,
    )


def _validator(value: str | None) -> str | None:
    """A header to be sent back later: one that is not plain text, or endless, is worth nothing."""
    return value if value and value.isprintable() and len(value) <= MAX_VALIDATOR_CHARS else None


def _as_fetch_error(error: aiohttp.ClientError) -> FetchError:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return BadCertificate(f"the certificate is not valid: {error.certificate_error}")
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return FetchFailed(f"the name {error.host} could not be resolved: {error.os_error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        return FetchFailed(f"no connection to {error.host} port {error.port}: {error.os_error}")
    if isinstance(error, aiohttp.ClientResponseError):
        return BadResponse(f"the answer is not valid HTTP: {error.message}")
    if isinstance(error, aiohttp.ClientPayloadError) and isinstance(error.__cause__, ContentEncodingError):
        return BadResponse(f"the body cannot be decoded: {error}")
    return FetchFailed(f"the connection broke: {error}")
