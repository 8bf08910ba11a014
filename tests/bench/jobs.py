"""Small jobs: how soon one is done, how evenly fifty are, and how many are accepted in a second."""

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import median

import aiohttp
from temporalio.client import Client

from ke.client import KnowledgeExtractionClient
from ke.contracts.jobs import CollectSpec, JobInput, JobKind
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, a_stack, ended, seconds_to_end, submit
from tests.bench.peer_bare import QUEUE
from tests.faults.measures import percentile, say

JOBS = (60, 5)
CROWD = 50
CROWDS = (3, 1)
SUBMITS = (800, 60)
AT_ONCE = 16
READY_TIMEOUT_S = 60.0


async def job_latency(lab: Lab) -> AsyncIterator[Figure]:
    """A job of one page, accepted to done, p50, against a bare workflow with the same activity on the same server."""
    web, stack = await lab.served(), await lab.stack()
    ours: list[float] = []
    theirs: list[float] = []
    async with stack.client() as client, _bare(stack.endpoints["temporal"], web.host_port) as temporal:
        for number in range(lab.options.runs):
            job_s = [await _job(client, web.url) for _ in range(lab.options.size(*JOBS))]
            bare_s = [await _workflow(temporal, web.url) for _ in range(lab.options.size(*JOBS))]
            ours.append(median(job_s))
            theirs.append(median(bare_s))
            say(f"  run {number + 1}: job {ours[-1] * 1000:.0f} ms, bare workflow {theirs[-1] * 1000:.0f} ms")
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    note = f"{median(ours) * 1000:.0f} against {median(theirs) * 1000:.0f} ms"
    yield Figure("job-latency", Goal.most(1.5), ratios, note)


async def job_crowd(lab: Lab) -> AsyncIterator[Figure]:
    """Fifty jobs of one page submitted at once: the p99 of accepted to done against its p50."""
    web, stack = await lab.served(), await lab.stack()
    ratios: list[float] = []
    p50s: list[float] = []
    p99s: list[float] = []
    async with stack.client() as client:
        for _ in range(lab.options.runs):
            for _ in range(lab.options.size(*CROWDS)):
                seconds = await asyncio.gather(*(_job(client, web.url) for _ in range(CROWD)))
                p50s.append(percentile(seconds, 0.5))
                p99s.append(percentile(seconds, 0.99))
                ratios.append(p99s[-1] / p50s[-1])
    note = f"p99 {median(p99s) * 1000:.0f}, p50 {median(p50s) * 1000:.0f} ms"
    yield Figure("job-crowd", Goal.most(2.0), ratios, note)


async def submits(lab: Lab) -> AsyncIterator[Figure]:
    """`POST /jobs` in a second against bare `start_workflow`, 16 at once; no worker runs, so nobody takes them up."""
    ratios: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    number = lab.options.size(*SUBMITS)
    async with a_stack(workers=0) as stack, aiohttp.ClientSession(stack.endpoints["api"]) as session:
        temporal = await Client.connect(stack.endpoints["temporal"])
        url = "http://127.0.0.1:1/"
        body = {"kind": "scrape", "urls": [url], "extract": None}

        async def post() -> None:
            headers = {"Idempotency-Key": str(uuid.uuid4())}
            async with session.post("/jobs", json=body, headers=headers) as answer:
                assert answer.status == 202, await answer.text()

        async def start() -> None:
            key = str(uuid.uuid4())
            job = JobInput(key, JobKind.SCRAPE, "2026-01-01T00:00:00+00:00", collect=CollectSpec((url,), follow=False))
            await temporal.start_workflow("bench-nobody", job, id=f"bench-{key}", task_queue="bench-nobody")

        for _ in range(AT_ONCE):
            await asyncio.gather(post(), start())
        for run in range(lab.options.runs):
            ours.append(await _rate(post, number))
            theirs.append(await _rate(start, number))
            ratios.append(ours[-1] / theirs[-1])
            say(f"  run {run + 1}: {ours[-1]:.0f} jobs/s, {theirs[-1]:.0f} workflows/s")
    note = f"{median(ours):.0f} against {median(theirs):.0f} a second"
    yield Figure("submits", Goal.least(0.6), ratios, note)


async def _rate(call: Callable[[], Awaitable[None]], number: int) -> float:
    """Calls in a second, `AT_ONCE` at once."""
    left = iter(range(number))

    async def caller() -> None:
        for _ in left:
            await call()

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return number / (time.monotonic() - began)


async def _job(client: KnowledgeExtractionClient, url: str) -> float:
    """Seconds from the answer to a submit to the job's end by its record."""
    job = await submit(client, {"kind": "scrape", "urls": [url], "extract": None})
    accepted = time.time()
    return seconds_to_end(await ended(client, job["id"]), accepted)


async def _workflow(temporal: Client, url: str) -> float:
    """Seconds from the answer to a start to the workflow's end by Temporal's record."""
    handle = await temporal.start_workflow("bench-bare", url, id=f"bench-{uuid.uuid4()}", task_queue=QUEUE)
    accepted = time.time()
    await handle.result()
    closed = (await handle.describe()).close_time
    assert closed is not None
    return closed.timestamp() - accepted


@asynccontextmanager
async def _bare(address: str, host_port: str) -> AsyncIterator[Client]:
    """A bare worker in a process of its own; yields a client."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.bench.peer_bare", address, host_port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            assert await process.stdout.readline(), "the bare worker ended"
        yield await Client.connect(address)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
