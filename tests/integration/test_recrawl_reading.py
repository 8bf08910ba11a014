"""Pages whose bytes are others at each request, as of a counter, crawled again: what counts is how they read."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count

import pytest
import sqlalchemy as sa
from aiohttp import web

from ke.contracts.jobs import Reading
from ke.runtime.pool import CpuPool
from ke.storage.database import Database
from ke.storage.tables import sources
from tests.integration.lanes import Lanes, running_site
from tests.integration.recrawling import again, previous

TEXT = "The lamp of the tower is lit at dusk."
NUMBERS = count()
"""Of all requests, so that no two answers have the same bytes."""


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


def counting(lanes: Lanes, path: str, *, head: str = "<title>Lamp</title>", text: str = TEXT, nav: str = "") -> None:
    """A page with a number in it that grows with each request, and with links outside of its text."""

    def answer(_: web.BaseRequest) -> web.Response:
        body = f"<nav>{nav}</nav><main><p>{text}</p></main><script>let n = {next(NUMBERS)}</script>"
        return web.Response(text=f"<html><head>{head}</head><body>{body}</body></html>", content_type="text/html")

    lanes.answers[path] = answer


async def test_page_that_reads_the_same_is_unchanged(lanes: Lanes) -> None:
    """Nothing of it is stored or extracted again, and the next re-crawl of this one points to the same document."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    source = (await lanes.stored(first))["/lamp"]
    earlier = first
    for _ in range(2):
        earlier, numbers = await again(lanes, earlier)
        assert numbers == {"unchanged": 2}
        assert await lanes.stored(earlier) == {}
        row = (await lanes.rows(earlier))["/lamp"]
        assert (row.source_id, row.previous_source_id, row.http_status) == (source.id, None, 200)
        assert row.content_type == source.content_type
        assert row.content_hash not in {None, source.content_hash}


@pytest.mark.parametrize(
    "change",
    [
        {"text": f"{TEXT} Not any more."},
        {"head": "<title>Another lamp</title>"},
        {"head": '<title>Lamp</title><meta name="date" content="2024-05-01">'},
        {"head": '<title>Lamp</title><meta name="author" content="Ada Lovelace">'},
    ],
)
async def test_page_that_reads_otherwise_has_changed(lanes: Lanes, change: dict[str, str]) -> None:
    """Its title, its text, or what it says of itself."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    counting(lanes, "/lamp", **change)
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1}
    assert await previous(lanes, second, "changed") == {"/lamp": (await lanes.stored(first))["/lamp"].id}


async def test_page_without_text_has_changed(lanes: Lanes) -> None:
    """Nothing to read is the same as nothing to read, so only its bytes tell."""
    lanes.html("/", "/empty")
    counting(lanes, "/empty", head="", text="")
    first, _ = await lanes.whole(lanes.crawl())
    _, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1}


async def test_page_that_is_read_in_another_way_is_stored_anew(lanes: Lanes) -> None:
    """Also where that comes to the same: it was asked for."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    _, numbers = await again(lanes, first, replace(lanes.crawl(), reading=Reading.FAST))
    assert numbers == {"fetched": 2}


async def test_links_of_a_page_that_reads_the_same_are_followed(lanes: Lanes) -> None:
    """New ones are found, and one that was mended is asked for no more; one that is left is."""
    lanes.html("/", "/lamp", "/other")
    counting(lanes, "/lamp", nav="<a href='/wrong'>new</a>")
    counting(lanes, "/other", head="<title>Other</title>", nav="<a href='/wrong-too'>new</a>")
    first, outcome = await lanes.whole(lanes.crawl())
    assert outcome.counters.pages_failed == 2
    counting(lanes, "/lamp", nav="<a href='/right'>new</a>")
    lanes.html("/right")
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 3, "fetched": 1, "failed": 1}
    assert set(await lanes.rows(second)) == {"/", "/lamp", "/other", "/right", "/wrong-too"}


