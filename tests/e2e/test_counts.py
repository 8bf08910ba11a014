"""A crawl's counts are held against a walk that has no code of ours in it."""

import asyncio

from examples.serve import SiteServer
from tests.bench.lab import run_job
from tests.counts.compare import Comparison, compare, crawl_of
from tests.counts.walk import walk
from tests.e2e.stack import Stack


async def compared(stack: Stack, site: SiteServer, *, robots_of_walk: bool = True) -> Comparison:
    """A crawl of the site that heeds robots.txt, and a walk."""
    seeds = [f"{site.url}/index.html"]
    walked = await asyncio.to_thread(walk, seeds, robots=robots_of_walk)
    async with stack.client() as client:
        job, _ = await run_job(client, crawl_of(seeds))
        return await compare(client, job, walked)


async def test_a_crawl_and_an_independent_walk_say_the_same_of_every_address(
    stack: Stack, counted_site: SiteServer
) -> None:
    """Dead links, a PDF, copies, another type, canonical links, redirects, robots: each page, and every counter."""
    comparison = await compared(stack, counted_site)
    assert comparison.differences == []
    found = {name: number for name, number in comparison.walked.items() if name != "bytes"}
    assert found == {
        "pages": 24,
        "fetched": 12,
        "sources": 11,
        "duplicates": 6,  # three copies, two orders of the list, the lamp to be printed
        "redirected": 3,
        "skipped": 3,
        "- disallowed by robots.txt": 1,
        "- documents of type image/png cannot be read": 1,
        "- redirects to https://example.com/, which is not followed: on another host": 1,
        "dead letters": 3,
        "- http-404": 2,
        "- too-many-redirects": 1,
    }


async def test_a_crawl_that_misses_pages_is_told_of(stack: Stack, counted_site: SiteServer) -> None:
    """The comparison names what is not the same: here all that robots.txt and the pages forbid to the crawl alone."""
    comparison = await compared(stack, counted_site, robots_of_walk=False)
    told = {line.split(": ")[0].removeprefix(counted_site.url) for line in comparison.differences}
    assert {"/private/log.html", "/unloved.html", "/unseen.html", "/quiet.html", "sources"} <= told
    assert not {"/lamp.html", "/gone.html", "/new.html", "duplicates"} & told
    (line,) = [line for line in comparison.table() if line.split()[0] == "sources"]
    assert line.endswith("DIFFERENT")
