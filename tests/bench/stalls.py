"""How long the event loops of gateway and worker were held up, under everything at once."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from ke.client import KnowledgeExtractionClient
from ke.runtime.loop_watch import STALL_S, WINDOW_S, WORTH_TELLING_S
from ke.storage.vectors.edge import EdgeVectors
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, crawl_body, ended, remove, submit
from tests.faults.bulk import Size, seed
from tests.faults.measures import say

LOAD_S = (60.0, 8.0)
FILLER = (Size(sources=3_000, chunks_each=10), Size(sources=50, chunks_each=4))
"""What makes the index large enough to be optimised while all else goes on."""
SEARCHERS = 4
SUBMIT_EVERY_S = 0.25
PROCESSES = ("gateway", "worker")
QUERIES = (
    "how are dead rows removed",
    "which index fits full text",
    "what a checkpoint writes",
    "roles and their privileges",
    "who rebuilt the tower",
    "letters about the engine",
)


async def stalls(lab: Lab) -> AsyncIterator[Figure]:
    """The longest stall of an event loop in gateway and worker, under all load, against 50 ms."""
    web, stack = await lab.served(), await lab.stack()
    longest: dict[str, list[float]] = {name: [] for name in PROCESSES}
    vectors = EdgeVectors(Path(stack.endpoints["vectors"]))
    try:
        filler = await seed(stack.endpoints["database"], vectors, FILLER[lab.options.quick])
    finally:
        await vectors.close()
    for number in range(lab.options.runs):
        began = time.time()
        async with stack.client() as client, everything(client, web.url):
            await asyncio.sleep(LOAD_S[lab.options.quick])
        await asyncio.sleep(WINDOW_S + 1)  # the line of the last window, and what runs when jobs have ended
        for name in PROCESSES:
            longest[name].append(await asyncio.to_thread(_longest_s, stack.data_dir / "logs", name, began))
        told = ", ".join(f"{name} {values[-1] * 1000:.0f} ms" for name, values in longest.items())
        say(f"  run {number + 1}: {told}")
    async with stack.client() as client:
        await remove(client, str(filler))
    for name, values in longest.items():
        note = f"longest of a run {max(values) * 1000:.0f} ms, against {STALL_S * 1000:g}; shorter than 20 ms reads 20"
        yield Figure(f"stalls-{name}", Goal.most(1.0), [value / STALL_S for value in values], note, worst=True)


@asynccontextmanager
async def everything(client: KnowledgeExtractionClient, url: str) -> AsyncIterator[None]:
    """Crawls with extraction, small jobs, searches and cleanups, all at once, until the block ends."""
    queries = itertools.cycle(QUERIES)

    async def search() -> None:
        await client.search(next(queries), limit=10)

    async def small_job() -> None:
        job = await submit(client, {"kind": "scrape", "urls": [url], "extract": {}})
        await remove(client, (await ended(client, job["id"]))["id"])
        await asyncio.sleep(SUBMIT_EVERY_S)

    async with ingesting(client, url):
        tasks = [asyncio.create_task(_again(search)) for _ in range(SEARCHERS)]
        tasks.append(asyncio.create_task(_again(small_job)))
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            await _cancelled(tasks)


@asynccontextmanager
async def ingesting(client: KnowledgeExtractionClient, url: str) -> AsyncIterator[None]:
    """Crawls a site with extraction and cleans it up, again and again, until the block ends."""
    running: list[str] = []

    async def crawl() -> None:
        running.append((await submit(client, crawl_body(url, extract={})))["id"])
        await remove(client, (await ended(client, running[-1]))["id"])

    task = asyncio.create_task(_again(crawl))
    try:
        await asyncio.sleep(1)
        yield
        if task.done():
            task.result()
    finally:
        await _cancelled([task])
        for job_id in running[-1:]:
            with contextlib.suppress(Exception):  # it has ended or is gone: what is left is to be cleaned
                await client.cancel_job(job_id)
            await _clean(client, job_id)


async def _clean(client: KnowledgeExtractionClient, job_id: str) -> None:
    with contextlib.suppress(Exception):  # its record is gone already
        while (await client.get_job(job_id, wait_s=30))["completed_at"] is None:
            pass
        await remove(client, job_id)


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await work()


async def _cancelled(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _longest_s(logs: Path, process: str, since: float) -> float:
    """The longest stall that a process told of after a moment, in seconds."""
    found = [WORTH_TELLING_S]
    for log in logs.glob(f"{process}*.log*"):
        for line in log.read_text(errors="replace").splitlines():
            if "event loop was held up" in line:
                told = json.loads(line)
                if datetime.fromisoformat(told["timestamp"]).timestamp() > since:
                    found.append(told["longest_ms"] / 1000)
    return max(found)