async def test_document_that_was_forgotten_is_stored_anew(lanes: Lanes) -> None:
    """There is nothing to compare with, and nothing that the page could point to."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    source = (await lanes.stored(first))["/lamp"].id
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.delete(sources).where(sources.c.id == source))
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1}
    assert set(await lanes.stored(second)) == {"/lamp"}


@pytest.mark.parametrize("gone", ["/lamp", "/lamp?from=feed"])
async def test_variant_that_was_gone_and_is_back_is_unchanged(lanes: Lanes, gone: str) -> None:
    """It has another one's document, whose bytes are not its own."""
    head = f'<title>Lamp</title><link rel="canonical" href="{lanes.url}/lamp">'
    lanes.html("/", "/lamp", "/lamp?from=feed")
    for path in ("/lamp", "/lamp?from=feed"):
        counting(lanes, path, head=head)
    first, outcome = await lanes.whole(lanes.crawl())
    assert outcome.counters.pages_duplicate == 1
    there = lanes.answers.pop(gone)
    lanes.answers.setdefault("/lamp", lambda _: web.Response(status=404))
    if gone != "/lamp":
        lanes.answers[gone] = lambda _: web.Response(status=404)
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 2, "gone": 1}
    lanes.answers[gone] = there
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 3}
    assert {row.source_id for path, row in (await lanes.rows(third)).items() if path != "/"} == {
        row.id for path, row in (await lanes.stored(first)).items() if path != "/"
    }


def variant_head(lanes: Lanes, more: str = "") -> str:
    """Of a page that says that it belongs to /lamp."""
    return f'<title>Lamp</title><link rel="canonical" href="{lanes.url}/lamp">{more}'


async def documents(lanes: Lanes, job: str, *paths: str) -> set:
    """The documents that these pages have."""
    rows = await lanes.rows(job)
    return {rows[path].source_id for path in paths}


