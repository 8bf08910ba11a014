"""The site that the jobs of a run crawl: every job has pages of its own, and every request is written down."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final, Self

from aiohttp import web

PAGES: Final = 30
BRANCHES: Final = 6
BROKEN_ON: Final = 1
"""The page that links to what is not there."""
SLOW_EVERY: Final = 9
"""Every so many pages one takes `SLOW_TIMES` as long as the others."""
SLOW_TIMES: Final = 4
TICK_S: Final = 0.05
STILL_S: Final = 0.2
"""From this on a process that did not run stood still: what came meanwhile waited for it."""
AWAKE_S: Final = 0.1
"""Within this, then, it has taken up what had waited."""
_NAMES: Final = ("Ada Lovelace", "Charles Babbage", "Grace Hopper", "Alan Turing", "Mary Somerville")
_PLACES: Final = ("London", "Paris", "Vienna", "Edinburgh", "Turin", "Boston")


@dataclass(frozen=True, slots=True)
class Fetch:
    """One request as the site saw it."""

    mark: str
    """Whose pages: the first part of the path."""
    path: str
    at: float
    """Seconds since 1970, on arrival; the earliest that it can have been, where this process stood still."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages under one mark."""

    number: int = PAGES
    delay_s: float = 0.15
    """Pause before each answer, seconds."""
    sections: int = 3
    """Sections of a page, each about a chunk."""
    behind: int = 6
    """Pages that only the broken link leads to, once it is mended."""


@dataclass
class FaultSite:
    """Serves `/<mark>/p<n>` for every mark that was announced by `add`."""

    log: list[Fetch] = field(default_factory=list)
    """Every request, in order of arrival, robots.txt and sitemaps aside."""

    def __post_init__(self) -> None:
        self._marks: dict[str, Pages] = {}
        self._mended: set[str] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0
        self._stopping = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._ticked_at = 0.0
        self._stood_still = 0.0, 0.0

    @property
    def host_port(self) -> str:
        """For `KE_FETCH_ALLOW`."""
        return f"127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("GET", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = int(self._runner.addresses[0][1])
        self._ticked_at = time.time()
        self._watch = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping.set()
        if self._watch is not None:
            self._watch.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def add(self, mark: str, pages: Pages) -> None:
        """Serves pages under this mark from now on."""
        self._marks[mark] = pages

    def pages(self, mark: str) -> Pages:
        """What is served under a mark."""
        return self._marks[mark]

    def url(self, mark: str, number: int = 0) -> str:
        """The address of a page."""
        return f"http://{self.host_port}/{mark}/p{number}"

    def urls(self, mark: str) -> list[str]:
        """The addresses of all pages under a mark, the broken link aside."""
        return [self.url(mark, number) for number in range(self._marks[mark].number)]

    def mend(self, mark: str) -> None:
        """From now on the broken link leads to a page, and on to the pages behind it."""
        self._mended.add(mark)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        mark, _, name = request.path.lstrip("/").partition("/")
        pages = self._marks.get(mark)
        if pages is None:
            raise web.HTTPNotFound
        self.log.append(Fetch(mark, request.path, self._arrived_at()))
        number = int(name[1:]) if name[:1] == "p" and name[1:].isdigit() else pages.number
        slow = SLOW_TIMES if number % SLOW_EVERY == SLOW_EVERY - 1 else 1
        await self._pause(pages.delay_s * slow)
        if number >= pages.number and mark not in self._mended:
            raise web.HTTPNotFound
        return web.Response(text=_page(mark, number, pages), content_type="text/html")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.time()
            if now - self._ticked_at > STILL_S:
                self._stood_still = self._ticked_at, now
            self._ticked_at = now

    def _arrived_at(self) -> float:
        """The earliest moment at which a request that is seen now can have come."""
        now = time.time()
        if now - self._ticked_at > STILL_S:
            return self._ticked_at
        since, until = self._stood_still
        return since if now - until < AWAKE_S else now

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _page(mark: str, number: int, pages: Pages) -> str:
    first = BRANCHES * number + 1
    links = "".join(f'<li><a href="p{n}">Page {n}</a></li>' for n in range(first, min(first + BRANCHES, pages.number)))
    if number == pages.number:
        links = "".join(f'<li><a href="p{n}">Page {n}</a></li>' for n in range(number + 1, number + 1 + pages.behind))
    broken = '<p><a href="gone">A link to nowhere</a></p>' if number == BROKEN_ON else ""
    body = "".join(_section(mark, number, section) for section in range(pages.sections))
    title = f"Page {number} of {mark}"
    return (
        f"<!doctype html><html lang=en><head><title>{title}</title></head><body><main><h1>{title}</h1>{body}"
        f"<ul>{links}</ul>{broken}</main></body></html>"
    )


def _section(mark: str, number: int, section: int) -> str:
    sentences = " ".join(
        f"In {1700 + (number * 31 + section * 17 + line) % 300} {_NAMES[(number + line) % len(_NAMES)]} wrote letter "
        f"{number}.{section}.{line} from {_PLACES[(section + line + number) % len(_PLACES)]} about the engine."
        for line in range(9)
    )
    return f"<h2>Section {section} of page {number}, {mark}</h2><p>{sentences}</p>"
