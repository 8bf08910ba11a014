"""Where the time of a durable crawl goes, a page: `python -m tests.bench.profile [--pages 1169] [--reading fast]`.

Runs the collect activity itself in this process, without Temporal and the gateway, against a real Postgres, a real pool
and the site in a process of its own. Three passes: one whose processor time is read off the processes, one under a
profiler, which is slower and only for the shares, and the reader alone over the same pages.
"""

import argparse
import asyncio
import cProfile
import os
import pstats
import sys
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.collect import CollectActivities
from activities.warmup import warm
from ke.contracts.activities import CollectSlice
from ke.contracts.jobs import CollectSpec, CrawlLimits, FetchRate, JobInput, JobKind
from ke.runtime.embedded.postgres import temporary_postgres
from ke.runtime.pool import CpuPool
from ke.storage.database import Database, migrate
from ke.storage.jobs import open_job
from ke.web import parse
from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher
from tests.bench.lab import CONCURRENCY
from tests.bench.site import postgres_docs, served
from tests.faults.measures import machine, say

SLICE_S = 600.0
SHOWN = 14
GROUPS = (
    ("selectors and asyncio", ("asyncio", "selectors", "select.epoll", "_asyncio", "contextvars", "_contextvars")),
    ("aiohttp and its parts", ("aiohttp", "yarl", "multidict", "aiosignal", "async_timeout", "propcache")),
    ("SQLAlchemy", ("sqlalchemy", "greenlet")),
    ("asyncpg", ("asyncpg",)),
    ("the pool's queues", ("concurrent", "multiprocessing", "queue", "_pickle", "pickle", "threading", "_thread")),
    ("ke: activities", ("activities",)),
    ("ke: web", ("ke.web",)),
    ("ke: storage", ("ke.storage",)),
    ("ke: other", ("ke.", "temporalio")),
    ("ada_url", ("ada_url",)),
    ("uuid and hashlib", ("uuid", "hashlib", "_hashlib", "_sha")),
    ("logging and structlog", ("logging", "structlog")),
)
STEPS = ("decode", "tame", "LexborHTMLParser", "_links", "_read_main", "_choose", "_title", "_directives", "clean")


@dataclass
class Statements:
    """What each kind of statement took, from the outside: Postgres's time, the wire, and waits for the event loop."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    calls: Counter[str] = field(default_factory=Counter)

    def watch(self, database: Database) -> None:
        """Takes the time of every statement from now on."""
        engine = database._engine.sync_engine

        @sa.event.listens_for(engine, "before_cursor_execute")
        def begun(_connection: Any, _cursor: Any, _statement: str, _values: Any, context: Any, _many: bool) -> None:  # noqa: FBT001
            context.bench_began = time.perf_counter()

        @sa.event.listens_for(engine, "after_cursor_execute")
        def done(_connection: Any, _cursor: Any, statement: str, _values: Any, context: Any, _many: bool) -> None:  # noqa: FBT001
            name = " ".join(statement.split())[:70]
            self.seconds[name] += time.perf_counter() - context.bench_began
            self.calls[name] += 1


@dataclass(frozen=True, slots=True)
class Used:
    """Processor seconds so far."""

    loop: float
    threads: float
    pool: float
    postgres: float
    server: float

    @classmethod
    def now(cls) -> "Used":
        """Read off the processes; called on the event loop's thread."""
        this = psutil.Process()
        pool = postgres = server = 0.0
        for child in this.children(recursive=True):
            try:
                times, name = child.cpu_times(), child.name()
            except psutil.Error:
                continue
            seconds = times.user + times.system + times.children_user + times.children_system
            if "postgres" in name:
                postgres += seconds
            elif "nginx" in name:
                server += seconds
            else:
                pool += seconds
        loop = time.thread_time()
        return cls(loop, time.process_time() - loop, pool, postgres, server)

    def since(self, before: "Used") -> "Used":
        """The difference."""
        names = ("loop", "threads", "pool", "postgres", "server")
        return Used(*(getattr(self, name) - getattr(before, name) for name in names))


class Crawls:
    """Crawls of one site in this process, each as one slice of a new job."""

    def __init__(self, url: str, spec: CollectSpec, database: Database, pool: CpuPool) -> None:
        self._url = url
        self._spec = spec
        self._database = database
        self._pool = pool

    async def run(self) -> int:
        """One crawl; returns its pages."""
        job = JobInput(str(uuid.uuid4()), JobKind.CRAWL, datetime.now(UTC).isoformat(), collect=self._spec)
        async with self._database.transaction() as connection:
            row = await open_job(connection, job, "run")
        piece = CollectSlice(
            job.job_id,
            row.write_epoch,
            self._spec,
            extract=False,
            started_at=job.created_at,
            max_pages=10**6,
            max_seconds=SLICE_S,
        )
        policy = EgressPolicy(frozenset({urlsplit(self._url).netloc}))
        async with Fetcher(user_agent="ke-bench/1", timeout_s=30, max_bytes=10_000_000, policy=policy) as fetcher:
            lane = CollectActivities(self._database, fetcher, self._pool)
            report = await ActivityEnvironment().run(lane.collect_pages, piece)
        return int(report.counters.pages_fetched + report.counters.pages_duplicate)


