"""Pages as a browser shows them, behind the same interface as the fetcher.

The page itself is fetched by our own fetcher, so that robots.txt, redirects, scope and limits hold as they do without a
browser. Chromium is given its bytes, and asks us for whatever its scripts want: that goes through our fetcher as well,
hop by hop past the egress guard. Chromium itself reaches nothing.
"""

import asyncio
import base64
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from ke.contracts.errors import KeError
from ke.web.browser_profiles import remove_left_profiles
from ke.web.chromium import Chromium, find_chromium
from ke.web.errors import BrowserFailed, TooLarge
from ke.web.fetch import Allowance, Fetcher, FollowCheck
from ke.web.response import Response

RENDER_TIMEOUT_S: Final = 15.0
"""Seconds for the scripts of one page; what it shows by then is taken."""
QUIET_S: Final = 0.5
"""Seconds without a request after which a page that has loaded is taken to be complete."""
UNLOADED_QUIET_S: Final = 2.0
"""The same before it says so: a page that tries to lead elsewhere never does."""
SNAPSHOT_TIMEOUT_S: Final = 5.0
MAX_REQUESTS: Final = 100
"""Requests of one page's scripts and styles; more are refused."""
MAX_LOADED_BYTES: Final = 20_000_000
"""Bytes of all their answers, at most."""
MAX_PAGES: Final = 4
"""Pages that one worker renders at once."""

_RENDERED: Final = frozenset({"text/html", "application/xhtml+xml"})
_WANTED: Final = frozenset({"Script", "Stylesheet", "XHR", "Fetch"})
"""Kinds of requests that can change a page's text; pictures, fonts, media and frames cannot."""
_SNAPSHOT: Final = "document.documentElement ? document.documentElement.outerHTML.slice(0, %d) : ''"


class Browser:
    """The worker's one Chromium, started when it is needed first, and anew when it has died."""

    def __init__(self, program: str | None, user_agent: str) -> None:
        """Starts nothing yet.

        Args:
            program: Its path or name; None: looked for on PATH.
            user_agent: What it calls itself.
        """
        self._program = program
        self._user_agent = user_agent
        self._chromium: Chromium | None = None
        self._starting = asyncio.Lock()
        self._places = asyncio.Semaphore(MAX_PAGES)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(remove_left_profiles)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def check(self) -> None:
        """Makes sure that there is a browser.

        Raises:
            NoBrowser: There is none.
        """
        find_chromium(self._program)

    async def close(self) -> None:
        """Ends it."""
        chromium, self._chromium = self._chromium, None
        if chromium is not None:
            await chromium.close()

    async def render(
        self,
        response: Response,
        fetcher: Fetcher,
        max_bytes: int,
        allowance: Allowance,
        stopping: Callable[[], bool] = lambda: False,
    ) -> bytes:
        """The HTML of a page when its scripts have run, in UTF-8.

        Args:
            response: The page as it was fetched.
            fetcher: For what its scripts ask for.
            max_bytes: The longest HTML.
            allowance: What its scripts may load.
            stopping: Once it says so no request begins any more.

        Raises:
            BrowserFailed: The browser does not do it; try again.
            TooLarge: The scripts made more of it than that.
        """
        async with self._places:
            chromium = await self._running()
            html = await _Page(chromium, response, fetcher, allowance, stopping).html(max_bytes)
        body = html.encode("utf-8", errors="replace")
        if len(body) > max_bytes:
            read = len(response.body) + allowance.spent
            raise TooLarge(f"the rendered page has more than {max_bytes:,} bytes", bytes_read=read)
        return body

    async def _running(self) -> Chromium:
        async with self._starting:
            if self._chromium is not None and not self._chromium.is_alive:
                await self.close()
            if self._chromium is None:
                self._chromium = await Chromium.start(find_chromium(self._program), self._user_agent)
            return self._chromium


class RenderingFetcher:
    """A fetcher whose pages have been shown by a browser. Takes what a page's reader asks of a fetcher."""

    def __init__(self, fetcher: Fetcher, browser: Browser, stopping: Callable[[], bool] = lambda: False) -> None:
        self._fetcher = fetcher
        self._browser = browser
        self._stopping = stopping

    @property
    def max_bytes(self) -> int:
        """The longest body."""
        return self._fetcher.max_bytes

    async def fetch(
        self,
        url: str,
        *,
        etag: str | None = None,
        last_modified: str | None = None,
        types: frozenset[str] | None = None,
        follow: FollowCheck | None = None,
        max_bytes: int | None = None,
    ) -> Response:
        """As `Fetcher.fetch`; the body of an HTML page is what it is once its scripts have run.

        What the page loads counts against `max_bytes`, together with the page. Where that is less than a body may have
        at most, because little is left of the crawl's bytes, a page that wants more is refused; else it goes without.

        Raises:
            KeError: As there, and `BrowserFailed`.
        """
        response = await self._fetcher.fetch(
            url, etag=etag, last_modified=last_modified, types=types, follow=follow, max_bytes=max_bytes
        )
        if not 200 <= response.status < 300 or response.content_type not in _RENDERED:  # noqa: PLR2004 - HTTP's own
            return response
        most = self.max_bytes if max_bytes is None else max_bytes
        allowance = Allowance(MAX_LOADED_BYTES)
        if max_bytes is not None:
            allowance.limit = min(MAX_LOADED_BYTES, max_bytes - len(response.body))
        body = await self._browser.render(response, self._fetcher, most, allowance, self._stopping)
        loaded = len(response.body) + allowance.spent
        if allowance.is_short and most < self.max_bytes:
            raise TooLarge(f"the page and what it loads have more than {most:,} bytes", bytes_read=loaded)
        return replace(response, body=body, charset="utf-8", loaded_bytes=loaded)


