"""Where the time of a job goes, a page: `python -m tests.bench.profile [--pages 1169] [--reading fast] [--entities]`.

Runs the activities themselves in this process, without Temporal and the gateway, against a real Postgres, a real
vector process, a real pool, and the site in a process of its own: the crawl, then the extraction of what it stored. Of
each the processors' time is read off the processes, then a profiler runs, which is slower and only for the shares,
then the longest steps of the event loop are looked for. In the end the reader alone goes over the same pages.
"""

import argparse
import asyncio
import cProfile
import os
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from temporalio.testing import ActivityEnvironment

from activities.collect import CollectActivities
from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.warmup import load_models, warm
from ke.contracts.activities import CollectSlice, ExtractSlice
from ke.contracts.jobs import CollectSpec, CrawlLimits, ExtractSpec, FetchRate, JobInput, JobKind, Reading
from ke.runtime.pool import CpuPool
from ke.storage.jobs import open_job
from ke.web import parse
from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher
from tests.bench.lab import CONCURRENCY
from tests.bench.processors import SHOWN, module_of, stats_of, tell_functions, tell_longest, tell_processors
from tests.bench.site import postgres_docs, served
from tests.faults.measures import machine, say
from tests.stores import Stores, open_stores

SLICE_S = 600.0


@dataclass
class Jobs:
    """Jobs in this process, each as one slice."""

    url: str
    stores: Stores
    pool: CpuPool
    collecting: CollectSpec
    extracting: ExtractSpec
    crawled: list[str] = field(default_factory=list)

    async def crawl(self) -> int:
        """A crawl; returns its pages."""
        job, epoch = await self._open(JobKind.CRAWL, collect=self.collecting)
        piece = CollectSlice(
            job.job_id,
            epoch,
            self.collecting,
            extract=False,
            started_at=job.created_at,
            max_pages=10**6,
            max_seconds=SLICE_S,
        )
        policy = EgressPolicy(frozenset({urlsplit(self.url).netloc}))
        async with Fetcher(user_agent="ke-bench/1", timeout_s=30, max_bytes=10_000_000, policy=policy) as fetcher:
            lane = CollectActivities(self.stores.database, fetcher, self.pool)
            report = await ActivityEnvironment().run(lane.collect_pages, piece)
        self.crawled.append(job.job_id)
        return int(report.counters.pages_fetched + report.counters.pages_duplicate)

    async def extract(self) -> int:
        """An extraction of the first crawl's sources; returns their number."""
        spec = replace(self.extracting, source_job_id=self.crawled[0])
        job, epoch = await self._open(JobKind.EXTRACT, extract=spec)
        piece = ExtractSlice(job.job_id, epoch, spec, collecting=False, max_seconds=SLICE_S)
        entities = EntityActivities(self.stores.database, self.pool)
        lane = ExtractActivities(self.stores.database, self.stores.vectors, self.pool, entities)
        report = await ActivityEnvironment().run(lane.extract_sources, piece)
        return int(report.counters.sources_extracted)

    async def _open(self, kind: JobKind, **specs: Any) -> tuple[JobInput, int]:
        job = JobInput(str(uuid.uuid4()), kind, datetime.now(UTC).isoformat(), **specs)
        async with self.stores.database.transaction() as connection:
            row = await open_job(connection, job, "run")
        return job, row.write_epoch


async def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    say(f"machine: {machine()}")
    async with AsyncExitStack() as stack:
        site = await asyncio.to_thread(postgres_docs)
        web = await stack.enter_async_context(served(site))
        folder = stack.enter_context(TemporaryDirectory(prefix="ke-bench-"))
        stores = await stack.enter_async_context(open_stores(Path(folder)))
        processes = os.cpu_count() or 1
        pool = CpuPool(processes)
        stack.push_async_callback(pool.close)
        await warm(pool, load_models)
        limits = CrawlLimits(max_pages=options.pages, max_depth=50)
        spec = CollectSpec((web.url,), follow=True, limits=limits, rate=FetchRate(concurrency=CONCURRENCY))
        chosen: dict[str, Any] = {"reading": Reading(options.reading)} if options.reading else {}
        extracting = ExtractSpec(entities="spacy" if options.entities else None)
        jobs = Jobs(web.url, stores, pool, replace(spec, **chosen), extracting)
        await jobs.crawl()
        for name, thing, work in (("crawl", "page", jobs.crawl), ("extraction", "source", jobs.extract)):
            say(f"\n== {name}")
            await tell_processors(work, thing)
            await tell_functions(work, thing, stores.database)
            await tell_longest(work)
    _reader(sorted(site.folder.glob("*.html"))[: options.pages])


def _reader(pages: Sequence[Path]) -> None:
    """The reader over the pages, in this process."""
    bodies = [page.read_bytes() for page in pages]

    def read() -> float:
        began = time.thread_time()
        for page, body in zip(pages, bodies, strict=True):
            parse.parse_page(body, "text/html", None, f"http://site.example/{page.name}")
        return time.thread_time() - began

    read()
    say(f"\n== the reader: {1000 * read() / len(pages):.2f} ms of a processor a page")
    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()
    read()
    profiler.disable()
    stats = stats_of(profiler)
    total = sum(own for _, _, own, _, _ in stats.values())
    steps = [
        (whole / total, f"{module_of(path, name)}.{name}")
        for (path, _, name), (_, _, _, whole, _) in stats.items()
        if module_of(path, name).startswith("ke.web") or name == "bare_extraction"
    ]
    for share, name in sorted(steps, reverse=True)[:SHOWN]:
        say(f"  {share:6.1%}  {name}, with all below it")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=1_169)
    parser.add_argument("--reading", help="how pages are read, where crawls can choose")
    parser.add_argument("--entities", action="store_true", help="find entities too")
    asyncio.run(main(parser.parse_args()))
