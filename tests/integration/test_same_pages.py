"""Which URLs are one page to a crawl, on a real Postgres and a real site: nothing that differs is lost."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from ke.contracts.jobs import CollectSpec
from ke.runtime.pool import CpuPool
from ke.storage.database import Database
from tests.integration.lanes import Lanes, running_site


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


def names(lanes: Lanes, path: str) -> str:
    """The element by which a page names its canonical URL."""
    return f'<link rel="canonical" href="{lanes.url}{path}">'


async def test_site_that_names_its_home_page_everywhere_loses_nothing(lanes: Lanes) -> None:
    """A common fault: every page says that its canonical URL is the home page. All are stored, and each once."""
    home = names(lanes, "/")
    lanes.html("/", *(f"/{number}" for number in range(20)), head=home)
    for number in range(20):
        lanes.html(f"/{number}", head=home)
    job, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.sources, outcome.counters.pages_duplicate) == (21, 0)
    rows = await lanes.rows(job)
    assert rows["/"].canonical_url is None
    assert {rows[f"/{number}"].canonical_url for number in range(20)} == {f"{lanes.url}/"}


async def test_home_page_is_no_canonical_of_empty_pages(lanes: Lanes) -> None:
    """Pages without text are not taken for one another by what they name: there is nothing to compare."""
    home = names(lanes, "/")
    for path, links in (("/", "<a href='/a'></a><a href='/b'></a>"), ("/a", "<i></i>"), ("/b", "<b></b>")):
        text = f"<html><head><title>App</title>{home}</head><body>{links}</body></html>"
        lanes.answers[path] = lambda _, text=text: web.Response(text=text, content_type="text/html")
    _, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.sources, outcome.counters.pages_duplicate) == (3, 0)


PAIR = ("/article", "/article?from=home")


@pytest.mark.parametrize("title", ["<title>Article</title>", ""])
@pytest.mark.parametrize("order", [PAIR, PAIR[::-1]])
async def test_variant_of_a_page_is_stored_once_whichever_comes_first(
    lanes: Lanes, order: tuple[str, str], title: str
) -> None:
    """Other bytes, as of a counter in the page, but the same title and text: stored once, counted as duplicate."""
    first, second = order
    text = f"{title}{names(lanes, '/article')}<p>The whole article, in a few words.</p><!-- {{number}} -->{{link}}"
    pages = {
        first: text.format(number=1, link=f"<a href='{second}'></a>"),
        second: text.format(number=2, link="<a href='/print'></a>"),
        "/print": text.format(number=3, link="").replace("few", "hundred"),
    }
    lanes.html("/", first)
    for path, page in pages.items():
        lanes.answers[path] = lambda _, page=page: web.Response(text=page, content_type="text/html")
    job, outcome = await lanes.whole(lanes.crawl())
    stored, row = await lanes.stored(job), (await lanes.rows(job))[second]
    assert set(stored) == {"/", first, "/print"}
    assert (row.state, row.reason) == ("duplicate", f"same as {lanes.url}{first}")
    assert row.source_id == stored[first].id
    assert outcome.counters.pages_duplicate == 1


async def test_variant_that_is_fetched_at_the_same_time_is_stored_once(lanes: Lanes) -> None:
    """Either may be the first in a batch; the other is its duplicate."""
    lanes.html("/", *PAIR)
    for number, path in enumerate(PAIR):
        page = f"<title>Article</title>{names(lanes, '/article')}<p>The whole article.</p><!-- {number} -->"
        lanes.answers[path] = lambda _, page=page: web.Response(text=page, content_type="text/html")
    job, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.sources, outcome.counters.pages_duplicate) == (2, 1)
    assert len({(await lanes.rows(job))[path].source_id for path in PAIR}) == 1


@pytest.mark.parametrize("canonical", ["/", "/gallery"])
async def test_pages_that_name_a_third_one_are_kept_whatever_they_say(lanes: Lanes, canonical: str) -> None:
    """That they name the same address does not make them one page: it may be a fault of all pages of the site."""
    head = names(lanes, canonical)
    lanes.html("/", "/a", "/b", head=head)
    for path in ("/a", "/b"):
        page = f"<title>Event</title>{head}<p>Sold out.</p><img src='{path}.png'>"
        lanes.answers[path] = lambda _, page=page: web.Response(text=page, content_type="text/html")
    job, outcome = await lanes.whole(lanes.crawl())
    assert set(await lanes.stored(job)) == {"/", "/a", "/b"}
    assert outcome.counters.pages_duplicate == 0


async def test_same_text_without_a_canonical_url_is_kept(lanes: Lanes) -> None:
    """Only bytes, an address or the page's own word make a duplicate; the text alone does not."""
    lanes.html("/", "/a", "/b")
    for number, path in enumerate(("/a", "/b")):
        page = f"<title>Same</title><p>The same words on both.</p><!-- {number} -->"
        lanes.answers[path] = lambda _, page=page: web.Response(text=page, content_type="text/html")
    _, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.sources, outcome.counters.pages_duplicate) == (3, 0)