class _Page:
    """One page in a profile of its own, which is thrown away with it."""

    def __init__(
        self,
        chromium: Chromium,
        response: Response,
        fetcher: Fetcher,
        allowance: Allowance,
        stopping: Callable[[], bool],
    ) -> None:
        self._chromium = chromium
        self._stopping = stopping
        self._response = response
        self._fetcher = fetcher
        self._session = ""
        self._frame = ""
        self._is_shown = False
        self._requests = 0
        self._allowance = allowance
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._quiet_s: float | None = None
        """Seconds without a request after which the page is complete; None while it is not even read."""

    async def html(self, max_bytes: int) -> str:
        made = await self._chromium.call("Target.createBrowserContext", {"disposeOnDetach": True})
        context = made["browserContextId"]
        try:
            await self._open(context)
            await self._settle()
            expression = _SNAPSHOT % (max_bytes + 1)
            answer = await self._chromium.call(
                "Runtime.evaluate",
                {"expression": expression, "returnByValue": True},
                self._session,
                timeout_s=SNAPSHOT_TIMEOUT_S,
            )
            return str(answer.get("result", {}).get("value", ""))
        finally:
            await self._end(context)

    async def _open(self, context: str) -> None:
        call = self._chromium.call
        blank = {"url": "about:blank", "browserContextId": context}
        self._frame = (await call("Target.createTarget", blank))["targetId"]
        attached = await call("Target.attachToTarget", {"targetId": self._frame, "flatten": True})
        self._session = attached["sessionId"]
        self._chromium.listen(self._session, self._heard)
        await call("Browser.setDownloadBehavior", {"behavior": "deny", "browserContextId": context})
        await call("Fetch.enable", {"patterns": [{"urlPattern": "*"}]}, self._session)
        await call("Network.enable", {}, self._session)
        await call("Network.setBypassServiceWorker", {"bypass": True}, self._session)
        await call("Page.enable", {}, self._session)
        await call("Page.navigate", {"url": self._response.final_url}, self._session)

    async def _settle(self) -> None:
        """Waits until the page has loaded and asks for nothing any more, or its time is up."""
        try:
            async with asyncio.timeout(RENDER_TIMEOUT_S):
                while True:
                    self._changed.clear()
                    await asyncio.wait_for(self._changed.wait(), None if self._running else self._quiet_s)
        except TimeoutError:
            return

    async def _end(self, context: str) -> None:
        self._chromium.listen(self._session, None)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        try:
            self._chromium.send("Target.disposeBrowserContext", {"browserContextId": context})
        except BrowserFailed:
            return  # It took the page with it.

    # What the page wants

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Page.domContentEventFired" | "Page.frameStoppedLoading" if self._is_shown:
                self._quiet_s = self._quiet_s or UNLOADED_QUIET_S
                self._changed.set()
            case "Page.loadEventFired":
                self._quiet_s = QUIET_S
                self._changed.set()
            case "Page.javascriptDialogOpening":
                self._send("Page.handleJavaScriptDialog", {"accept": False})
            case "Fetch.requestPaused":
                self._changed.set()
                self._answer(params)

    def _answer(self, params: dict[str, Any]) -> None:
        kind, request, number = params["resourceType"], params["request"], params["requestId"]
        if kind == "Document" and params.get("frameId") == self._frame and not self._is_shown:
            self._is_shown = True
            self._start(self._fulfil(number, self._response, request))
        elif kind in _WANTED and request["method"] == "GET" and self._requests < MAX_REQUESTS and not self._stopping():
            self._requests += 1
            self._start(self._load(number, request))
        else:
            # Aborted, and not failed: a page that wants to lead elsewhere stays as it is.
            self._send("Fetch.failRequest", {"requestId": number, "errorReason": "Aborted"})

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._changed.set()

    async def _load(self, number: str, request: dict[str, Any]) -> None:
        try:
            response = await self._fetcher.fetch(request["url"], accept="*/*", allowance=self._allowance)
        except KeError:
            self._send("Fetch.failRequest", {"requestId": number, "errorReason": "Aborted"})
            return
        await self._fulfil(number, response, request)

    async def _fulfil(self, number: str, response: Response, request: dict[str, Any]) -> None:
        encoded = await asyncio.to_thread(base64.b64encode, response.body)
        charset = f"; charset={response.charset}" if response.charset else ""
        # Nothing is fetched with anybody's cookies, so a page may read all that it may load.
        origin = request.get("headers", {}).get("Origin", "*")
        headers = {
            "Content-Type": f"{response.content_type or 'application/octet-stream'}{charset}",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
        }
        self._send(
            "Fetch.fulfillRequest",
            {
                "requestId": number,
                "responseCode": response.status,
                "responseHeaders": [{"name": name, "value": value} for name, value in headers.items()],
                "body": encoded.decode("ascii"),
            },
        )

    def _send(self, method: str, params: dict[str, Any]) -> None:
        try:
            self._chromium.send(method, params, self._session)
        except BrowserFailed:
            return  # Whoever waits for the page is told.
