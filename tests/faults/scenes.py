"""A job of a run: submitted, brought to the phase in which the fault comes, and steered as a caller would."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from temporalio.service import RPCError

from ke.client import ApiError, Job, KnowledgeExtractionClient
from tests.faults.ledger import Ledger, Watched
from tests.faults.site import Pages
from tests.faults.stack import UNREACHABLE, FaultStack, patiently

RETRYING: Final = "retrying"
"""The phase of a crawl that has ended and whose dead letters are being retried."""
PHASES: Final = {
    "crawl": ("queued", "collecting", "extracting", "paused", "cancelling", RETRYING),
    "scrape": ("queued", "collecting", "extracting", "paused", "cancelling"),
    "extract": ("queued", "extracting", "paused", "cancelling"),
}
"""The phases of each kind."""
CLEANUP_PHASES: Final = ("begin", "vectors", "sources", "dead-letters", "verify")
CONCURRENCY: Final = 3
"""Of each crawl at its pages."""
REACH_TIMEOUT_S: Final = 90.0
LOOK_S: Final = 0.03
SMALL: Final = Pages(number=12, delay_s=0.05)
"""For a job that is only there to be cleaned up."""
STORM_S: Final = 400.0
"""A gateway on two busy cores answers some ten cancels a second, and 503 to those that would wait for too long."""
TINY: Final = Pages(number=1, delay_s=3.0)
T = TypeVar("T")


class NotReached(Exception):
    """The job did not come to the phase in time."""


@dataclass
class Scene:
    """One job and what a fault of the plan does around it."""

    stack: FaultStack
    ledger: Ledger
    kind: str
    phase: str
    moment: int
    """How far into the phase the fault comes: in pages or sources."""
    library: str = ""
    """The job whose sources an extraction reads."""
    job: Watched | None = None
    client: KnowledgeExtractionClient | None = None
    """Its own way to the gateway; None: that of all."""
    patience_s: float = 120.0
    """How long the gateway is asked again while it does not answer."""
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        """The job's id."""
        assert self.job is not None
        return self.job.id

    # To the phase

    async def reach(self) -> str:
        """Brings a job to the phase; returns the state in which it really is.

        Raises:
            NotReached: It did not get there.
        """
        if self.phase in CLEANUP_PHASES:
            await self._reach_cleanup()
        elif self.phase == RETRYING:
            await self._reach_retry()
        elif self.phase == "queued":
            self.job = await self.submit()
        else:
            self.job = await self.submit()
            lane = "extract" if self.phase == "extracting" or self.kind == "extract" else "collect"
            await self._until_moved(lane)
            if self.phase == "paused":
                await self._unless_ended(lambda client: client.pause_job(self.job_id))
                await self._until("SELECT 1 FROM jobs WHERE id = $1 AND status <> 'running'")
            elif self.phase == "cancelling":
                self.tasks.append(asyncio.create_task(self.cancel()))
                await self._until("SELECT 1 FROM jobs WHERE id = $1 AND status NOT IN ('running')", timeout_s=30)
        return await self.state()

    async def submit(self, pages: Pages | None = None) -> Watched:
        """Submits a job of the scene's kind, with pages of its own."""
        mark, key = f"j{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        return await self._submit(mark, key, pages or Pages())

    async def _submit(self, mark: str, key: str, pages: Pages) -> Watched:
        if self.kind == "extract":
            job = await self._ask(lambda c: c.submit_extract(source_job_id=self.library, idempotency_key=key))
            return self.ledger.add(Watched(job["id"], self.kind))
        self.stack.site.add(mark, pages)
        job = await self._ask(lambda client: self._send(client, mark, key))
        known = self.ledger.jobs.get(job["id"])
        return known or self.ledger.add(Watched(job["id"], self.kind, mark, pages))

    def _send(self, client: KnowledgeExtractionClient, mark: str, key: str) -> Awaitable[Job]:
        site = self.stack.site
        if self.kind == "scrape":
            return client.submit_scrape(site.urls(mark), extract={}, idempotency_key=key)
        return client.submit_crawl(
            [site.url(mark)],
            extract={},
            rate={"concurrency": CONCURRENCY},
            scope={"sitemaps": False},
            idempotency_key=key,
        )

    async def prepare(self) -> None:
        """Submits early what must have ended before its phase: it runs while another fault is injected."""
        if self.phase in (*CLEANUP_PHASES, RETRYING):
            self.job = await self.submit(SMALL)

    async def _reach_retry(self) -> None:
        if self.job is None:
            await self.prepare()
        assert self.job is not None
        await self._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL")
        self.stack.site.mend(self.job.mark)
        self.job.retried = True
        await self._unless_ended(lambda client: client.retry_dead_letters(self.job_id))
        await self._until(
            "SELECT 1 FROM jobs j WHERE id = $1 AND (retry_id IS NULL OR"
            f" (SELECT sum(pages_fetched) FROM job_progress WHERE job_id = j.id) >= {SMALL.number + self.moment % 4})"
        )

    async def _reach_cleanup(self) -> None:
        if self.job is None:
            await self.prepare()
        assert self.job is not None
        await self._until(
            "SELECT 1 FROM jobs WHERE id = $1"
            " AND status IN ('cancelled', 'completed', 'completed_with_errors', 'failed')"
        )
        self.job.counted = await self.count()
        # Wide enough to be hit: each step takes some calls.
        worker = self.stack.sides["worker"]
        worker.vectors.delay_s, worker.postgres.delay_s = 0.1, 0.01
        await self.clean()
        cleaned = "SELECT 1 FROM cleanups WHERE job_id = $1 AND status = 'cleaned'"
        # Or it was over before it was seen: the state in the report says so.
        await self._until(f"{_CLEANUP_LOOKS[self.phase]} UNION {cleaned}")

    async def _until_moved(self, lane: str) -> None:
        column = "pages_fetched" if lane == "collect" else "sources_extracted"
        await self._until(
            f"SELECT 1 FROM jobs j LEFT JOIN job_progress p ON p.job_id = j.id AND p.lane = '{lane}'"
            f" WHERE j.id = $1 AND (p.{column} >= {self.moment} OR j.completed_at IS NOT NULL)"
        )

    async def _until(self, query: str, *, timeout_s: float = REACH_TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                if await self.stack.sql(query, uuid.UUID(self.job_id)):
                    return
            except UNREACHABLE:
                await asyncio.sleep(0.5)
            if time.monotonic() > deadline:
                raise NotReached(f"job {self.job_id} did not come to {self.phase}: it is {await self.state()}")
            await asyncio.sleep(LOOK_S)

    # What is asked of it

    async def cancel(self, *, cleanup: bool = False) -> None:
        """Cancels; a job that has ended by then stays as it is, and is cleaned where that was asked for."""
        assert self.job is not None
        try:
            await self._ask(lambda client: client.cancel_job(self.job_id, reason="a fault", cleanup=cleanup))
        except ApiError as error:
            if error.status != 409:
                raise
            if cleanup:
                await self.clean()
        if self.job.cancelled_at is None:
            self.job.cancelled_at = time.time()

    async def pause_and_resume(self) -> None:
        """Pauses, and resumes when it stands still: before that a resume is refused."""
        await self._unless_ended(lambda client: client.pause_job(self.job_id))
        await self._until("SELECT 1 FROM jobs WHERE id = $1 AND status <> 'running' AND status <> 'queued'")
        await self.resume()

    async def resume(self) -> None:
        """Resumes a paused job."""
        await self._unless_ended(lambda client: client.resume_job(self.job_id))

    async def _unless_ended(self, call: Callable[[KnowledgeExtractionClient], Awaitable[object]]) -> None:
        """Asks for it; a job that is past that by then stays as it is."""
        try:
            await self._ask(call)
        except ApiError as error:
            if error.status != 409:
                raise

    async def clean(self, *, delete_record: bool = False) -> None:
        """Asks for the cleanup; where the job is still active, as soon as it has ended."""
        assert self.job is not None
        self.job.deleted |= delete_record
        deadline = time.monotonic() + REACH_TIMEOUT_S
        while True:
            try:
                await self._ask(lambda client: client.cleanup_job(self.job_id, delete_record=delete_record))
            except ApiError as error:
                if error.status in {404, 410} and self.job.deleted:
                    return
                if error.status != 409 or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.5)
            else:
                return

    async def until_cleaned(self, timeout_s: float) -> None:
        """Waits for the receipt to say `cleaned`."""
        await self._until(
            "SELECT 1 FROM cleanups WHERE job_id = $1 AND scope = 'job' AND status = 'cleaned'", timeout_s=timeout_s
        )

    async def submit_at_once(self, number: int) -> None:
        """Submits one key so many times at once: there is one job of it, and one answer."""
        mark, key = f"j{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        if self.kind == "extract":
            self.kind = "scrape"
        jobs = await asyncio.gather(*(self._submit(mark, key, SMALL) for _ in range(number)))
        ids = {job.id for job in jobs}
        if len(ids) != 1:
            raise NotReached(f"one-key-one-job: {number} submits of one key gave {len(ids)} jobs: {sorted(ids)}")

    async def cancel_at_once(self, number: int, times: int) -> None:
        """Submits so many small jobs and cancels each so many times, all at once; none may be refused for good."""
        self.kind = "scrape"
        jobs = await asyncio.gather(*(self.submit(TINY) for _ in range(number)))
        for job in jobs:
            job.crowd = True
        async with AsyncExitStack() as stack:
            # Each with connections for all of its calls: what waits for a connection is not at once.
            clients = [
                await stack.enter_async_context(KnowledgeExtractionClient(self.stack.endpoints["api"]))
                for _ in range(times)
            ]
            group = await stack.enter_async_context(asyncio.TaskGroup())
            for client in clients:
                for job in jobs:
                    scene = Scene(self.stack, self.ledger, "scrape", "queued", 0, job=job, client=client)
                    scene.patience_s = STORM_S
                    group.create_task(scene.cancel())

    async def _ask(self, call: Callable[[KnowledgeExtractionClient], Awaitable[T]]) -> T:
        """Calls the gateway, wherever it is by now, until it answers."""
        return await patiently(lambda: call(self.client or self.stack.client), timeout_s=self.patience_s)

    # What it looks like

    async def state(self) -> str:
        """The state of its row, or what the database says instead."""
        try:
            rows = await self.stack.sql("SELECT status, artifacts FROM jobs WHERE id = $1", uuid.UUID(self.job_id))
        except UNREACHABLE as error:
            return f"unknown ({type(error).__name__})"
        if not rows:
            return "not there"
        return str(rows[0]["status"] if rows[0]["artifacts"] == "present" else rows[0]["artifacts"])

    async def count(self) -> dict[str, int]:
        """What the stores hold of it, as a receipt names it."""
        job_id = uuid.UUID(self.job_id)
        rows = await self.stack.sql(
            "SELECT (SELECT count(*) FROM sources WHERE job_id = $1) AS sources,"
            " (SELECT count(*) FROM extractions WHERE job_id = $1 OR owner_job_id = $1) AS extractions,"
            " (SELECT count(*) FROM entities n JOIN extractions e ON e.id = n.extraction_id"
            "   WHERE e.job_id = $1 OR e.owner_job_id = $1) AS entities,"
            " (SELECT count(*) FROM dead_letters WHERE job_id = $1) AS dead_letters,"
            " (SELECT count(*) FROM pages WHERE job_id = $1) AS pages",
            job_id,
        )
        vectors = self.stack.vectors
        points = [await vectors.count_job(name, job_id) for name in await vectors.collections()]
        return {**dict(rows[0]), "vectors": sum(points)}

    async def busy_workers(self) -> set[int]:
        """The pids of the workers that have a slice of the job, as Temporal knows them."""
        if self.job is None:
            return set()
        try:
            client = await self.stack.temporal()
            seen = await client.get_workflow_handle(f"job-{self.job_id}").describe()
        except (RPCError, OSError, TimeoutError):
            return set()
        pending = sorted(
            seen.raw_description.pending_activities, key=lambda p: p.activity_type.name != "extract_sources"
        )
        names = [p.last_worker_identity.partition("@")[0] for p in pending]
        return {int(name) for name in names if name.isdigit()}


_CLEANUP_LOOKS: Final = {
    "begin": "SELECT 1 FROM jobs WHERE id = $1",
    "vectors": "SELECT 1 FROM cleanups WHERE job_id = $1 AND planned @? '$.vectors ? (@ > 0)'",
    "sources": "SELECT 1 FROM cleanups c JOIN cleanup_batches b ON b.cleanup_id = c.id"
    " WHERE c.job_id = $1 AND b.store = 'vectors' AND b.done",
    "dead-letters": "SELECT 1 WHERE NOT EXISTS (SELECT FROM sources WHERE job_id = $1)",
    "verify": "SELECT 1 WHERE NOT EXISTS (SELECT FROM pages WHERE job_id = $1)",
}
"""What the database shows when a cleanup is in a phase, or just past it."""
