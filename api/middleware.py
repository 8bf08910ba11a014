"""Around every request: an id, one line of log, a problem document for what nobody expected."""

import asyncio
import re
import time
import uuid
from collections import deque
from http import HTTPStatus
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.errors import CrossSite, PayloadTooLarge, ShuttingDown, UnsupportedMediaType, WrongHost
from ke.contracts.errors import KeError

REQUEST_ID_HEADER: Final = "X-Request-ID"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)
_PORT: Final = re.compile(r":\d+$")
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_QUIET: Final = frozenset({"/healthz", "/readyz"})

log = structlog.get_logger(__name__)


class RequestLog:
    """Gives each request an id, logs how it was answered, and turns a crash into a problem document."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:
                # The server cancels what is still open when it stops. Whoever waits is told to ask again; when that
                # is said there is nothing left to cancel.
                if status:
                    raise
                await problems.response(ShuttingDown(), scope["path"])(scope, receive, send_with_id)
            except Exception:  # the edge of the process: nothing may end it, and no inside may leave it
                log.exception("unexpected error", method=scope["method"], path=scope["path"])
                if status:
                    raise
                await problems.internal_error(scope["path"])(scope, receive, send_with_id)
            finally:
                write = log.debug if scope["path"] in _QUIET and status == HTTPStatus.OK else log.info
                write(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round((time.perf_counter() - started) * 1000, 1),
                )


class HostGuard:
    """Refuses requests that a web page of elsewhere makes a browser send.

    Without it a page could point a name of its own at this machine (DNS rebinding) and read and delete jobs: there
    is no login yet. The same goes for a form on a foreign page that posts here.

    Args:
        app: What comes after it.
        hosts: The host names, without ports, that are ours; `*` among them: all.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] == "http":
            refusal = self._refusal(scope["method"], Headers(scope=scope))
            if refusal is not None:
                await problems.response(refusal, scope["path"])(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, method: str, headers: Headers) -> KeError | None:
        host = _PORT.sub("", headers.get("host", "")).lower()
        if "*" not in self._hosts and host not in self._hosts:
            return WrongHost(f"This gateway does not answer for the host {host[:100]!r}; KE_API_HOSTS lists its names.")
        if method not in _SAFE and (headers.get("sec-fetch-site") == "cross-site" or self._is_foreign(headers, host)):
            return CrossSite()
        return None

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        """Whether a page of another host asks: browsers send `Origin` where they send no `Sec-Fetch-Site`."""
        origin = headers.get("origin")
        if origin is None:
            return False
        of_page = _PORT.sub("", origin.lower().partition("://")[2])
        return of_page != host and of_page not in self._hosts


class BodyGuard:
    """Refuses bodies that are too long, or not sent as JSON, before anyone reads them.

    Args:
        app: What comes after it.
        max_bytes: The longest body.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        is_streamed = "transfer-encoding" in headers
        try:
            if is_streamed or length not in {"", "0"}:
                _check_type(headers.get("content-type", ""))
            if length.isdigit() and int(length) > self._max_bytes:
                raise self._too_long()
            replay = await self._read(receive) if is_streamed else receive
        except KeError as error:
            await problems.response(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, replay, send)

    def _too_long(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"The body is longer than {self._max_bytes:,} bytes.")

    async def _read(self, receive: Receive) -> Receive:
        """Reads a body whose length was not told, as far as is allowed, and gives it out again."""
        messages: deque[Message] = deque()
        total, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            total += len(message.get("body", b""))
            if total > self._max_bytes:
                raise self._too_long()
            more = message["type"] == "http.request" and message.get("more_body", False)

        async def replay() -> Message:
            return messages.popleft() if messages else await receive()

        return replay


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110, section 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app(dict(scope) | {"method": "GET"}, receive, send_without_body)


def _check_type(kind: str) -> None:
    if not _JSON.fullmatch(kind.strip()):
        said = f"not as {kind[:100]!r}" if kind else "and Content-Type must say so"
        raise UnsupportedMediaType(f"The body must be sent as application/json, {said}.")
