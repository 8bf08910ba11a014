"""Small real servers on the loopback for the fetcher's tests."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Site:
    """A server whose pages are handlers by path; it counts what was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, Handler] = {}
        self.asked: Counter[str] = Counter()
        self.headers: list[web.BaseRequest] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return f"127.0.0.1:{self.port}"

    def page(self, path: str) -> Callable[[Handler], Handler]:
        def add(handler: Handler) -> Handler:
            self.pages[path] = handler
            return handler

        return add

    def serve(self, path: str, body: bytes | str = b"ok", status: int = 200, **headers: str) -> None:
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(body=data, status=status, headers=named)

        self.pages[path] = handler

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.serve(path, b"", status, Location=location)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked[request.path] += 1
        self.headers.append(request)
        handler = self.pages.get(request.path)
        return await handler(request) if handler else web.Response(status=404, text="no such page")


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """A running site on a free port."""
    made = Site()
    runner = web.ServerRunner(web.Server(made.answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(talk: Talk) -> AsyncIterator[str]:
    """A server that says whatever the test wants it to; gives its host:port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except ConnectionError:
            pass  # The client went away, which some tests are about.
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def fetcher(*keys: str, **more) -> Fetcher:
    """A fetcher that may reach the given loopback servers."""
    settings = {"user_agent": "ke-test/1.0", "timeout_s": 20.0, "max_bytes": 1_000_000}
    return Fetcher(**{**settings, **more}, policy=EgressPolicy(frozenset(keys)))
