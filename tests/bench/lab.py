"""What the benchmarks share: options, sites, stacks, peers in processes of their own, and jobs run to their end."""

import asyncio
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ke.client import KnowledgeExtractionClient
from ke.client_types import Job
from tests.bench.site import Served, Site, generated, postgres_docs, served
from tests.e2e.stack import Stack
from tests.faults.measures import open_folder, say

CONCURRENCY = 8
"""Requests at once to the site, for everybody: the default of `rate.concurrency`."""
QUICK_PAGES = 120
MAX_PAGES = 1_000_000
WARM_JOBS = 3
JOB_TIMEOUT_S = 1_800.0
PEER_TIMEOUT_S = 900.0


class BenchStack(Stack):
    """A stack that does nothing of its own accord while it is measured."""

    def __init__(self, data_dir: Path, *, fetch_allow: str, workers: int = 1) -> None:
        super().__init__(data_dir, fetch_allow=fetch_allow, workers=workers)
        self._env["KE_RECONCILE_EVERY_S"] = "0"


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller wants."""

    runs: int = 3
    quick: bool = False
    """Small sizes: whether it works, and not how fast."""

    def size(self, full: int, quick: int) -> int:
        """A size by what is wanted."""
        return quick if self.quick else full


@dataclass
class Lab:
    """The sites and the stack that several benchmarks use, each made when it is first needed."""

    options: Options
    _open: AsyncExitStack = field(default_factory=AsyncExitStack)
    _site: Site | None = None
    _served: Served | None = None
    _stack: BenchStack | None = None

    async def site(self) -> Site:
        """The site of most benchmarks."""
        if self._site is None:
            make = (lambda: generated(QUICK_PAGES)) if self.options.quick else postgres_docs
            self._site = await asyncio.to_thread(make)
        return self._site

    async def served(self) -> Served:
        """That site, being served."""
        if self._served is None:
            self._served = await self._open.enter_async_context(served(await self.site()))
            say(f"  site: {self._served.site.name}, served by {self._served.server}")
        return self._served

    async def stack(self) -> BenchStack:
        """A stack with one worker that may crawl the site."""
        if self._stack is None:
            web = await self.served()
            self._stack = await self._open.enter_async_context(a_stack(web.host_port))
            await warm(self._stack, web.url)
        return self._stack

    async def close(self) -> None:
        """Ends all of them."""
        await self._open.aclose()


@asynccontextmanager
async def a_stack(fetch_allow: str = "127.0.0.1:1", *, workers: int = 1) -> AsyncIterator[BenchStack]:
    """A new stack, gone with its data in the end."""
    folder = open_folder("ke-bench-")
    stack = BenchStack(folder / "data", fetch_allow=fetch_allow, workers=workers)
    say("  starting a stack")
    try:
        await asyncio.to_thread(stack.start)
        yield stack
    finally:
        await asyncio.to_thread(stack.stop)
        shutil.rmtree(folder, ignore_errors=True)


async def warm(stack: Stack, url: str) -> None:
    """Waits until every pool process has its models: a stack is ready before that."""
    async with stack.client() as client:
        for _ in range(WARM_JOBS):
            job, _ = await run_job(client, {"kind": "scrape", "urls": [url], "extract": {}})
            await remove(client, job["id"])


# Jobs


def crawl_body(url: str, *, extract: Mapping[str, Any] | None, max_pages: int = MAX_PAGES) -> dict[str, Any]:
    """The body of a crawl of a whole site."""
    return {
        "kind": "crawl",
        "seeds": [url],
        "extract": extract,
        "limits": {"max_pages": max_pages, "max_depth": 50},
        "rate": {"concurrency": CONCURRENCY},
    }


async def submit(client: KnowledgeExtractionClient, body: dict[str, Any]) -> Job:
    """Submits a body as it is, fields among them that the client has no argument for."""
    return await client._submit(dict(body), "bench", None, str(uuid.uuid4()))


async def ended(client: KnowledgeExtractionClient, job_id: str, timeout_s: float = JOB_TIMEOUT_S) -> Job:
    """The job when it has ended well."""
    async with asyncio.timeout(timeout_s):
        while True:
            job = await client.get_job(job_id, wait_s=30)
            if job["completed_at"] is not None:
                assert job["status"] in {"completed", "completed_with_errors"}, job
                return job


def seconds_to_end(job: Job, began: float) -> float:
    """Seconds from a moment, in seconds since 1970, to the job's end by its own record."""
    assert job["completed_at"] is not None
    return datetime.fromisoformat(job["completed_at"]).timestamp() - began


async def run_job(client: KnowledgeExtractionClient, body: dict[str, Any]) -> tuple[Job, float]:
    """Submits a job; returns it when it has ended, and the seconds from before its submit to its end."""
    began = time.time()
    job = await ended(client, (await submit(client, body))["id"])
    return job, seconds_to_end(job, began)


async def remove(client: KnowledgeExtractionClient, job_id: str) -> None:
    """Cleans a job up and deletes its record, so that the next run finds what the first one found."""
    async with asyncio.timeout(JOB_TIMEOUT_S):
        while (receipt := await client.cleanup_job(job_id, delete_record=True, wait_s=30))["status"] == "running":
            pass
    assert receipt["status"] == "cleaned", receipt


# Peers


async def peer(module: str, *arguments: str, given: bytes = b"", env: Mapping[str, str] | None = None) -> Any:
    """Runs a module in a process of its own; returns the JSON document that it printed last."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )
    try:
        async with asyncio.timeout(PEER_TIMEOUT_S):
            out, _ = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{module} ended with {process.returncode}"
    return json.loads(out.splitlines()[-1])