async def main(max_pages: int, reading: str | None) -> None:
    """Measures and prints."""
    say(f"machine: {machine()}")
    async with AsyncExitStack() as stack:
        site = await asyncio.to_thread(postgres_docs)
        web = await stack.enter_async_context(served(site))
        url = await stack.enter_async_context(temporary_postgres())
        await migrate(url)
        database = Database(url)
        stack.push_async_callback(database.close)
        processes = os.cpu_count() or 1
        pool = CpuPool(processes)
        stack.push_async_callback(pool.close)
        await warm(pool, processes)
        spec = CollectSpec(
            (web.url,),
            follow=True,
            limits=CrawlLimits(max_pages=max_pages, max_depth=50),
            rate=FetchRate(concurrency=CONCURRENCY),
        )
        if reading is not None:
            spec = replace(spec, reading=reading)
        crawls = Crawls(web.url, spec, database, pool)
        await crawls.run()
        await _processors(crawls)
        await _profiled(crawls, database)
        _reader(sorted(site.folder.glob("*.html"))[:max_pages])


async def _processors(crawls: Crawls) -> None:
    began, before = time.monotonic(), Used.now()
    pages = await crawls.run()
    used, seconds = Used.now().since(before), time.monotonic() - began
    say(f"\n{pages} pages in {seconds:.1f} s: {pages / seconds:.0f} pages/s, {1000 * seconds / pages:.2f} ms a page")
    rows = {
        "event loop": used.loop,
        "other threads of its process": used.threads,
        "pool": used.pool,
        "Postgres": used.postgres,
        "nginx": used.server,
    }
    for name, value in rows.items():
        say(f"  {name:<30} {1000 * value / pages:6.2f} ms of a processor a page")
    say(f"  {'together':<30} {1000 * sum(rows.values()) / pages:6.2f} ms")


async def _profiled(crawls: Crawls, database: Database) -> None:
    statements = Statements()
    statements.watch(database)
    profiler = cProfile.Profile(time.thread_time)
    profiler.enable()
    pages = await crawls.run()
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    groups: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for (path, _, name), (_, _, own, _, _) in stats.items():
        place = _module(path, name)
        groups[_group(place)] += own
        functions[f"{place}.{name}" if not path.startswith("~") else name] += own
    total = sum(groups.values())
    say(f"\non the event loop, by what runs ({1000 * total / pages:.2f} ms a page under the profiler)")
    for name, own in groups.most_common():
        say(f"  {name:<30} {own / total:6.1%}")
    say("the most expensive functions, themselves")
    for name, own in functions.most_common(SHOWN):
        say(f"  {own / total:6.1%}  {name[:110]}")
    say("what calls cost with all below them")
    cumulative = {f"{_module(path, name)}.{name}": value[3] for (path, _, name), value in stats.items()}
    ours = {name: own for name, own in cumulative.items() if name.startswith(("activities", "ke."))}
    for name, own in Counter(ours).most_common(SHOWN):
        say(f"  {own / total:6.1%}  {name}")
    say("statements, from the outside: waits for the event loop included")
    for name, seconds in sorted(statements.seconds.items(), key=lambda item: -item[1])[:SHOWN]:
        say(f"  {1000 * seconds / pages:6.2f} ms a page  {statements.calls[name]:>5} calls  {name}")


def _reader(pages: Sequence[Path]) -> None:
    """The reader over the pages, in this process."""
    bodies = [page.read_bytes() for page in pages]
    began = time.perf_counter()
    for page, body in zip(pages, bodies, strict=True):
        parse.parse_page(body, "text/html", None, f"http://site.example/{page.name}")
    seconds = time.perf_counter() - began
    say(f"\nthe reader: {1000 * seconds / len(pages):.2f} ms a page")
    profiler = cProfile.Profile()
    profiler.enable()
    for page, body in zip(pages, bodies, strict=True):
        parse.parse_page(body, "text/html", None, f"http://site.example/{page.name}")
    profiler.disable()
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    for share, name in _steps(stats):
        say(f"  {share / total:6.1%}  {name}, with all below it")


def _steps(stats: dict[Any, Any]) -> Iterator[tuple[float, str]]:
    """The reader's own steps, the most expensive first."""
    found = [
        (value[3], f"{_module(path, name)}.{name}")
        for (path, _, name), value in stats.items()
        if _module(path, name).startswith("ke.web") or name == "bare_extraction"
    ]
    yield from sorted(found, reverse=True)[:SHOWN]


def _module(path: str, name: str) -> str:
    """The module of a function by its file; of a built-in one by its name."""
    if path.startswith(("~", "<")):
        return name.strip("<>").removeprefix("built-in method ").removeprefix("method ").replace("'", "")
    parts = Path(path).with_suffix("").parts
    for mark in ("site-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"):
        if mark in parts:
            return ".".join(parts[parts.index(mark) + 1 :])
    return ".".join(parts[len(Path(__file__).parents[2].parts) :])


def _group(module: str) -> str:
    for name, prefixes in GROUPS:
        if module.startswith(prefixes) or any(
            f" {prefix}" in module or f"of {prefix}" in module for prefix in prefixes
        ):
            return name
    return "other"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=1_169)
    parser.add_argument("--reading", help="how pages are read, where crawls can choose")
    options = parser.parse_args()
    asyncio.run(main(options.pages, options.reading))
