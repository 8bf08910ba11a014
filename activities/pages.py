"""One page: may it be fetched, what came, what does it say, what follows from it."""

import asyncio
import hashlib
import uuid
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import structlog

from activities.documents import read_document
from activities.reach import Reach
from activities.recrawling import Recrawl, is_gone, was_gone
from ke.contracts.errors import KeError
from ke.runtime.pool import CpuPool
from ke.storage.collecting import Document, PageOutcome, PageState
from ke.storage.frontier import EarlierPage, FrontierEntry
from ke.web.errors import BadPattern, RedirectRefused, TooLarge, UnsupportedType
from ke.web.fetch import Fetcher
from ke.web.parse import READABLE_TYPES, ParsedPage
from ke.web.politeness import HostGate
from ke.web.rendering import RenderingFetcher
from ke.web.response import Fail, Response, Retry, classify
from ke.web.robots import UNREACHABLE_S, Robots, RobotsRules
from ke.web.urls import host_key

log = structlog.get_logger(__name__)

MAX_ATTEMPTS: Final = 4
"""Failed attempts after which a page is a dead letter."""
STOPPING_S: Final = 0.1
"""Seconds between two looks of a page that must not begin any more."""
NOT_MODIFIED: Final = 304
RETRY_DELAYS_S: Final = (1.0, 5.0, 15.0)
"""Seconds before the second, third and fourth attempt, unless the server asks for more."""


class RobotsUnreachable(KeError):
    """The robots.txt of this host cannot be read now, so nothing of it may be fetched."""

    code = "robots-unreachable"
    retryable = True


