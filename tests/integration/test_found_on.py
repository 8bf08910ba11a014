"""Where a link was found: the first page that has it, on a real Postgres and a real site."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from aiohttp import web

from ke.contracts.jobs import CrawlScope
from ke.runtime.pool import CpuPool
from ke.storage import collect_batches, frontier
from ke.storage.database import Database
from ke.storage.dead_letters import list_dead_letters
from ke.storage.listing import list_pages
from ke.storage.tables import pages
from tests.integration.lanes import Lanes, running_site


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


async def origins(lanes: Lanes, job_id: str) -> dict[str, str | None]:
    """Where each page of a job was found, by paths, as the list tells it; dead letters tell the same."""
    async with lanes.database.transaction() as connection:
        listed = await list_pages(connection, uuid.UUID(job_id), limit=100)
        letters = await list_dead_letters(connection, uuid.UUID(job_id), limit=100)
    found = {row.url: row.found_on for row in listed}
    assert {letter.url: letter.found_on for letter in letters}.items() <= found.items()
    assert letters, "there is a broken link on the site"
    return {url.removeprefix(lanes.url): on and on.removeprefix(lanes.url) for url, on in found.items()}


async def test_link_names_the_first_page_that_has_it(lanes: Lanes) -> None:
    """A dead letter tells on which page its link is; later pages with the same link change nothing."""
    lanes.html("/", "/first", "/second")
    lanes.html("/first", "/broken", "/second")
    lanes.html("/second", "/broken", "/also-broken")
    second, found = lanes.answers["/second"], asyncio.Event()

    def broken(_: web.BaseRequest) -> web.Response:
        found.set()
        return web.Response(status=404)

    async def later(request: web.BaseRequest) -> web.StreamResponse:
        # Both are asked for at once: which is read first would be chance.
        await found.wait()
        return second(request)  # type: ignore[return-value]

    lanes.answers.update({"/broken": broken, "/second": later})
    job, _ = await lanes.whole(lanes.crawl())
    assert await origins(lanes, job) == {
        "/": None,
        "/first": "/",
        "/second": "/",
        "/broken": "/first",
        "/also-broken": "/second",
    }


async def test_links_that_go_before_their_pages_name_them_too(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with very many links writes most of them ahead of the pages that they are on."""
    monkeypatch.setattr(collect_batches, "PIECE", 1)
    monkeypatch.setattr(frontier, "PIECE", 1)
    lanes.html("/", "/a", "/b", "/c")
    job, _ = await lanes.whole(lanes.crawl())
    assert await origins(lanes, job) == {"/": None, "/a": "/", "/b": "/", "/c": "/"}


async def test_what_a_sitemap_names_was_found_on_no_page(lanes: Lanes) -> None:
    """Nothing links to it: there is no page to mend."""
    lanes.html("/")
    entry = f"<urlset><url><loc>{lanes.url}/only-there</loc></url></urlset>"
    lanes.answers["/sitemap.xml"] = lambda _: web.Response(text=entry, content_type="application/xml")
    job, _ = await lanes.whole(replace(lanes.crawl(), scope=CrawlScope()))
    assert await origins(lanes, job) == {"/": None, "/only-there": None}


async def test_recrawl_knows_where_the_earlier_crawl_found_a_link(lanes: Lanes) -> None:
    """What is asked for again names this job's page with the link: the earlier job's may be forgotten, or cleaned."""
    lanes.html("/", "/page")
    lanes.html("/page", "/broken")
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await lanes.whole(replace(lanes.crawl(), recrawl_of=first))
    told = {"/": None, "/page": "/", "/broken": "/page"}
    assert await origins(lanes, second) == told
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.delete(pages).where(pages.c.job_id == uuid.UUID(first)))
    assert await origins(lanes, second) == told
    third, _ = await lanes.whole(replace(lanes.crawl(), recrawl_of=second))
    assert await origins(lanes, third) == told


async def test_recrawl_names_no_page_that_it_has_not(lanes: Lanes) -> None:
    """What it knows from a page that is out of its scope is asked for again, and has no page to mend in this job."""
    lanes.html("/", "/page")
    lanes.html("/page", "/broken")
    first, _ = await lanes.whole(lanes.crawl())
    scope = CrawlScope(sitemaps=False, exclude=("/page",))
    second, _ = await lanes.whole(replace(lanes.crawl(), recrawl_of=first, scope=scope))
    assert await origins(lanes, second) == {"/": None, "/broken": None}