async def test_new_variants_of_an_unchanged_page_are_its_duplicates(lanes: Lanes) -> None:
    """Its document is an earlier job's, and stands for them as well, in this job and in the next."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    variants = [f"/lamp?from={n}" for n in range(3)]
    lanes.html("/", "/lamp", *variants, "/moved")
    for path in variants:
        counting(lanes, path, head=variant_head(lanes))
    lanes.answers["/moved"] = lambda _: web.Response(status=302, headers={"Location": "/lamp"})
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1, "duplicate": 4}
    kept = {(await lanes.stored(first))["/lamp"].id}
    assert await documents(lanes, second, "/lamp", *variants, "/moved") == kept
    assert (await lanes.rows(second))[variants[0]].reason == f"same as {lanes.url}/lamp"
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 6}
    assert await documents(lanes, third, "/lamp", *variants, "/moved") == kept


async def test_page_that_an_unchanged_variant_names_is_its_duplicate(lanes: Lanes) -> None:
    """Also where it is met first in the re-crawl."""
    lanes.html("/", "/lamp?from=feed")
    counting(lanes, "/lamp?from=feed", head=variant_head(lanes))
    lanes.answers["/lamp"] = lambda _: web.Response(status=404)
    first, _ = await lanes.whole(lanes.crawl())
    counting(lanes, "/lamp")
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 2, "duplicate": 1}
    assert await documents(lanes, second, "/lamp", "/lamp?from=feed") == {
        (await lanes.stored(first))["/lamp?from=feed"].id
    }


async def test_variant_is_unchanged_though_it_says_more_of_itself(lanes: Lanes) -> None:
    """It has the document of another page, by text and title, and that one says what it says of itself."""
    lanes.html("/", "/lamp", "/lamp?from=feed")
    counting(lanes, "/lamp")
    counting(lanes, "/lamp?from=feed", head=variant_head(lanes, '<meta name="author" content="Ada Lovelace">'))
    first, outcome = await lanes.whole(lanes.crawl())
    assert outcome.counters.pages_duplicate == 1
    _, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 3}


async def test_variant_that_changes_and_goes_back_has_its_document_again(lanes: Lanes) -> None:
    """It names no document before: it has that one."""
    lanes.html("/", "/lamp", "/lamp?from=feed")
    counting(lanes, "/lamp")
    counting(lanes, "/lamp?from=feed", head=variant_head(lanes))
    first, _ = await lanes.whole(lanes.crawl())
    counting(lanes, "/lamp?from=feed", head=variant_head(lanes), text="Something else.")
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 2}
    counting(lanes, "/lamp?from=feed", head=variant_head(lanes))
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 2, "duplicate": 1}
    assert await documents(lanes, third, "/lamp", "/lamp?from=feed") == await documents(lanes, first, "/lamp")
    lost = (await lanes.stored(second))["/lamp?from=feed"].id
    assert await previous(lanes, third, "changed") == {"/lamp?from=feed": lost}


async def test_page_that_has_moved_is_stored_at_its_new_address(lanes: Lanes) -> None:
    """What was found at the old one is replaced, though it reads the same."""
    lanes.html("/", "/old")
    lanes.site.html("/old", text=TEXT)
    first, _ = await lanes.whole(lanes.crawl())
    lanes.answers["/new"] = lanes.answers["/old"]
    lanes.answers["/old"] = lambda _: web.Response(status=301, headers={"Location": "/new"})
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1}
    assert set(await lanes.stored(second)) == {"/new"}
    assert await previous(lanes, second, "changed") == {"/old": (await lanes.stored(first))["/old"].id}


async def test_page_that_is_back_is_not_compared_with_what_was_read_in_another_way(lanes: Lanes) -> None:
    """Its document is of the thorough reading, and this job reads fast."""
    lanes.html("/", "/lamp")
    counting(lanes, "/lamp")
    first, _ = await lanes.whole(lanes.crawl())
    there = lanes.answers["/lamp"]
    lanes.answers["/lamp"] = lambda _: web.Response(status=404)
    fast = replace(lanes.crawl(), reading=Reading.FAST)
    second, numbers = await again(lanes, first, fast)
    assert numbers == {"fetched": 1, "gone": 1}
    lanes.answers["/lamp"] = there
    _, numbers = await again(lanes, second, fast)
    assert numbers == {"fetched": 1, "unchanged": 1}


async def test_redirect_that_was_gone_and_is_back_is_unchanged(lanes: Lanes) -> None:
    """Its document is of where it led to, and leads to again."""
    lanes.html("/", "/old")
    counting(lanes, "/new")
    lanes.answers["/old"] = lambda _: web.Response(status=301, headers={"Location": "/new"})
    there = lanes.answers["/old"]
    first, _ = await lanes.whole(lanes.crawl())
    del lanes.answers["/old"]
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 1, "gone": 1}
    lanes.answers["/old"] = there
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 2}
    assert await documents(lanes, third, "/old") == await documents(lanes, first, "/old")


async def test_page_that_has_changed_is_not_taken_for_what_its_variant_still_has(lanes: Lanes) -> None:
    """Its old document is another page's now, and found by its word when the page that it names is met."""
    lanes.html("/", "/lamp?a", "/lamp?b")
    lanes.site.html("/lamp?a", head=variant_head(lanes), text=TEXT)
    lanes.answers["/lamp?b"] = lanes.answers["/lamp?a"]
    lanes.answers["/lamp"] = lambda _: web.Response(status=404)
    first, _ = await lanes.whole(lanes.crawl())
    kept = next(path for path in await lanes.stored(first) if path != "/")
    (other,) = {"/lamp?a", "/lamp?b"} - {kept}
    same, asked = lanes.answers[other], asyncio.Event()
    lanes.site.html(kept, text="Something else.")
    changed = lanes.answers[kept]

    async def named(request: web.BaseRequest) -> web.StreamResponse:
        asked.set()
        return same(request)

    async def with_it(request: web.BaseRequest) -> web.StreamResponse:
        await asyncio.wait_for(asked.wait(), 60)
        return changed(request)

    lanes.answers["/lamp"], lanes.answers[kept] = named, with_it
    lanes.html("/", "/lamp?a", "/lamp?b", "/lamp")
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 2, "unchanged": 1, "duplicate": 1}
    rows, stored = await lanes.rows(second), await lanes.stored(second)
    assert set(stored) == {"/", kept}
    assert rows["/lamp"].source_id == rows[other].source_id == (await lanes.stored(first))[kept].id
