"""Reads the sitemaps of a crawl's seeds, before its first page."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

import structlog

from activities.pages import Reach
from ke.contracts.errors import KeError
from ke.runtime.pool import CpuPool
from ke.web.fetch import Fetcher
from ke.web.response import Ok, classify
from ke.web.robots import Robots
from ke.web.sitemap import MAX_SITEMAP_BYTES, Sitemap, parse_sitemap
from ke.web.urls import origin

MAX_SITEMAPS: Final = 200
"""Sitemap files that one crawl reads."""

log = structlog.get_logger(__name__)


async def sitemap_urls(
    seeds: Iterable[str], fetcher: Fetcher, robots: Robots, pool: CpuPool, reach: Reach
) -> AsyncIterator[tuple[str, ...]]:
    """Yields the URLs in scope of each sitemap that the seeds' robots.txt name, or else of /sitemap.xml.

    A sitemap that cannot be read is logged and left out: it is a help, not a promise.
    """
    seen: set[str] = set()
    queue: list[str] = []
    for where in dict.fromkeys(origin(seed) for seed in seeds):
        rules = await robots.rules(f"{where}/")
        queue.extend(rules.sitemaps or (f"{where}/sitemap.xml",))
    while queue and len(seen) < MAX_SITEMAPS:
        url = queue.pop(0)
        if url in seen:
            continue
        seen.add(url)
        sitemap = await _read(url, fetcher, pool)
        queue.extend(sitemap.sitemaps)
        yield tuple(found for found in sitemap.urls if reach.scope.refusal(found, 1) is None)


async def _read(url: str, fetcher: Fetcher, pool: CpuPool) -> Sitemap:
    try:
        response = await fetcher.fetch(
            url, accept="application/xml,text/xml,text/plain;q=0.5", max_bytes=MAX_SITEMAP_BYTES
        )
        if not isinstance(classify(response), Ok):
            return Sitemap()
        return await pool.run(parse_sitemap, response.body, response.final_url)
    except KeError as error:
        if error.code == "work-lost":
            raise
        log.info("sitemap left out", url=url, error=error.message)
        return Sitemap()
