"""What a crawl begins with beside its seeds: the pages that sitemaps name, and those that an earlier job has seen."""

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.heartbeat import Beat
from activities.reach import Reach
from activities.sitemaps import sitemap_urls
from ke.contracts.ids import page_id
from ke.runtime.pool import CpuPool
from ke.storage.frontier import Link, add_links, page_urls
from ke.storage.recrawls import EarlierLink, earlier_frontier, known_pages, still_linked
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
    reads_sitemaps: bool
    """Whether what sitemaps name is added too."""

    async def from_sitemaps(self, fetcher: Fetcher, robots: Robots, pool: CpuPool) -> None:
        """Adds what the seeds' sitemaps name, one link away from a seed."""
        async for urls in sitemap_urls(fetcher, robots, pool, self.reach, self.beat):
            for first in range(0, len(urls), SITEMAP_BATCH):
                await self._add([(url, 1, None) for url in urls[first : first + SITEMAP_BATCH]])

    async def from_earlier(self, job_id: uuid.UUID) -> int:
        """Adds all that an earlier job has seen and this one follows, as deep as it was, so that all is asked for anew.

        Where an answer has no body, because nothing has changed, its links are among these. Links that were broken are
        left to `links_left`.

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
                urls = await page_urls(connection, {link.found_on for link in found if link.found_on is not None})
            # This job's page of the same URL: the earlier one may be forgotten, as once it is replaced.
            here: dict[uuid.UUID | None, uuid.UUID | None] = {None: None}
            here |= {origin: page_id(self.job_id, url) for origin, url in urls.items()}
            selected = await self._followed(found)
            common += sum(link.url not in seeds and not (link.is_gone or link.was_gone) for link in selected)
            asked_first = [link for link in selected if not self._is_for_later(link)]
            await self._add([(link.url, link.depth, here.get(link.found_on)) for link in asked_first])
        return common

    async def links_left(self, job_id: uuid.UUID) -> None:
        """Adds what an earlier job found gone and is still stored, and links to nothing that are not mended.

        Call it when all else is fetched: what has become of the page that had such a link tells. If it has changed, its
        links are in the frontier, this one among them or not; so are those of the sitemaps.
        """
        after: int | None = 0
        while after is not None and not self.beat.stopping:
            async with self.writing() as connection:
                found, after = await earlier_frontier(connection, job_id, after)
            # What sitemaps had named they have named again, or not.
            later = [link for link in found if self._is_for_later(link) and (link.is_gone or link.found_on is not None)]
            selected = await self._followed(later)
            if selected:
                async with self.writing() as connection:
                    left = await still_linked(connection, self.job_id, selected)
                await self._add(left)
            self.beat.progress()

    def _is_for_later(self, link: EarlierLink) -> bool:
        """Whether a link was broken, or gone, and what this job reads itself can tell whether it still is there.

        What no page had, one link away from the seeds, is of a sitemap.
        """
        if link.is_broken:
            return link.found_on is not None or (self.reads_sitemaps and link.depth == 1)
        return link.is_gone or link.was_gone

    async def _followed(self, found: Sequence[EarlierLink]) -> list[EarlierLink]:
        """Those that this job follows, less deep ones first."""
        by_depth: dict[int, dict[str, EarlierLink]] = {}
        for link in found:
            # Only this job's own seeds are without a link that leads to them.
            depth = max(1, link.depth)
            by_depth.setdefault(depth, {})[link.url] = replace(link, depth=depth)
        followed = []
        for depth, links in sorted(by_depth.items()):
            # One that is spelled in another way now is another page.
            selected = await self.reach.select(tuple(links), depth)
            followed += [links.get(url) or EarlierLink(url, depth, None) for url in selected]
        return followed

    async def _add(self, links: Sequence[Link]) -> None:
        async with self.writing() as connection:
            await add_links(connection, self.job_id, links)
        self.beat.progress()
