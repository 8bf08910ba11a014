"""What a crawl begins with beside its seeds: the pages that sitemaps name, and those that an earlier job has seen."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.heartbeat import Beat
from activities.reach import Reach
from activities.sitemaps import sitemap_urls
from ke.contracts.ids import page_id
from ke.runtime.pool import CpuPool
from ke.storage.frontier import Link, add_links, page_urls
from ke.storage.recrawls import earlier_frontier, known_pages
from ke.web.fetch import Fetcher
from ke.web.robots import Robots

SITEMAP_BATCH: Final = 2_000
"""URLs of a sitemap in one commit."""


@dataclass(frozen=True, slots=True)
class Seeding:
    """Fills a frontier before the first page. What was broken off is begun anew: adding twice is adding once."""

    job_id: uuid.UUID
    writing: Callable[[], AbstractAsyncContextManager[AsyncConnection]]
    """A transaction that is refused once the slice has lost its lane."""
    reach: Reach
    beat: Beat

    async def from_sitemaps(self, fetcher: Fetcher, robots: Robots, pool: CpuPool) -> None:
        """Adds what the seeds' sitemaps name, one link away from a seed."""
        async for urls in sitemap_urls(fetcher, robots, pool, self.reach, self.beat):
            for first in range(0, len(urls), SITEMAP_BATCH):
                await self._add([(url, 1, None) for url in urls[first : first + SITEMAP_BATCH]])

    async def from_earlier(self, job_id: uuid.UUID) -> int:
        """Adds all that an earlier job has seen and this one follows, as deep as it was, so that all is asked for anew.

        Where an answer has no body, because nothing has changed, its links are among these.

        Returns:
            How many URLs the two have in common, the seeds among them.
        """
        async with self.writing() as connection:
            seeds = await known_pages(connection, job_id, self.reach.spec.urls)
        common = len(seeds)
        after: int | None = 0 if self.reach.spec.follow and self.reach.spec.limits.max_depth > 0 else None
        while after is not None and not self.beat.stopping:
            async with self.writing() as connection:
                found, after = await earlier_frontier(connection, job_id, after)
                urls_by_id = await page_urls(connection, {origin for _, _, origin in found if origin is not None})
            by_depth: dict[int, list[str]] = {}
            # This job's page of the same URL: the earlier one may be forgotten, as once it is replaced.
            here = {origin: page_id(self.job_id, url) for origin, url in urls_by_id.items()}
            origins = {url: here[origin] for url, _, origin in found if origin in here}
            for url, depth, _ in found:
                # Only this job's own seeds are without a link that leads to them.
                by_depth.setdefault(max(1, depth), []).append(url)
            for depth, urls in sorted(by_depth.items()):
                selected = await self.reach.select(tuple(urls), depth)
                common += sum(url not in seeds for url in selected)
                await self._add([(url, depth, origins.get(url)) for url in selected])
        return common

    async def _add(self, links: Sequence[Link]) -> None:
        async with self.writing() as connection:
            await add_links(connection, self.job_id, links)
        self.beat.progress()
