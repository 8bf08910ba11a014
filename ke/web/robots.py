"""robots.txt (RFC 9309), fetched once for each origin."""

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from protego import Protego

from ke.contracts.errors import FetchRefused
from ke.web.errors import BadUrl, FetchError, TooManyRedirects
from ke.web.fetch import Fetcher
from ke.web.urls import canonicalize, origin

MAX_ROBOTS_BYTES: Final = 512 * 1024
"""What is read of a robots.txt; RFC 9309 asks for 500 KiB at least."""
MAX_ROBOTS_REDIRECTS: Final = 5
"""RFC 9309, 2.3.1.2."""
MAX_SITEMAPS: Final = 100
"""Sitemaps that one robots.txt may name."""
MAX_ORIGINS: Final = 10_000
"""Origins whose rules are remembered at once."""
MAX_CRAWL_DELAY_S: Final = 3_600.0
"""The longest Crawl-delay that is kept to: as long as a job may set for itself, so that no site makes it endless."""
UNREACHABLE_S: Final = 5.0
"""Seconds until an unreachable robots.txt is asked for again."""

_TOO_MANY_REQUESTS: Final = 429


@dataclass(frozen=True, slots=True)
class RobotsRules:
    """What one origin allows this crawler."""

    agent: str
    reachable: bool
    """False: robots.txt answered 5xx or not at all, so nothing may be fetched for now; try again later."""
    reason: str
    """Where the rules come from, for people."""
    crawl_delay_s: float | None = None
    sitemaps: tuple[str, ...] = ()
    parsed: Protego | None = None

    def allowed(self, url: str) -> bool:
        """Whether this URL of the origin may be fetched."""
        if self.parsed is None:
            return self.reachable
        return bool(self.parsed.can_fetch(url, self.agent))


def parse_robots(body: bytes, agent: str, url: str) -> RobotsRules:
    """Reads a robots.txt as far as it concerns one crawler.

    Args:
        body: UTF-8; what is not is replaced.
        agent: The crawler's product token.
        url: Where it came from: relative sitemaps start there.
    """
    parsed = Protego.parse(body.decode("utf-8-sig", errors="replace").replace("\x00", ""))
    delay = parsed.crawl_delay(agent)
    sitemaps: dict[str, None] = {}
    for sitemap in parsed.sitemaps:
        try:
            sitemaps[canonicalize(sitemap, url)] = None
        except BadUrl:
            continue
        if len(sitemaps) == MAX_SITEMAPS:
            break
    return RobotsRules(
        agent=agent,
        reachable=True,
        reason=url,
        crawl_delay_s=min(float(delay), MAX_CRAWL_DELAY_S) if delay is not None else None,
        sitemaps=tuple(sitemaps),
        parsed=parsed,
    )


class _Shared:
    """One request under way and the callers who wait for it; the last one to give up ends it."""

    def __init__(self, task: "asyncio.Task[RobotsRules]") -> None:
        self.task = task
        self.waiters = 0

    async def result(self) -> RobotsRules:
        self.waiters += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self.waiters -= 1
            if self.waiters == 0 and not self.task.done():
                self.task.cancel()


class Robots:
    """The rules of every origin a job touches.

    Args:
        fetcher: Its user agent's part before the slash is the product token the rules are chosen by.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._agent = fetcher.user_agent.partition("/")[0].strip() or "*"
        self._known: OrderedDict[str, tuple[RobotsRules, float]] = OrderedDict()
        self._asked: dict[str, _Shared] = {}

    async def rules(self, url: str) -> RobotsRules:
        """The rules for the origin of this URL, asked for once; callers at the same time share the request.

        A status of 4xx means that there are no rules, of 5xx (or 429, or no answer) that nothing may be fetched until
        robots.txt can be read again.

        Raises:
            FetchRefused: The egress guard refuses the origin itself.
            BadUrl: Not a URL that can be fetched.
        """
        where = origin(self._fetcher.policy.check_url(url))
        known = self._known.get(where)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        shared = self._asked.get(where)
        if shared is None or shared.task.cancelling():
            shared = self._asked[where] = _Shared(asyncio.create_task(self._ask(where)))
        return await shared.result()

    async def _ask(self, where: str) -> RobotsRules:
        this = asyncio.current_task()
        try:
            rules = await self._fetch(f"{where}/robots.txt")
        finally:
            shared = self._asked.get(where)
            if shared is not None and shared.task is this:
                del self._asked[where]
        lasts_s = float("inf") if rules.reachable else UNREACHABLE_S
        self._known[where] = (rules, time.monotonic() + lasts_s)
        if len(self._known) > MAX_ORIGINS:
            self._known.popitem(last=False)
        return rules

    async def _fetch(self, url: str) -> RobotsRules:
        try:
            response = await self._fetcher.fetch(
                url,
                accept="text/plain,*/*;q=0.5",
                max_redirects=MAX_ROBOTS_REDIRECTS,
                max_bytes=MAX_ROBOTS_BYTES,
                truncate=True,
            )
        except TooManyRedirects as error:
            return self._without(f"no robots.txt: {error.message}", reachable=True)
        except (FetchError, FetchRefused) as error:
            return self._without(f"{url}: {error.message}", reachable=False)
        status = response.status
        if status >= 500 or status == _TOO_MANY_REQUESTS:  # noqa: PLR2004 - HTTP's own number
            return self._without(f"{url}: HTTP {status}", reachable=False)
        if not 200 <= status < 300:  # noqa: PLR2004
            return self._without(f"no robots.txt: HTTP {status}", reachable=True)
        body = response.body
        if response.truncated:
            # The last line may be cut in the middle of a path and would then forbid more than it says.
            body = body[: max(body.rfind(b"\n"), body.rfind(b"\r"), 0)]
        return parse_robots(body, self._agent, response.final_url)

    def _without(self, reason: str, *, reachable: bool) -> RobotsRules:
        return RobotsRules(agent=self._agent, reachable=reachable, reason=reason)