class PageReader:
    """Fetches and reads the pages of one slice, within robots.txt, scope and the host's patience."""

    def __init__(
        self,
        fetcher: Fetcher | RenderingFetcher,
        pool: CpuPool,
        robots: Robots,
        gate: HostGate,
        reach: Reach,
        stopping: Callable[[], bool] = lambda: False,
        recrawl: Recrawl | None = None,
    ) -> None:
        """Fetches nothing yet; once `stopping` says so it begins no request any more."""
        self._recrawl = recrawl or Recrawl(reach.spec, None)
        self._stopping = stopping
        self._fetcher = fetcher
        self._pool = pool
        self._robots = robots
        self._gate = gate
        self._reach = reach
        self._rooms: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(2 * reach.spec.rate.concurrency)
        )
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
            # One half is fetched while the other is read; of a host that has more, the pool has these at once.
            async with self._rooms[entry.host or host_key(entry.url)]:
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
        delay_s = rules.crawl_delay_s if rules else None
        before = self._recrawl.conditions(entry)
        response = await self._fetch(entry, max_bytes, delay_s, before)
        if response.status != NOT_MODIFIED:
            return await self._answer(entry, response)
        if before is not None and self._reach.spell(response.final_url) == before.url:
            return self._unchanged(entry, response, before)
        # It leads elsewhere now, or was not asked whether it has changed: what it says has to be seen.
        response = await self._fetch(entry, max_bytes, delay_s)
        if response.status == NOT_MODIFIED:
            return self._fail(entry, "http-304", "HTTP 304, which was not asked for", response)
        return await self._answer(entry, response)

    async def _fetch(
        self,
        entry: FrontierEntry,
        max_bytes: int | None,
        delay_s: float | None,
        before: EarlierPage | None = None,
    ) -> Response:
        async with self._gate.slot(host_key(entry.url), delay_s):
            while self._stopping():  # noqa: ASYNC110 - until the slice breaks it off, which it does within a moment
                await asyncio.sleep(STOPPING_S)
            self.started.add(entry.id)
            return await self._fetcher.fetch(
                entry.url,
                etag=before.etag if before else None,
                last_modified=before.last_modified if before else None,
                types=READABLE_TYPES,
                follow=self._follow(entry),
                max_bytes=max_bytes,
            )

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
            return self._again(entry, f"http-{response.status}", verdict.reason, response, after_s=verdict.after_s)
        if isinstance(verdict, Fail):
            return self._refused(entry, response, verdict.reason)
        content_hash = hashlib.sha256(response.body).digest()
        before = entry.earlier
        if before is None or not self._recrawl.is_same(entry, self._reach.spell(response.final_url), content_hash):
            return await self._outcome(entry, response, await self._parse(response), content_hash)
        same = self._unchanged(entry, response, before)
        if self._recrawl.knows_links(entry):
            return same
        return replace(same, links=await self._links(entry, await self._parse(response)))

    async def _parse(self, response: Response) -> ParsedPage:
        return await read_document(self._pool, response, self._reach.spec.reading)

    async def _outcome(
        self, entry: FrontierEntry, response: Response, page: ParsedPage, content_hash: bytes
    ) -> PageOutcome:
        if entry.depth == 0:
            self._reach.widen(response.final_url)
        kept = not (page.noindex and self._reach.spec.scope.robots)
        url = self._reach.spell(response.final_url)
        canonical = self._reach.spell(page.canonical) if page.canonical else None
        document = Document(
            url=url,
            title=page.title or None,
            text=page.text,
            metadata=page.metadata,
            content_type=response.content_type or ("application/pdf" if page.kind == "pdf" else "text/html"),
            content_hash=content_hash,
        )
        return PageOutcome(
            entry=entry,
            state=PageState.FETCHED,
            fetched_at=datetime.now(UTC),
            reason=None if kept else "the page asks not to be indexed",
            http_status=response.status,
            etag=response.etag,
            last_modified=response.last_modified,
            bytes=response.size,
            document=document if kept else None,
            final_url=url,
            content_type=document.content_type,
            canonical=canonical if canonical != url else None,
            read_before=self._recrawl.document(entry, url),
            links=await self._links(entry, page),
        )

    def _unchanged(self, entry: FrontierEntry, response: Response, before: EarlierPage) -> PageOutcome:
        """A page that is as it was: the earlier document stays its document."""
        if entry.depth == 0:
            self._reach.widen(response.final_url)
        return PageOutcome(
            entry=entry,
            state=PageState.UNCHANGED,
            fetched_at=datetime.now(UTC),
            http_status=response.status,
            etag=response.etag or before.etag,
            last_modified=response.last_modified or before.last_modified,
            bytes=response.size,
            final_url=self._reach.spell(response.final_url),
            content_type=before.content_type,
            content_hash=before.content_hash,
            source_id=before.source_id,
        )

    def _refused(self, entry: FrontierEntry, response: Response, reason: str) -> PageOutcome:
        """A page that is not to be had: it is gone, or a failure."""
        if is_gone(entry, response):
            return self._gone(entry, response, reason)
        if was_gone(entry, response):
            # A link that nobody has mended, to what was told before.
            return replace(self._skip(entry, f"gone before: {reason}"), http_status=response.status)
        return self._fail(entry, f"http-{response.status}", reason, response)

    def _gone(self, entry: FrontierEntry, response: Response, reason: str) -> PageOutcome:
        """A page that was there: no failure, but a finding, with the document that it had."""
        return PageOutcome(
            entry=entry,
            state=PageState.GONE,
            fetched_at=datetime.now(UTC),
            reason=reason,
            http_status=response.status,
            final_url=self._reach.spell(response.final_url),
            source_id=entry.earlier.source_id if entry.earlier else None,
        )

    async def _links(self, entry: FrontierEntry, page: ParsedPage) -> tuple[str, ...]:
        spec = self._reach.spec
        if not spec.follow or (page.nofollow and spec.scope.robots):
            return ()
        links = page.links if spec.scope.robots else (*page.links, *page.nofollow_links)
        if page.canonical:
            # Where the page says that it belongs: looked at like any other link, and never taken at its word.
            links = (*links, page.canonical)
        return await self._reach.select(links, entry.depth + 1)

    def _skip(self, entry: FrontierEntry, reason: str) -> PageOutcome:
        return PageOutcome(entry, PageState.SKIPPED, datetime.now(UTC), reason=reason)

    def _fail(
        self, entry: FrontierEntry, error_type: str, reason: str, response: Response | None = None
    ) -> PageOutcome:
        return PageOutcome(
            entry,
            PageState.FAILED,
            datetime.now(UTC),
            reason=reason,
            error_type=error_type,
            http_status=response.status if response else None,
            final_url=self._reach.spell(response.final_url) if response else None,
        )

    def _again(
        self,
        entry: FrontierEntry,
        error_type: str,
        reason: str,
        response: Response | None = None,
        *,
        after_s: float | None = None,
    ) -> PageOutcome:
        """Back into the frontier for a later attempt, or, after the last one, a dead letter."""
        if entry.attempts + 1 >= MAX_ATTEMPTS:
            return self._fail(entry, error_type, reason, response)
        return PageOutcome(
            entry,
            PageState.RETRY,
            datetime.now(UTC),
            reason=reason,
            error_type=error_type,
            http_status=response.status if response else None,
            retry_after_s=max(after_s or 0.0, RETRY_DELAYS_S[entry.attempts]),
        )
