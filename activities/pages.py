"""One page: may it be fetched, what came, what does it say, what follows from it."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import structlog

from activities.documents import read_document
from ke.contracts.errors import KeError
from ke.contracts.jobs import CollectSpec
from ke.runtime.pool import CpuPool
from ke.storage.collecting import Document, PageOutcome, PageState
from ke.storage.frontier import FrontierEntry
from ke.web.errors import BadPattern, RedirectRefused, TooLarge, UnsupportedType
from ke.web.fetch import Fetcher
from ke.web.parse import READABLE_TYPES, ParsedPage
from ke.web.politeness import HostGate
from ke.web.response import Fail, Response, Retry, classify
from ke.web.robots import UNREACHABLE_S, Robots, RobotsRules
from ke.web.urls import Scope, host_key, links_in_scope

log = structlog.get_logger(__name__)

MAX_ATTEMPTS: Final = 4
"""Failed attempts after which a page is a dead letter."""
STOPPING_S: Final = 0.1
"""Seconds between two looks of a page that must not begin any more."""
INLINE_LINKS: Final = 500
"""Links that are told apart on the event loop: some milliseconds."""
RETRY_DELAYS_S: Final = (1.0, 5.0, 15.0)
"""Seconds before the second, third and fourth attempt, unless the server asks for more."""


class RobotsUnreachable(KeError):
    """The robots.txt of this host cannot be read now, so nothing of it may be fetched."""

    code = "robots-unreachable"
    retryable = True


@dataclass(slots=True)
class Reach:
    """How far a crawl may go; a seed that redirects to another host widens it."""

    spec: CollectSpec
    hosts: frozenset[str]
    scope: Scope
    pool: CpuPool

    @classmethod
    def of(cls, spec: CollectSpec, pool: CpuPool) -> "Reach":
        """The reach of a crawl whose seeds have not redirected so far."""
        hosts = frozenset(host_key(url) for url in spec.urls)
        return cls(spec, hosts, Scope(spec.scope, spec.limits, hosts), pool)

    def widen(self, url: str) -> None:
        """Takes the host of this URL into scope."""
        host = host_key(url)
        if host not in self.hosts:
            self.hosts |= {host}
            self.scope = Scope(self.spec.scope, self.spec.limits, self.hosts)

    async def select(self, urls: tuple[str, ...], depth: int) -> tuple[str, ...]:
        """Those of the URLs that the crawl follows."""
        scope, limits, hosts = self.spec.scope, self.spec.limits, self.hosts
        if len(urls) <= INLINE_LINKS:
            return links_in_scope(urls, depth, scope, limits, hosts)
        return await self.pool.run(links_in_scope, urls, depth, scope, limits, hosts)


class PageReader:
    """Fetches and reads the pages of one slice, within robots.txt, scope and the host's patience."""

    def __init__(
        self,
        fetcher: Fetcher,
        pool: CpuPool,
        robots: Robots,
        gate: HostGate,
        reach: Reach,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Fetches nothing yet; once `stopping` says so it begins no request any more."""
        self._stopping = stopping
        self._fetcher = fetcher
        self._pool = pool
        self._robots = robots
        self._gate = gate
        self._reach = reach
        self.started: set[uuid.UUID] = set()
        """The pages whose request has begun; the others only wait for their turn at the host."""

    async def read(self, entry: FrontierEntry, *, max_bytes: int | None) -> PageOutcome:  # noqa: PLR0911
        """Fetches and reads one page; whatever goes wrong with it is its outcome.

        Args:
            entry: The page.
            max_bytes: What is left of the crawl's byte limit, or None.

        Raises:
            BadPattern: One of the crawl's patterns cannot be matched in reasonable time: the job's fault.
        """
        try:
            return await self._read(entry, max_bytes)
        except (UnsupportedType, RedirectRefused) as error:
            return self._skip(entry, error.message)
        except TooLarge as error:
            read = int(error.extra.get("bytes_read", 0))
            if max_bytes is not None and max_bytes < self._fetcher.max_bytes:
                return replace(self._skip(entry, "max_bytes"), bytes=read)
            return replace(self._fail(entry, error.code, error.message), bytes=read)
        except BadPattern:
            raise
        except KeError as error:
            if error.retryable:
                return self._again(entry, error.code, error.message)
            return self._fail(entry, error.code, error.message)
        except Exception as error:
            # The edge to the web: what one page can still bring about is this page's end and not the job's.
            log.exception("a page went wrong in a way that was not foreseen", url=entry.url)
            return self._fail(entry, "unreadable", f"{type(error).__name__}: {error}")
        finally:
            self.started.discard(entry.id)

    async def _read(self, entry: FrontierEntry, max_bytes: int | None) -> PageOutcome:
        rules = await self._rules(entry.url)
        if rules is not None and not rules.reachable:
            return self._again(entry, RobotsUnreachable.code, rules.reason, after_s=UNREACHABLE_S)
        if rules is not None and not rules.allowed(entry.url):
            return self._skip(entry, "disallowed by robots.txt")
        async with self._gate.slot(host_key(entry.url), rules.crawl_delay_s if rules else None):
            while self._stopping():  # noqa: ASYNC110 - until the slice breaks it off, which it does within a moment
                await asyncio.sleep(STOPPING_S)
            self.started.add(entry.id)
            response = await self._fetcher.fetch(
                entry.url, types=READABLE_TYPES, follow=self._follow(entry), max_bytes=max_bytes
            )
        return await self._answer(entry, response)

    async def _rules(self, url: str) -> RobotsRules | None:
        return await self._robots.rules(url) if self._reach.spec.scope.robots else None

    def _follow(self, entry: FrontierEntry) -> Callable[[str], Awaitable[str | None]]:
        """Decides on redirects: a page's own depth and scope hold for where it leads; a seed may move."""

        async def refusal(target: str) -> str | None:
            if entry.depth > 0 and self._reach.spec.follow:
                reason = self._reach.scope.refusal(target, entry.depth)
                if reason is not None:
                    return reason
            rules = await self._rules(target)
            if rules is not None and not rules.reachable:
                raise RobotsUnreachable(rules.reason)
            return None if rules is None or rules.allowed(target) else "disallowed by robots.txt"

        return refusal

    async def _answer(self, entry: FrontierEntry, response: Response) -> PageOutcome:
        verdict = classify(response)
        if isinstance(verdict, Retry):
            if verdict.after_s:
                self._gate.backoff(host_key(response.final_url), verdict.after_s)
            return self._again(
                entry, f"http-{response.status}", verdict.reason, status=response.status, after_s=verdict.after_s
            )
        if isinstance(verdict, Fail):
            return self._fail(entry, f"http-{response.status}", verdict.reason, status=response.status)
        return await self._outcome(entry, response, await read_document(self._pool, response, self._reach.spec.reading))

    async def _outcome(self, entry: FrontierEntry, response: Response, page: ParsedPage) -> PageOutcome:
        if entry.depth == 0:
            self._reach.widen(response.final_url)
        kept = not (page.noindex and self._reach.spec.scope.robots)
        document = Document(
            url=response.final_url,
            title=page.title or None,
            text=page.text,
            metadata=page.metadata,
            content_type=response.content_type or ("application/pdf" if page.kind == "pdf" else "text/html"),
            content_hash=hashlib.sha256(response.body).digest(),
        )
        return PageOutcome(
            entry=entry,
            state=PageState.FETCHED,
            fetched_at=datetime.now(UTC),
            reason=None if kept else "the page asks not to be indexed",
            http_status=response.status,
            etag=response.etag,
            last_modified=response.last_modified,
            bytes=len(response.body),
            document=document if kept else None,
            links=await self._links(entry, page),
        )

    async def _links(self, entry: FrontierEntry, page: ParsedPage) -> tuple[str, ...]:
        spec = self._reach.spec
        if not spec.follow or (page.nofollow and spec.scope.robots):
            return ()
        links = page.links if spec.scope.robots else (*page.links, *page.nofollow_links)
        return await self._reach.select(links, entry.depth + 1)

    def _skip(self, entry: FrontierEntry, reason: str) -> PageOutcome:
        return PageOutcome(entry, PageState.SKIPPED, datetime.now(UTC), reason=reason)

    def _fail(self, entry: FrontierEntry, error_type: str, reason: str, *, status: int | None = None) -> PageOutcome:
        now = datetime.now(UTC)
        return PageOutcome(entry, PageState.FAILED, now, reason=reason, error_type=error_type, http_status=status)

    def _again(
        self,
        entry: FrontierEntry,
        error_type: str,
        reason: str,
        *,
        status: int | None = None,
        after_s: float | None = None,
    ) -> PageOutcome:
        """Back into the frontier for a later attempt, or, after the last one, a dead letter."""
        if entry.attempts + 1 >= MAX_ATTEMPTS:
            return self._fail(entry, error_type, reason, status=status)
        return PageOutcome(
            entry,
            PageState.RETRY,
            datetime.now(UTC),
            reason=reason,
            error_type=error_type,
            http_status=status,
            retry_after_s=max(after_s or 0.0, RETRY_DELAYS_S[entry.attempts]),
        )
