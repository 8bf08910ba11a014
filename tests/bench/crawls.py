"""Durable crawls against Scrapy, which only fetches and follows."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from ke.client import KnowledgeExtractionClient
from tests.bench.figures import Figure, Goal
from tests.bench.lab import CONCURRENCY, Lab, crawl_body, peer, remove, run_job
from tests.faults.measures import say

SAME_PAGES = 0.02
"""How far apart the numbers of pages may be: redirects and identical pages are counted differently."""
NO_ENTITIES = {"entities": None}


@dataclass(frozen=True, slots=True)
class Race:
    """A crawl and the spider that it is held against."""

    reading: str
    spider: str
    goal: Goal
    extract: dict[str, Any] | None = None


RACES = {
    "crawl-fast": Race("fast", "seen", Goal.least(1.0)),
    "crawl-default": Race("thorough", "tutorial", Goal.least(1.0)),
    "index-fast": Race("fast", "tutorial", Goal.least(1.0), NO_ENTITIES),
    "index-default": Race("thorough", "tutorial", Goal.least(0.7), NO_ENTITIES),
}


async def crawl_fast(lab: Lab) -> AsyncIterator[Figure]:
    """Durable crawl, fast reading, against Scrapy with a set of seen URLs."""
    yield await _race(lab, "crawl-fast")


async def crawl_default(lab: Lab) -> AsyncIterator[Figure]:
    """Durable crawl, default reading, against Scrapy as its tutorial writes it."""
    yield await _race(lab, "crawl-default")


async def index_fast(lab: Lab) -> AsyncIterator[Figure]:
    """The crawl with chunks, embeddings and index, fast reading, against tutorial Scrapy."""
    yield await _race(lab, "index-fast")


async def index_default(lab: Lab) -> AsyncIterator[Figure]:
    """The crawl with chunks, embeddings and index, default reading, against tutorial Scrapy."""
    yield await _race(lab, "index-default")


async def _race(lab: Lab, name: str) -> Figure:
    race = RACES[name]
    web, stack = await lab.served(), await lab.stack()
    ours: list[float] = []
    theirs: list[float] = []
    body = crawl_body(web.url, extract=race.extract) | {"reading": race.reading}
    note = ""
    async with stack.client() as client:
        for number in range(lab.options.runs):
            pages, rate = await _crawl(client, body)
            found = await peer("tests.bench.peer_scrapy", race.spider, web.url, str(CONCURRENCY))
            ours.append(rate)
            theirs.append(found["pages"] / found["seconds"])
            say(f"  run {number + 1}: ke {rate:.0f} pages/s, Scrapy ({race.spider}) {theirs[-1]:.0f} pages/s")
            if abs(pages - found["pages"]) > SAME_PAGES * pages:
                note = f"; NOT THE SAME PAGES: {pages} and {found['pages']}"
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return Figure(name, race.goal, ratios, f"{median(ours):.0f} against {median(theirs):.0f} pages/s{note}")


async def _crawl(client: KnowledgeExtractionClient, body: dict[str, Any]) -> tuple[int, float]:
    """The pages of one crawl, and how many a second."""
    job, seconds = await run_job(client, body)
    assert job["result"] is not None
    pages = job["result"]["pages_fetched"] + job["result"]["pages_duplicate"]
    if body["extract"] is not None:
        assert job["result"]["sources_extracted"] == job["result"]["sources"], job["result"]
    await remove(client, job["id"])
    return pages, pages / seconds
