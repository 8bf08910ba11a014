"""The collect lane without Temporal, and small sites on the loopback whose answers a test chooses."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from aiohttp import web
from temporalio.testing import ActivityEnvironment

from activities.collect import CollectActivities
from ke.contracts.activities import CloseJob, CollectSlice, SliceReport
from ke.contracts.jobs import CollectSpec, CrawlLimits, CrawlScope, JobInput, JobKind, JobOutcome, JobStatus
from ke.runtime.pool import CpuPool
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import open_job
from ke.storage.tables import pages, sources
from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher
from ke.web.rendering import Browser

FETCH_S = 30.0
"""Seconds for a fetch: on a machine that stands still for some none is given up, and asked for again."""

Answer = Callable[[web.BaseRequest], web.StreamResponse | Awaitable[web.StreamResponse]]


@dataclass
class LaneSite:
    """A site; what is not among its answers is 404."""

    url: str = ""
    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    requests: list[web.BaseRequest] = field(default_factory=list)

    def html(self, path: str, *links: str, head: str = "", text: str = "", **headers: str) -> None:
        """A page with links."""
        body = "".join(f'<a href="{link}">{link}</a> ' for link in links)
        said = text or f"This is {path}."
        page = f"<html><head><title>{path}</title>{head}</head><body><p>{said}</p>{body}</body></html>"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = lambda _: web.Response(text=page, content_type="text/html", headers=named)

    def versioned(self, path: str, *links: str, text: str = "", etag: str = "", modified: str = "") -> None:
        """A page with validators, which answers 304 to whoever has that version."""
        self.html(path, *links, text=text, **{n: v for n, v in (("ETag", etag), ("Last_Modified", modified)) if v})
        whole = self.answers[path]

        def answer(request: web.BaseRequest) -> Any:
            known = request.headers.get("If-None-Match"), request.headers.get("If-Modified-Since")
            return web.Response(status=304) if known == (etag or None, modified or None) else whole(request)

        self.answers[path] = answer

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """What the server calls."""
        self.asked.append(request.path_qs)
        self.requests.append(request)
        made = self.answers.get(request.path_qs) or self.answers.get(request.path)
        if made is None:
            return web.Response(status=404)
        answer = made(request)
        return await answer if isinstance(answer, Awaitable) else answer


@asynccontextmanager
async def running_site() -> AsyncIterator[LaneSite]:
    """A site on a free port."""
    site = LaneSite()
    runner = web.ServerRunner(web.Server(site.answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield site
    finally:
        await runner.cleanup()


@dataclass
class Lanes:
    """What a collect lane needs, and a site whose answers a test chooses."""

    database: Database
    pool: CpuPool
    site: LaneSite
    others: list[LaneSite] = field(default_factory=list)
    """Further hosts that may be fetched."""
    browser: Browser | None = None

    @property
    def answers(self) -> dict[str, Answer]:
        return self.site.answers

    @property
    def asked(self) -> list[str]:
        return self.site.asked

    @property
    def url(self) -> str:
        return self.site.url

    def html(self, path: str, *links: str, head: str = "") -> None:
        """A page with links."""
        self.site.html(path, *links, head=head)

    async def job(self, spec: CollectSpec) -> CollectSlice:
        """An open job's first slice."""
        kind = JobKind.CRAWL if spec.follow else JobKind.SCRAPE
        job = JobInput(str(uuid.uuid4()), kind, datetime.now(UTC).isoformat(), collect=spec)
        async with self.database.transaction() as connection:
            row = await open_job(connection, job, "run")
        assert row.status is JobStatus.RUNNING
        return CollectSlice(job.job_id, row.write_epoch, spec, extract=False, started_at=job.created_at)

    def crawl(self, path: str = "/", **limits: int) -> CollectSpec:
        """A crawl of the site."""
        scope = CrawlScope(sitemaps=False)
        return CollectSpec((f"{self.url}{path}",), follow=True, limits=CrawlLimits(**limits), scope=scope)

    async def run(
        self, piece: CollectSlice, environment: ActivityEnvironment | None = None, *, shards: int = 1
    ) -> SliceReport:
        """One slice to its end, on a worker of its own; `shards`: its setting."""
        hosts = frozenset(site.url.removeprefix("http://") for site in (self.site, *self.others))
        async with Fetcher(
            user_agent="ke-test/1", timeout_s=FETCH_S, max_bytes=100_000, policy=EgressPolicy(hosts)
        ) as fetcher:
            lane = CollectActivities(self.database, fetcher, self.pool, self.browser, shards)
            body = lane.collect_pages if piece.shards == 1 else lane.collect_shard
            return await (environment or ActivityEnvironment()).run(body, piece)

    async def whole(self, spec: CollectSpec) -> tuple[str, JobOutcome]:
        """A job to its end; gives its id and its outcome."""
        piece = await self.job(spec)
        assert (await self.run(piece)).done
        return piece.job_id, await end_job(self.database, CloseJob(piece.job_id))

    async def until(self, seen: Callable[[list[str]], bool]) -> None:
        """Waits until the site was asked for what the test wants."""
        async with asyncio.timeout(60):
            while not seen(self.asked):  # noqa: ASYNC110  the site appends to a list
                await asyncio.sleep(0.01)

    async def pages(self, piece: CollectSlice | str) -> dict[str, tuple[str, str | None]]:
        """State and reason of each page, by path."""
        return {path: (row.state, row.reason) for path, row in (await self.rows(piece)).items()}

    async def rows(self, piece: CollectSlice | str) -> dict[str, sa.Row[Any]]:
        """The frontier, by path."""
        job_id = piece if isinstance(piece, str) else piece.job_id
        async with self.database.transaction() as connection:
            found = await connection.execute(sa.select(pages).where(pages.c.job_id == uuid.UUID(job_id)))
            return {row.url.removeprefix(self.url): row for row in found}

    async def stored(self, job_id: str) -> dict[str, sa.Row[Any]]:
        """The sources of a job, by path."""
        async with self.database.transaction() as connection:
            found = await connection.execute(sa.select(sources).where(sources.c.job_id == uuid.UUID(job_id)))
            return {row.url.removeprefix(self.url): row for row in found}
