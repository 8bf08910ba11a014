"""What durability costs: the pipeline as a job against the same pipeline as a plain script."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from ke.storage.database import migrate
from tests.bench.crawls import NO_ENTITIES
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, crawl_body, peer, remove, run_job
from tests.faults.measures import say
from tests.integration.vectors_process import VectorsProcess

PLAIN = "bench_plain"


async def tax_crawl(lab: Lab) -> AsyncIterator[Figure]:
    """A crawl as a job against the same crawl as a plain script: seconds."""
    yield await _tax(lab, "tax-crawl", None)


async def tax_index(lab: Lab) -> AsyncIterator[Figure]:
    """A crawl with chunks, embeddings and index as a job against the same as a plain script: seconds."""
    yield await _tax(lab, "tax-index", NO_ENTITIES)


async def _tax(lab: Lab, name: str, extract: dict[str, Any] | None) -> Figure:
    web, stack = await lab.served(), await lab.stack()
    job_s: list[float] = []
    plain_s: list[float] = []
    note = ""
    async with stack.client() as client:
        for number in range(lab.options.runs):
            job, seconds = await run_job(client, crawl_body(web.url, extract=extract))
            assert job["result"] is not None
            pages = job["result"]["pages_fetched"] + job["result"]["pages_duplicate"]
            await remove(client, job["id"])
            async with _database(stack.endpoints["database"]) as url, _vectors(wanted=extract is not None) as socket:
                plain = await peer("tests.bench.peer_plain", web.url, url, *([str(socket)] if socket else []))
            job_s.append(seconds)
            plain_s.append(plain["seconds"])
            say(f"  run {number + 1}: job {seconds:.2f} s, script {plain_s[-1]:.2f} s")
            if pages != plain["pages"]:
                note = f"; NOT THE SAME PAGES: {pages} and {plain['pages']}"
    ratios = [mine / other for mine, other in zip(job_s, plain_s, strict=True)]
    return Figure(name, Goal.most(1.1), ratios, f"{median(job_s):.2f} against {median(plain_s):.2f} s{note}")


@asynccontextmanager
async def _database(url: str) -> AsyncIterator[str]:
    """An empty database of the script's own, on the same server as the job's."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {PLAIN}")
        mine = urlunsplit(urlsplit(url)._replace(path=f"/{PLAIN}"))
        try:
            await migrate(mine)
            yield mine
        finally:
            await connection.execute(f"DROP DATABASE {PLAIN} WITH (FORCE)")
    finally:
        await connection.close()


@asynccontextmanager
async def _vectors(*, wanted: bool) -> AsyncIterator[Path | None]:
    """A vector process of the script's own."""
    if not wanted:
        yield None
        return
    with TemporaryDirectory(prefix="ke-bench-vectors-") as name:
        process = VectorsProcess(Path(name) / "data", Path(name) / "s")
        await process.start()
        try:
            yield process.socket
        finally:
            await process.stop()
