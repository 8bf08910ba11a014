"""A worker that froze in the middle of its slices, and comes back when their jobs are cancelled and cleaned."""

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.serve import SiteServer
from ke.client import ApiError, KnowledgeExtractionClient
from ke.client_types import Job
from ke.storage.vectors.edge import EdgeVectors
from tests.e2e.sites import PAGES, slowly
from tests.e2e.stack import Stack, eventually
from tests.faults.proxy import VectorsProxy

TABLES = (
    "jobs",
    "job_progress",
    "pages",
    "sources",
    "extraction_tasks",
    "entity_tasks",
    "extractions",
    "entities",
    "dead_letters",
)
WAIT_S = 180.0


@dataclass(frozen=True)
class TwoWorkers:
    """A stack whose own worker runs workflows and cleanups, and a second one that joined it and does all the rest."""

    stack: Stack
    second: subprocess.Popen[bytes]
    vectors: VectorsProxy
    """Between the second worker and the vector process."""

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops the second worker for the length of the block."""
        self.second.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.second.send_signal(signal.SIGCONT)


@pytest.fixture
async def workers(tmp_path: Path, big_site: SiteServer) -> AsyncIterator[TwoWorkers]:
    """Two workers on a stack."""
    stack = Stack(tmp_path / "data", fetch_allow=big_site.host_port, queues="ke-jobs,ke-cleanup")
    proxy = VectorsProxy(tmp_path / "v", lambda: Path(stack.endpoints["vectors"]))
    second = None
    try:
        await asyncio.to_thread(stack.start)
        await proxy.start()
        second = _join(stack, tmp_path / "v", big_site.host_port)
        yield TwoWorkers(stack, second, proxy)
    finally:
        if second is not None:
            second.kill()
            second.wait(60)
        await proxy.stop()
        await asyncio.to_thread(stack.stop)


def _join(stack: Stack, vectors: Path, fetch_allow: str) -> subprocess.Popen[bytes]:
    """One more worker of a running stack, as `python worker.py` is."""
    own = {
        "KE_DATA_DIR": str(stack.data_dir),
        "KE_TASK_QUEUES": "ke-collect,ke-extract,ke-entities",
        "KE_VECTORS_SOCKET": str(vectors),
        "KE_FETCH_ALLOW": fetch_allow,
    }
    command = [sys.executable, "-P", "-m", "worker"]
    return subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def between_rows_and_points(stack: Stack, job: Job) -> None:
    """Waits until the job has written the rows of some chunks and not yet said that their points are there."""
    pending = "SELECT count(*) AS n FROM extractions WHERE job_id = $1 AND state = 'pending'"
    await eventually(lambda: stack.sql(pending, uuid.UUID(job["id"])), lambda rows: rows[0]["n"] > 0, timeout_s=WAIT_S)


async def contents(stack: Stack, jobs: list[Job]) -> dict[str, list[str]]:
    """All rows and points of some jobs."""
    ids = [uuid.UUID(job["id"]) for job in jobs]
    found = {}
    for table in TABLES:
        key = "id" if table == "jobs" else "job_id"
        rows = await stack.sql(f"SELECT t::text AS row FROM {table} t WHERE {key} = ANY($1) ORDER BY 1", ids)
        found[table] = [row["row"] for row in rows]
    vectors = EdgeVectors(Path(stack.endpoints["vectors"]))
    try:
        for collection in await vectors.collections():
            for job in ids:
                points = await vectors.scroll_job(collection, job, limit=10_000)
                found[f"{collection}, {job}"] = [str(point) for point in points]
    finally:
        await vectors.close()
    return found


async def ended(client: KnowledgeExtractionClient, job: Job) -> Job:
    """The job when it has ended."""
    return await eventually(
        lambda: client.get_job(job["id"], wait_s=20), lambda j: j["completed_at"] is not None, timeout_s=WAIT_S
    )


def timed_out(job: Job) -> int:
    """How many of its activities did not acknowledge its cancel."""
    assert job["result"] is not None
    assert job["result"]["cancellation"] is not None
    return job["result"]["cancellation"]["activities_timed_out"]


async def cleaned(client: KnowledgeExtractionClient, job: Job) -> None:
    """Cleans a job up."""
    await client.cleanup_job(job["id"])
    await eventually(lambda: client.get_job(job["id"]), lambda j: j["artifacts"] == "cleaned", timeout_s=WAIT_S)


async def test_frozen_worker_changes_nothing_once_its_jobs_are_cleaned(
    workers: TwoWorkers, big_site: SiteServer
) -> None:
    """Its activities time out, as the receipts say, and what it still writes is refused by both stores.

    That goes for its own job, for the sources of another job that it extracted, and for points that were on their way.
    """
    stack = workers.stack
    async with stack.client() as client:
        owner = await client.submit_scrape([f"{big_site.url}/page-{number}.html" for number in range(1, 20)])
        await ended(client, owner)
        workers.vectors.hold(upserts_only=True)
        crawl = await client.submit_crawl([f"{big_site.url}/index.html"], limits={"max_pages": PAGES}, extract={})
        await between_rows_and_points(stack, crawl)
        extract = await client.submit_extract(source_job_id=owner["id"], entities=None)
        with slowly(big_site):
            await between_rows_and_points(stack, extract)
        with workers.frozen():
            with pytest.raises(ApiError) as refused:
                await client.cleanup_job(owner["id"])
            assert refused.value.status == 409
            assert extract["id"] in refused.value.detail
            await client.cancel_job(crawl["id"])
            await client.cancel_job(extract["id"])
            assert timed_out(await ended(client, crawl)) >= 1
            assert timed_out(await ended(client, extract)) == 1
            await cleaned(client, crawl)
            await cleaned(client, owner)
            before = await contents(stack, [crawl, extract, owner])
            workers.vectors.heal()
        # It is awake, and through with what it was at, when it has done another job from end to end.
        probe = await client.submit_scrape([f"{big_site.url}/index.html"], extract={})
        await ended(client, probe)
    assert await contents(stack, [crawl, extract, owner]) == before
    assert not any(rows for name, rows in before.items() if name not in {"jobs", "job_progress"})
