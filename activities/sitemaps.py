"""Reads the sitemaps of a crawl's seeds, before its first page."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import structlog

from activities.heartbeat import Beat
from activities.reach import Reach
from ke.contracts.errors import KeError, WorkLost
from ke.runtime.pool import CpuPool
from ke.web.errors import BadPattern
from ke.web.fetch import Fetcher
from ke.web.response import Ok, classify
from ke.web.robots import Robots
from ke.web.sitemap import MAX_SITEMAP_BYTES, Sitemap, parse_sitemap
from ke.web.urls import origin

MAX_SITEMAPS: Final = 200
"""Sitemap files that one crawl reads."""
MAX_SECONDS: Final = 90.0
"""Seconds for all of them: a help to the crawl, which starts without the rest."""
URLS_FOR_EACH_PAGE: Final = 4
"""URLs that are taken, for each page that the crawl may fetch: some are known, refused or gone."""

log = structlog.get_logger(__name__)


async def sitemap_urls(
    fetcher: Fetcher, robots: Robots, pool: CpuPool, reach: Reach, beat: Beat
) -> AsyncIterator[tuple[str, ...]]:
    """Yields the URLs in scope of each sitemap that the seeds' robots.txt name, or else of /sitemap.xml.

    A sitemap that cannot be read is logged and left out. Ends early when the activity must stop, when the time is
    up, or when there are more URLs than the crawl can use.
    """
    ends_at = time.monotonic() + MAX_SECONDS
    left = URLS_FOR_EACH_PAGE * reach.spec.limits.max_pages
    queue = await _named(reach.spec.urls, robots, beat)
    seen: set[str] = set()
    while queue and left > 0 and len(seen) < MAX_SITEMAPS and time.monotonic() < ends_at and not beat.stopping:
        url = queue.pop(0)
        if url in seen:
            continue
        seen.add(url)
        beat.progress()
        sitemap = await _read(url, fetcher, pool)
        queue.extend(sitemap.sitemaps)
        found = (await reach.select(sitemap.urls, 1))[:left]
        left -= len(found)
        yield found


async def _named(seeds: tuple[str, ...], robots: Robots, beat: Beat) -> list[str]:
    """The sitemaps to begin with: all hosts are asked at once, for some may be silent."""
    origins = list(dict.fromkeys(origin(seed) for seed in seeds))
    tasks = [asyncio.create_task(_of_origin(where, robots)) for where in origins]
    try:
        waiting = set(tasks)
        while waiting and not beat.stopping:
            _, waiting = await asyncio.wait(waiting, timeout=1.0)
            beat.progress()
        return [sitemap for task in tasks if task.done() for sitemap in task.result()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _of_origin(where: str, robots: Robots) -> tuple[str, ...]:
    try:
        rules = await robots.rules(f"{where}/")
    except KeError:
        return ()  # a seed that may not be fetched is told of as a page
    if not rules.reachable:
        return ()
    return rules.sitemaps or (f"{where}/sitemap.xml",)


async def _read(url: str, fetcher: Fetcher, pool: CpuPool) -> Sitemap:
    try:
        response = await fetcher.fetch(
            url, accept="application/xml,text/xml,text/plain;q=0.5", max_bytes=MAX_SITEMAP_BYTES
        )
        if not isinstance(classify(response), Ok):
            return Sitemap()
        return await pool.run(parse_sitemap, response.body, response.final_url)
    except (BadPattern, WorkLost):
        raise
    except KeError as error:
        log.info("sitemap left out", url=url, error=error.message)
        return Sitemap()
