"""Proxies between a consumer and what it depends on, which can be told to misbehave.

`TcpProxy` knows bytes only: it stands before Postgres and Temporal. `VectorsProxy` knows HTTP, and stands before the
vector process, so that it can fail one kind of call, or the k-th of them. Both can execute a request and lose its
answer, which is the failure that retries must be built for.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web

from ke.storage.vectors.edge_searches import PATH as SEARCHES

CHUNK: Final = 64 * 1024
UPSTREAM_TIMEOUT_S: Final = 5.0
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER with a time of zero: closing sends RST."""


class TcpProxy:
    """Forwards TCP connections; each switch below may be turned at any time.

    Attributes:
        delay_s: Pause before each piece is passed on, in either direction, seconds.
        refuse: New connections are reset at once.
        drop_replies: So many of the next requests are passed on, and their connection is reset before the answer.
        drop_when: Only requests that contain this count for `drop_replies`; empty: all.
        dropped: How many answers were lost so.
    """

    def __init__(self, upstream: Callable[[], tuple[str, int] | None]) -> None:
        """Takes what says where to connect, asked for each connection."""
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0
        self.heal()
        self.dropped = 0

    def heal(self) -> None:
        """Forwards as if it were not there; what was held goes on its way."""
        self.delay_s = 0.0
        self.refuse = False
        self.drop_replies = 0
        self.drop_when = b""
        self._flowing.set()

    def hold(self) -> None:
        """Loses nothing and passes nothing on, like a network that is cut, until `heal`."""
        self._flowing.clear()

    def reset(self) -> int:
        """Resets every connection there is; returns how many."""
        writers = list(self._writers)
        for writer in writers:
            _abort(writer)
        return len(writers) // 2

    async def start(self) -> None:
        """Listens on a free port of loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Ends all connections."""
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            # Ends here: the streams' own callback would report a cancelled handler as an error.
            _abort(writer)
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = self._upstream()
        if self.refuse or address is None:
            _abort(writer)
            return
        try:
            async with asyncio.timeout(UPSTREAM_TIMEOUT_S):
                far_reader, far_writer = await asyncio.open_connection(*address)
        except (OSError, TimeoutError):
            _abort(writer)
            return
        self._writers |= {writer, far_writer}
        link = _Link(self, near=writer, far=far_writer)
        try:
            await asyncio.gather(
                link.pump(reader, far_writer, asking=True), link.pump(far_reader, writer, asking=False)
            )
        finally:
            _abort(writer)
            _abort(far_writer)
            self._writers -= {writer, far_writer}

    async def flow(self) -> None:
        """Waits while the proxy holds, and for its delay."""
        await self._flowing.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: TcpProxy, *, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = near
        self._far = far
        self._doomed = False

    async def pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asking: bool) -> None:
        """Passes on what comes from one side until either side ends."""
        with contextlib.suppress(OSError):
            while piece := await source.read(CHUNK):
                await self._proxy.flow()
                if asking:
                    self._doom(piece)
                elif self._doomed:
                    # The request was executed, for here is its answer; nobody will see it.
                    break
                target.write(piece)
                await target.drain()
        _abort(self._near)
        _abort(self._far)

    def _doom(self, piece: bytes) -> None:
        if self._proxy.drop_replies > 0 and not self._doomed and self._proxy.drop_when in piece:
            self._proxy.drop_replies -= 1
            self._proxy.dropped += 1
            self._doomed = True


