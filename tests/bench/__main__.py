"""`python -m tests.bench`: `ke` beside good tools that do one part of it, as ratios within one run."""

import argparse
import asyncio
import importlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.figures import Figure, Goal, table, write
from tests.bench.lab import Lab, Options
from tests.faults.measures import machine, say

Run = Callable[[Lab], AsyncIterator[Figure]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One that can be named."""

    where: str
    """Its module and function, which yields figures."""
    goals: dict[str, Goal]
    """Its figures' names, also when they cannot be measured."""
    limit_s: float
    """The longest it may take; what it has by then is kept."""
    optional: bool = False
    """Whether it only runs when it is named: it takes very long."""

    def load(self) -> Run:
        """Imports it: some need what others do not."""
        module, _, function = self.where.partition(":")
        run: Run = getattr(importlib.import_module(f"tests.bench.{module}"), function)
        return run


BENCHMARKS: dict[str, Benchmark] = {
    "crawl-fast": Benchmark("crawls:crawl_fast", {"crawl-fast": Goal.least(1.0)}, 900),
    "crawl-default": Benchmark("crawls:crawl_default", {"crawl-default": Goal.least(1.0)}, 900),
    "index-fast": Benchmark("crawls:index_fast", {"index-fast": Goal.least(1.0)}, 900),
    "index-default": Benchmark("crawls:index_default", {"index-default": Goal.least(0.7)}, 900),
    "entities": Benchmark("entities:entities", {"entities": Goal.least(0.9)}, 1_200),
    "tax-crawl": Benchmark("tax:tax_crawl", {"tax-crawl": Goal.most(1.1)}, 900),
    "tax-index": Benchmark("tax:tax_index", {"tax-index": Goal.most(1.1)}, 900),
    "kill": Benchmark("kills:kill", {"kill": Goal.most(1.0)}, 900),
    "job-latency": Benchmark("jobs:job_latency", {"job-latency": Goal.most(1.5)}, 600),
    "job-crowd": Benchmark("jobs:job_crowd", {"job-crowd": Goal.most(2.0)}, 600),
    "submits": Benchmark("jobs:submits", {"submits": Goal.least(0.6)}, 600),
    "stalls": Benchmark("stalls:stalls", {"stalls-gateway": Goal.most(1.0), "stalls-worker": Goal.most(1.0)}, 900),
    "search-ingest": Benchmark("searches:search_ingest", {"search-ingest": Goal.most(3.0)}, 900),
    "search-optimised": Benchmark("searches:search_optimised", {"search-optimised": Goal.least(30.0)}, 1_800),
    "writes": Benchmark("stores:writes", {"writes": Goal.least(0.6)}, 600),
    "cleanup": Benchmark("stores:cleanup", {"cleanup": Goal.most(2.0)}, 1_800),
    "memory": Benchmark("memory:memory", {"memory": Goal.most(1.2)}, 3_600, optional=True),
}
"""Everything there is, in the order in which it runs."""


def main(arguments: list[str] | None = None) -> int:
    """Runs what is asked for; returns the exit status: 1 when something could not be measured as it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", help="names, comma-separated, in place of all but the optional ones")
    parser.add_argument("--runs", type=int, default=3, help="of each, whose median counts (3)")
    parser.add_argument("--quick", action="store_true", help="small sizes, one run: whether it works, not how fast")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the figures go (bench.json)")
    parser.add_argument("--list", action="store_true", help="list the names")
    options = parser.parse_args(arguments)
    if options.list:
        return _list()
    names = [name for name, benchmark in BENCHMARKS.items() if not benchmark.optional]
    if options.only:
        names = [name.strip() for name in options.only.split(",") if name.strip()]
        if unknown := sorted(set(names) - set(BENCHMARKS)):
            parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    wanted = Options(runs=1 if options.quick else options.runs, quick=options.quick)
    try:
        return asyncio.run(_run(names, wanted, options.json))
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        print(f"ended by {type(error).__name__}", file=sys.stderr, flush=True)
        return 130


def _list() -> int:
    for name, benchmark in BENCHMARKS.items():
        summary = (benchmark.load().__doc__ or "").splitlines()[0]
        say(f"{name:<18} {summary}{' (only when it is named)' if benchmark.optional else ''}")
    return 0


async def _run(names: Sequence[str], options: Options, path: Path) -> int:
    """Runs them one after the other; SIGTERM ends it as Ctrl-C does, with all that was started."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    say(f"machine: {machine()}")
    if os.getloadavg()[0] > (os.cpu_count() or 1) / 4:
        say("machine: BUSY with something else; the ratios are noisy, and latencies say little")
    figures: list[Figure] = []
    broken: list[str] = []
    lab = Lab(options)
    try:
        for name in names:
            say(f"{name}: {(BENCHMARKS[name].load().__doc__ or '').splitlines()[0]}")
            began = time.monotonic()
            measured, why = await _measure(BENCHMARKS[name], lab)
            figures += measured
            if why:
                broken.append(name)
                say(f"  BROKEN: {why}")
                # What it left half done is not for the next one to measure.
                await lab.close()
                lab = Lab(options)
            write(figures, path)
            say(f"  {time.monotonic() - began:.0f} s")
    finally:
        await lab.close()
    say("\n" + "\n".join(table(figures)))
    say(f"\nmachine: {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end, of which most is this run's own")
    missed = [figure.name for figure in figures if figure.met is False]
    say(f"goals not met: {', '.join(missed) or 'none'}" + (f"; broken: {', '.join(broken)}" if broken else ""))
    say(f"wrote {path}")
    return 1 if broken else 0


async def _measure(benchmark: Benchmark, lab: Lab) -> tuple[list[Figure], str]:
    """The figures of one benchmark, those that it did not come to among them, and what went wrong."""
    figures: list[Figure] = []
    why = ""
    try:
        async with asyncio.timeout(benchmark.limit_s):
            async for figure in benchmark.load()(lab):
                figures.append(figure)
                say("  " + "  ".join(figure.cells()))
    except TimeoutError:
        why = f"not done within {benchmark.limit_s:g} s"
    except Exception as error:  # noqa: BLE001  the edge of one benchmark: the others are measured all the same
        why = f"{type(error).__name__}: {error}"
    seen = {figure.name for figure in figures}
    figures += [Figure(name, goal, note=why[:200]) for name, goal in benchmark.goals.items() if name not in seen]
    return figures, why


if __name__ == "__main__":
    sys.exit(main())
