"""Crawls real sites and holds every count against an independent walk: `python -m tests.counts [PACKAGE ...]`.

The sites are the documentation in Debian packages, served on loopback and crawled by a whole stack. Ends with 1 when an
address or a counter is not the same in both.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.bench.lab import a_stack, run_job
from tests.bench.site import Served, packaged, served
from tests.counts.compare import compare, crawl_of
from tests.counts.walk import walk
from tests.e2e.stack import Stack
from tests.faults.measures import say

PACKAGES = {
    "postgresql-doc-15": "postgresql-doc-15/html",
    "sqlite3-doc": "sqlite3",
    "apache2-doc": "apache2-doc/manual",
    "rust-doc": "rust-doc/html",
}
"""Debian packages, and where below /usr/share/doc their pages are."""
UNLINKED = {"sqlite3-doc": ("copyright-release.pdf",)}
"""Pages that no link leads to, and that are to be counted."""
SHOWN = 20
"""Differences that are shown."""


def main(arguments: list[str] | None = None) -> int:
    """Compares; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.counts", description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}; all by default")
    names = parser.parse_args(arguments).packages or list(PACKAGES)
    if unknown := sorted(set(names) - set(PACKAGES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(PACKAGES)}")
    return asyncio.run(_run(names))


async def _run(names: Sequence[str]) -> int:
    sites = [await asyncio.to_thread(packaged, name, PACKAGES[name]) for name in names]
    missing = [name for name, site in zip(names, sites, strict=True) if site is None]
    async with AsyncExitStack() as opened:
        webs = [await opened.enter_async_context(served(site)) for site in sites if site is not None]
        stack = await opened.enter_async_context(a_stack(",".join(web.host_port for web in webs)))
        unlike = [web.site.name for web in webs if not await _is_same(stack, web)]
    say(f"not the same: {', '.join(unlike) or 'none'}" + (f"; cannot be had: {', '.join(missing)}" if missing else ""))
    return 1 if unlike or missing else 0


async def _is_same(stack: Stack, web: Served) -> bool:
    """Walks and crawls one site, and prints what was found."""
    began = time.monotonic()
    seeds = [web.url, *(f"http://{web.host_port}/{path}" for path in UNLINKED.get(web.site.name, ()))]
    walked = await asyncio.to_thread(walk, seeds, processes=os.cpu_count() or 1)
    walked_s = time.monotonic() - began
    async with stack.client() as client:
        job, crawled_s = await run_job(client, crawl_of(seeds))
        comparison = await compare(client, job, walked)
    say(f"{web.site.name}: walked in {walked_s:.0f} s, crawled in {crawled_s:.0f} s, served by {web.server}")
    for line in comparison.table():
        say(line)
    for line in comparison.differences[:SHOWN]:
        say(f"  DIFFERENT {line}")
    say(f"  {len(comparison.differences)} differences\n")
    return not comparison.differences


if __name__ == "__main__":
    sys.exit(main())