class VectorsProxy:
    """Forwards HTTP from one Unix socket to another; each switch may be turned at any time.

    Attributes:
        delay_s: Pause before each call, seconds.
        refuse: Every call is cut off unheard.
        fail: Every call is answered with status 500 and not passed on.
        fail_upserts: The numbers, counted from the next one as 1, of upserts that fail so.
        drop_replies: So many of the next upserts and deletes are executed, and cut off before the answer.
        calls: How many calls there have been.
        failed: How many of them were failed.
        dropped: How many answers were lost.
    """

    def __init__(self, path: Path, upstream: Callable[[], Path | None]) -> None:
        """Takes the socket to serve, and what says where to forward to."""
        self._path = path
        self._upstream = upstream
        self._runner: web.AppRunner | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._hold_upserts = False
        self.holding = asyncio.Event()
        self.failing = asyncio.Event()
        self.calls = 0
        self.failed = 0
        self.dropped = 0
        self.heal()

    def heal(self) -> None:
        """Forwards as if it were not there; what was held goes on its way."""
        self.delay_s = 0.0
        self.refuse = False
        self.fail = False
        self.fail_upserts: set[int] = set()
        self._upserts = 0
        self.drop_replies = 0
        self._hold_upserts = False
        self.holding.clear()
        self.failing.clear()
        self._flowing.set()

    def hold(self, *, upserts_only: bool = False) -> None:
        """Keeps calls, or upserts alone, until `heal`; `holding` is set when the first one is kept."""
        self._hold_upserts = upserts_only
        self._flowing.clear()

    async def start(self) -> None:
        """Serves the socket."""
        app = web.Application(client_max_size=2**30)
        app.router.add_get(SEARCHES, self._search)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.UnixSite(self._runner, self._path).start()

    async def stop(self) -> None:
        """Stops serving."""
        self.heal()
        if self._runner is not None:
            await self._runner.cleanup()
        self._path.unlink(missing_ok=True)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        body = await request.read()
        upsert = request.path.endswith("/upsert")
        self._upserts += upsert
        # Decided before any wait: `heal` lets what is held pass, unharmed.
        fails = self.fail or (upsert and self._upserts in self.fail_upserts)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if not self._flowing.is_set() and (upsert or not self._hold_upserts):
            self.holding.set()
            await self._flowing.wait()
        if self.refuse:
            return self._cut(request)
        if fails:
            self.failed += 1
            self.failing.set()
            return web.json_response({"code": "internal", "detail": "failing as told"}, status=500)
        drops = (upsert or request.path.endswith("/delete")) and self.drop_replies > 0
        self.drop_replies -= drops
        try:
            answer = await self._forward(request, body)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return self._cut(request)
        if drops:
            self.dropped += 1
            return self._cut(request)
        return answer

    async def _search(self, request: web.Request) -> web.StreamResponse:
        """Searches come over connections of their own; a switch turned meanwhile counts from the next one on."""
        upstream = self._upstream()
        if upstream is None:
            return self._cut(request)
        near = web.WebSocketResponse(max_msg_size=0)
        try:
            connector = aiohttp.UnixConnector(path=str(upstream))
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.ws_connect(f"http://vectors{SEARCHES}", max_msg_size=0) as far,
            ):
                await near.prepare(request)
                async for message in near:
                    self.calls += 1
                    await asyncio.sleep(self.delay_s)
                    if not self._flowing.is_set() and not self._hold_upserts:
                        self.holding.set()
                        await self._flowing.wait()
                    if self.refuse or self.fail:
                        self.failed += self.fail
                        self.failing.set()
                        return self._cut(request)
                    await far.send_bytes(message.data)
                    await near.send_bytes(await far.receive_bytes())
        except (aiohttp.ClientError, OSError, TypeError):
            pass  # one of the two sides is gone
        return self._cut(request)

    async def _forward(self, request: web.Request, body: bytes) -> web.StreamResponse:
        upstream = self._upstream()
        if upstream is None:
            return self._cut(request)
        timeout = aiohttp.ClientTimeout(total=60)
        connector = aiohttp.UnixConnector(path=str(upstream))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(request.method, f"http://vectors{request.path_qs}", data=body or None) as answer,
        ):
            return web.Response(
                body=await answer.read(), status=answer.status, content_type=answer.content_type or "application/json"
            )

    def _cut(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)


def _abort(writer: asyncio.StreamWriter) -> None:
    """Resets a connection; one that is closed already stays so."""
    transport = writer.transport
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