async def test_canonical_url_is_followed_within_the_scope(lanes: Lanes) -> None:
    """A page that nothing else links to is found by it; one outside the scope is recorded only."""
    lanes.html("/", "/variant", "/out")
    lanes.html("/variant", head=names(lanes, "/article"))
    lanes.html("/article")
    lanes.html("/out", head='<link rel="canonical" href="https://elsewhere.example/">')
    job, _ = await lanes.whole(lanes.crawl())
    assert set(await lanes.pages(job)) == {"/", "/variant", "/out", "/article"}
    assert (await lanes.rows(job))["/out"].canonical_url == "https://elsewhere.example/"


async def test_parameters_are_dropped_where_the_job_says_so(lanes: Lanes) -> None:
    """Seeds, links, canonical URLs and where redirects lead lose the named parameters, and no others."""
    lanes.html("/", "/a?utm_source=x&page=2", "/a?page=2&utm_medium=y", "/a?page=3", "/moved?gclid=1")
    lanes.html("/a?page=2", head=names(lanes, "/a?page=2&utm_campaign=z"))
    lanes.html("/a?page=3")
    lanes.answers["/moved"] = lambda _: web.Response(status=302, headers={"Location": "/b?utm_source=moved"})
    lanes.html("/b")
    spec = CollectSpec(
        (f"{lanes.url}/?utm_source=seed", f"{lanes.url}/?gclid=2"),
        follow=True,
        scope=replace(lanes.crawl().scope, drop_params=("utm_*", "gclid")),
    )
    job, _ = await lanes.whole(spec)
    rows = await lanes.rows(job)
    assert set(rows) == {"/", "/a?page=2", "/a?page=3", "/moved"}
    assert rows["/a?page=2"].canonical_url is None
    assert rows["/moved"].final_url == f"{lanes.url}/b"
    assert set(await lanes.stored(job)) == {"/", "/a?page=2", "/a?page=3", "/b"}


async def test_no_parameter_is_dropped_unless_the_job_says_so(lanes: Lanes) -> None:
    """Only the site knows which parameters tell its pages apart."""
    lanes.html("/", "/a?utm_source=x", "/a")
    lanes.html("/a?utm_source=x")
    lanes.html("/a")
    job, outcome = await lanes.whole(lanes.crawl())
    assert set(await lanes.pages(job)) == {"/", "/a?utm_source=x", "/a"}
    assert outcome.counters.sources == 3


async def test_byte_identical_copies_are_stored_once_and_counted(lanes: Lanes) -> None:
    """However many addresses a document has, there is one source of it, and the pages say which."""
    lanes.html("/", *(f"/copy-{number}" for number in range(40)))
    for number in range(40):
        lanes.answers[f"/copy-{number}"] = lambda _: web.Response(text="<p>The same.</p>", content_type="text/html")
    job, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.pages_fetched, outcome.counters.pages_duplicate, outcome.counters.sources) == (2, 39, 2)
    assert len({row.source_id for path, row in (await lanes.rows(job)).items() if path != "/"}) == 1


async def test_type_that_cannot_be_read_is_skipped_unread(lanes: Lanes) -> None:
    """Its body is not waited for: the page is skipped with the reason, and the rest goes on."""

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "video/mp4"})
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        except (ConnectionError, OSError):
            return response

    lanes.html("/", "/film", "/fine")
    lanes.answers["/film"] = endless
    lanes.html("/fine")
    job, outcome = await lanes.whole(lanes.crawl())
    assert (await lanes.pages(job))["/film"] == ("skipped", "documents of type video/mp4 cannot be read")
    assert (outcome.counters.pages_fetched, outcome.counters.pages_skipped) == (2, 1)
    assert outcome.counters.bytes < 10_000
