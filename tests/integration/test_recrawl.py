"""A job that crawls again what an earlier one has crawled, on a real Postgres and a real site."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from aiohttp import web

from ke.contracts.activities import CloseJob, CollectSlice
from ke.contracts.jobs import Artifacts, CollectSpec, CrawlScope, JobStatus, Reading
from ke.runtime.pool import CpuPool
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, row_counts
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.tables import jobs, pages, sources
from tests.integration.lanes import Lanes, running_site
from tests.integration.recrawling import a_site, again, previous


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


async def test_what_is_unchanged_is_not_stored_again(lanes: Lanes) -> None:
    """By a 304 or by its bytes: the page points to the document of the earlier job, and its links are followed."""
    a_site(lanes)
    first, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.pages_fetched, outcome.counters.pages_failed) == (5, 1)
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 5, "failed": 1}
    assert await lanes.stored(second) == {}
    stored, rows = await lanes.stored(first), await lanes.rows(second)
    assert {path: rows[path].source_id for path in stored} == {path: row.id for path, row in stored.items()}
    statuses = {path: (row.http_status, row.bytes) for path, row in rows.items()}
    assert (statuses["/tagged"], statuses["/dated"]) == ((304, 0), (304, 0))
    assert (statuses["/plain"][0], statuses["/plain"][1] > 0) == (200, True)
    asked = [path for path in lanes.asked if path != "/robots.txt"]
    assert sorted(asked) == sorted({*stored, "/broken"})


async def test_only_what_has_changed_is_stored(lanes: Lanes) -> None:
    """A page that says something else is stored by the new job, and what it links to newly is found."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.versioned("/tagged", "/deep", "/new", text="It has another tag.", etag='"2"')
    lanes.html("/new")
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 2, "unchanged": 4}
    stored = await lanes.stored(second)
    assert set(stored) == {"/tagged", "/new"}
    assert "another tag" in stored["/tagged"].text
    assert "another" not in (await lanes.stored(first))["/tagged"].text


@pytest.mark.parametrize("status", [404, 410])
async def test_what_is_not_there_any_more_is_told_and_no_failure(lanes: Lanes, status: int) -> None:
    """It is `gone`, with the document that it had, and without a dead letter."""
    a_site(lanes)
    lanes.html("/tagged", "/deep")
    first, _ = await lanes.whole(lanes.crawl())
    lanes.answers["/plain"] = lambda _: web.Response(status=status)
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 4, "gone": 1}
    row = (await lanes.rows(second))["/plain"]
    assert (row.state, row.reason) == ("gone", f"HTTP {status}")
    assert row.source_id == (await lanes.stored(first))["/plain"].id


async def test_page_that_is_gone_stays_so_where_a_link_leads_to_it(lanes: Lanes) -> None:
    """It is no failure of the next re-crawl either, and names the document that it had as long as that is there."""
    a_site(lanes)
    lanes.html("/tagged", "/deep")
    first, _ = await lanes.whole(lanes.crawl())
    source = (await lanes.stored(first))["/plain"].id
    del lanes.answers["/plain"]
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 4, "gone": 1}
    lanes.site.html("/", "/tagged", "/dated", "/plain", text="It links to it still.")
    third, numbers = await again(lanes, second)
    assert numbers == {"fetched": 1, "unchanged": 3, "gone": 1}
    assert (await lanes.rows(third))["/plain"].previous_source_id == source
    lanes.html("/plain")
    lanes.site.html("/", "/tagged", "/dated", "/plain", text="It is back.")
    fourth, numbers = await again(lanes, third)
    assert numbers == {"fetched": 1, "unchanged": 4}
    assert set(await previous(lanes, fourth, "changed")) == {"/"}
    assert (await lanes.rows(fourth))["/plain"].source_id == source


async def test_link_that_was_mended_is_no_dead_letter_any_more(lanes: Lanes) -> None:
    """The page that had it has changed, and leads elsewhere now: nobody asks for it, by whichever re-crawl."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.versioned("/tagged", "/deep", text="The link is mended.", etag='"2"')
    for _ in range(2):
        first, numbers = await again(lanes, first)
        assert "failed" not in numbers
        assert ("/broken" in lanes.asked, "/broken" in await lanes.rows(first)) == (False, False)


async def test_link_of_a_page_that_is_gone_goes_with_it(lanes: Lanes) -> None:
    """There is no page left to mend."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    del lanes.answers["/tagged"]
    _, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 4, "gone": 1}


async def test_link_that_is_as_broken_as_it_was_is_told_with_its_page(lanes: Lanes) -> None:
    """Of a page that has changed and still has it, and of one that is unchanged, which has not told its links."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    for text, tag in (("It has another tag.", "2"), ("It has another tag.", "2")):
        lanes.site.versioned("/tagged", "/deep", "/broken", text=text, etag=f'"{tag}"')
        first, numbers = await again(lanes, first)
        assert numbers["failed"] == 1
        rows = await lanes.rows(first)
        assert rows["/broken"].found_on == rows["/tagged"].id
    lanes.html("/broken")
    _, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 5, "fetched": 1}


async def test_link_of_a_page_that_cannot_be_had_is_asked_for(lanes: Lanes) -> None:
    """What that page says now is not known; nor is it of one that the re-crawl has not in its frontier."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    answer = lanes.answers["/tagged"]
    lanes.answers["/tagged"] = lambda _: web.Response(status=403)
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 4, "failed": 2}
    assert "/broken" in await lanes.rows(second)
    lanes.answers["/tagged"] = answer
    async with lanes.database.transaction() as connection:
        found_on = sa.update(pages).where(pages.c.url == f"{lanes.url}/broken").values(found_on=uuid.uuid4())
        await connection.execute(found_on)
    _, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 5, "failed": 1}


async def test_what_a_sitemap_names_no_more_is_asked_for_no_more(lanes: Lanes) -> None:
    """If it was broken; where the re-crawl reads no sitemap, nothing tells, and it is."""
    entry = f"<urlset><url><loc>{lanes.url}/only-there</loc></url></urlset>"
    lanes.html("/")
    lanes.answers["/sitemap.xml"] = lambda _: web.Response(text=entry, content_type="application/xml")
    spec = replace(lanes.crawl(), scope=CrawlScope())
    first, outcome = await lanes.whole(spec)
    assert (outcome.counters.pages_fetched, outcome.counters.pages_failed) == (1, 1)
    _, numbers = await again(lanes, first, spec)
    assert numbers == {"unchanged": 1, "failed": 1}
    del lanes.answers["/sitemap.xml"]
    _, numbers = await again(lanes, first, spec)
    assert numbers == {"unchanged": 1}
    _, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 1, "failed": 1}


async def test_broken_link_is_not_forgotten_where_a_recrawl_ends_early(lanes: Lanes) -> None:
    """At a limit it is skipped like all that is left; of one that was cancelled whole pages are fetched."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, numbers = await again(lanes, first, lanes.crawl(max_pages=3))
    assert (numbers, (await lanes.rows(second))["/broken"].state) == ({"unchanged": 3, "skipped": 3}, "skipped")
    _, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 5, "failed": 1}
    third, _ = await again(lanes, first)
    async with lanes.database.transaction() as connection:
        mine = pages.c.job_id == uuid.UUID(third)
        await connection.execute(sa.delete(pages).where(mine, pages.c.url == f"{lanes.url}/broken"))
        await connection.execute(sa.update(jobs).where(jobs.c.id == uuid.UUID(third)).values(status="cancelled"))
    fourth, numbers = await again(lanes, third)
    assert numbers == {"unchanged": 5, "failed": 1}
    assert (await lanes.rows(fourth))["/tagged"].http_status == 200


async def test_page_that_is_gone_is_asked_for_as_long_as_its_document_is_stored(lanes: Lanes) -> None:
    """It may come back, where a page that is as it was leads to it; once it is forgotten it is no finding any more."""
    a_site(lanes)
    lanes.html("/tagged", "/deep")
    first, _ = await lanes.whole(lanes.crawl())
    lanes.html("/", "/tagged", "/dated")
    del lanes.answers["/plain"]
    second, _ = await again(lanes, first)
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 4, "gone": 1}
    plain = (await lanes.stored(first))["/plain"].id
    assert await previous(lanes, third, "gone") == {"/plain": plain}
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.delete(sources).where(sources.c.id == plain))
    for _ in range(3):
        third, numbers = await again(lanes, third)
        assert numbers == {"unchanged": 4, "skipped": 1}
        assert (await lanes.rows(third))["/plain"].reason == "gone before: HTTP 404"
    lanes.html("/plain")
    _, numbers = await again(lanes, third)
    assert numbers == {"unchanged": 4, "fetched": 1}


async def test_page_that_was_forgotten_is_asked_for_where_a_link_may_lead_to_it(lanes: Lanes) -> None:
    """A page that has changed tells its links; one that is unchanged has not; of one that is gone there are none."""
    a_site(lanes)
    lanes.html("/tagged", "/deep")
    first, _ = await lanes.whole(lanes.crawl())
    del lanes.answers["/deep"]
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 4, "gone": 1}
    async with lanes.database.transaction() as connection:
        deep = (await lanes.stored(first))["/deep"].id
        await connection.execute(sa.delete(sources).where(sources.c.id == deep))
    lanes.site.html("/tagged", text="It links to it no more.")
    third, numbers = await again(lanes, second)
    assert (numbers, "/deep" in lanes.asked) == ({"unchanged": 3, "fetched": 1}, False)
    lanes.site.html("/tagged", "/deep", text="It does again.")
    _, numbers = await again(lanes, third)
    assert numbers == {"unchanged": 3, "fetched": 1, "skipped": 1}


async def test_page_that_is_back_as_it_was_is_unchanged(lanes: Lanes) -> None:
    """With the document that it had, and its links; not so where that was read in another way."""
    a_site(lanes)
    lanes.html("/tagged", "/deep")
    first, _ = await lanes.whole(lanes.crawl())
    before = {path: row.id for path, row in (await lanes.stored(first)).items()}
    answers = {path: lanes.answers.pop(path) for path in ("/tagged", "/deep")}
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 3, "gone": 2}
    lanes.answers.update(answers)
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 5}
    assert (await lanes.rows(third))["/tagged"].source_id == before["/tagged"]
    fast = replace(lanes.crawl(), reading=Reading.FAST)
    for path in answers:
        del lanes.answers[path]
    other, _ = await again(lanes, first, fast)
    lanes.answers.update(answers)
    _, numbers = await again(lanes, other, fast)
    assert numbers == {"unchanged": 3, "fetched": 2}


async def test_recrawl_of_a_recrawl_points_to_the_first_documents(lanes: Lanes) -> None:
    """Validators and documents are handed on from job to job."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    third, numbers = await again(lanes, second)
    assert numbers == {"unchanged": 5, "failed": 1}
    rows = await lanes.rows(third)
    assert rows["/tagged"].http_status == 304
    assert rows["/tagged"].source_id == (await lanes.stored(first))["/tagged"].id


async def test_page_whose_document_was_deleted_is_fetched_anew(lanes: Lanes) -> None:
    """Without its document a page is as good as unknown: it is asked for without conditions, and stored."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    async with lanes.database.transaction() as connection:
        tagged = (await lanes.stored(first))["/tagged"].id
        await connection.execute(sa.delete(sources).where(sources.c.id == tagged))
    third, numbers = await again(lanes, second)
    assert numbers == {"fetched": 1, "unchanged": 4, "failed": 1}
    assert set(await lanes.stored(third)) == {"/tagged"}


async def test_cleanup_that_has_begun_makes_documents_unknown(lanes: Lanes) -> None:
    """What is about to be deleted is nothing that a page may point to."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    async with lanes.database.transaction() as connection:
        cleaning = sa.update(jobs).where(jobs.c.id == uuid.UUID(first)).values(artifacts=Artifacts.CLEANING.value)
        await connection.execute(cleaning)
    _, numbers = await again(lanes, second)
    assert numbers == {"fetched": 5, "failed": 1}


async def test_document_deleted_between_request_and_commit_is_fetched_in_the_end(lanes: Lanes) -> None:
    """A page is never `unchanged` against what is not there at its commit."""
    lanes.site.versioned("/", text="It has a tag.", etag='"1"')
    first, _ = await lanes.whole(lanes.crawl())
    answer = lanes.answers["/"]

    async def deletes_first(request: web.BaseRequest) -> web.StreamResponse:
        async with lanes.database.transaction() as connection:
            await connection.execute(sa.delete(sources).where(sources.c.job_id == uuid.UUID(first)))
        return answer(request)  # type: ignore[return-value]

    lanes.answers["/"] = deletes_first
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1}
    assert [path for path in lanes.asked if path == "/"] == ["/", "/"]
    assert set(await lanes.stored(second)) == {"/"}


async def test_not_modified_of_another_page_is_not_believed(lanes: Lanes) -> None:
    """A page that now redirects to one with the same tag has changed, though the answer is 304."""
    lanes.site.versioned("/", "/moved", text="The first page.", etag='"0"')
    lanes.site.versioned("/moved", text="It was here.", etag='"1"')
    lanes.site.versioned("/other", text="It is another page.", etag='"1"')
    first, _ = await lanes.whole(lanes.crawl())
    lanes.answers["/moved"] = lambda _: web.Response(status=302, headers={"Location": "/other"})
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1}
    assert "another page" in (await lanes.stored(second))["/other"].text
    assert (await lanes.rows(second))["/moved"].final_url == f"{lanes.url}/other"


async def test_not_modified_that_was_not_asked_for_is_a_failure(lanes: Lanes) -> None:
    """A server that answers 304 to a request without conditions gives no page, and none is stored."""
    lanes.answers["/"] = lambda _: web.Response(status=304)
    job, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.pages_failed, outcome.counters.sources) == (1, 0)
    assert (await lanes.pages(job))["/"][0] == "failed"


async def test_wider_scope_takes_the_links_of_unchanged_pages(lanes: Lanes) -> None:
    """Where the earlier job left links aside, pages are fetched whole: a 304 has no links."""
    a_site(lanes)
    spec = lanes.crawl(max_depth=1)
    first, outcome = await lanes.whole(spec)
    assert outcome.counters.pages_fetched == 4
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 4, "failed": 1}
    assert set(await lanes.stored(second)) == {"/deep"}
    assert (await lanes.rows(second))["/tagged"].http_status == 200
    narrow = replace(lanes.crawl(), scope=replace(spec.scope, exclude=("/deep",)))
    third, _ = await lanes.whole(narrow)
    fourth, numbers = await again(lanes, third)
    assert numbers == {"fetched": 1, "unchanged": 4, "failed": 1}
    assert set(await lanes.stored(fourth)) == {"/deep"}


async def test_depth_that_was_lowered_meanwhile_counts(lanes: Lanes) -> None:
    """Links that the earlier job left aside once its `max_depth` was lowered are followed, a 304 or not."""
    a_site(lanes)
    piece = await lanes.job(lanes.crawl())
    lower = replace(piece, spec=replace(piece.spec, limits=replace(piece.spec.limits, max_depth=1)))
    assert not (await lanes.run(replace(piece, max_pages=1))).done
    assert (await lanes.run(lower)).done
    first = await end_job(lanes.database, CloseJob(piece.job_id))
    assert first.counters.pages_fetched == 4
    second, numbers = await again(lanes, piece.job_id)
    assert numbers == {"fetched": 1, "unchanged": 4, "failed": 1}
    assert set(await lanes.stored(second)) == {"/deep"}


async def test_depth_that_was_raised_meanwhile_is_not_relied_on(lanes: Lanes) -> None:
    """Pages from before may lack links, so beyond the first `max_depth` whole pages are fetched."""
    a_site(lanes)
    piece = await lanes.job(lanes.crawl(max_depth=1))
    higher = replace(piece, spec=lanes.crawl(max_depth=5))
    assert (await lanes.run(higher)).done
    await end_job(lanes.database, CloseJob(piece.job_id))
    second, numbers = await again(lanes, piece.job_id)
    assert numbers == {"unchanged": 5, "failed": 1}
    assert (await lanes.rows(second))["/tagged"].http_status == 200


async def test_unchanged_pages_count_against_the_limit(lanes: Lanes) -> None:
    """A re-crawl asks for no more pages than a crawl may fetch."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    _, numbers = await again(lanes, first, lanes.crawl(max_pages=3))
    assert numbers["unchanged"] == 3
    assert len([path for path in lanes.asked if path != "/robots.txt"]) == 3


async def test_scrape_asks_again_for_its_own_urls_only(lanes: Lanes) -> None:
    """A scrape with an earlier job fetches what it names, and nothing else that the other has seen."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    urls = tuple(f"{lanes.url}{path}" for path in ("/tagged", "/new"))
    lanes.html("/new")
    second, numbers = await again(lanes, first, CollectSpec(urls, follow=False))
    assert numbers == {"fetched": 1, "unchanged": 1}
    assert set(await lanes.pages(second)) == {"/tagged", "/new"}


async def test_copies_stay_unchanged(lanes: Lanes) -> None:
    """Pages that were duplicates are unchanged as well, by the document of their twin."""
    lanes.html("/", "/a", "/b")
    for path in ("/a", "/b"):
        lanes.site.html(path, text="The same.")
        page = lanes.answers["/a"]
        lanes.answers[path] = page
    first, outcome = await lanes.whole(lanes.crawl())
    assert (outcome.counters.pages_fetched, outcome.counters.pages_duplicate) == (2, 1)
    second, numbers = await again(lanes, first)
    assert numbers == {"unchanged": 3}
    rows = await lanes.rows(second)
    assert rows["/a"].source_id == rows["/b"].source_id


async def test_recrawl_that_is_broken_off_goes_on(lanes: Lanes) -> None:
    """A slice that ends early leaves the rest to the next one, and every page is asked for once."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    lanes.asked.clear()
    piece = replace(await lanes.job(replace(lanes.crawl(), recrawl_of=first)), max_pages=2)
    done = 0
    while not (report := await lanes.run(piece)).done:
        done += 1
    assert done >= 2
    assert (report.counters.pages_unchanged, report.counters.pages_failed) == (5, 1)
    asked = [path for path in lanes.asked if path != "/robots.txt"]
    assert len(asked) == len(set(asked)) == 6


async def test_job_that_is_crawled_again_is_not_cleaned_meanwhile(lanes: Lanes) -> None:
    """The re-crawl is in the way of a cleanup of the earlier job for as long as it is active, also at third hand."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    for earlier in (second, first):
        piece = await lanes.job(replace(lanes.crawl(), recrawl_of=earlier))
        await _in_the_way(lanes, piece, first)


async def _in_the_way(lanes: Lanes, piece: CollectSlice, first: str) -> None:
    async with lanes.database.transaction() as connection:
        assert await active_dependents(connection, uuid.UUID(first)) == [uuid.UUID(piece.job_id)]
        ended = {"status": JobStatus.FAILED.value, "completed_at": sa.func.now(), "result": {}}
        await connection.execute(sa.update(jobs).where(jobs.c.id == uuid.UUID(piece.job_id)).values(ended))
        assert await active_dependents(connection, uuid.UUID(first)) == []


@pytest.mark.parametrize("reading", [Reading.FAST, Reading.THOROUGH])
async def test_page_that_is_to_be_read_in_another_way_is_stored_anew(lanes: Lanes, reading: Reading) -> None:
    """It is not asked for on condition, and the same bytes make another text."""
    a_site(lanes)
    first, _ = await lanes.whole(replace(lanes.crawl(), reading=Reading.FAST))
    second, numbers = await again(lanes, first, replace(lanes.crawl(), reading=reading))
    number = "unchanged" if reading is Reading.FAST else "fetched"
    assert numbers == {number: 5, "failed": 1}
    assert len(await lanes.stored(second)) == (0 if reading is Reading.FAST else 5)


async def test_forgotten_source_leaves_no_page_of_a_recrawl(lanes: Lanes) -> None:
    """What points to the document in another job's frontier goes with it, and is counted."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    source = (await lanes.stored(first))["/tagged"].id
    target = CleanupTarget(uuid.UUID(first), source)
    async with lanes.database.transaction() as connection:
        found = await connection.execute(sa.select(pages.c.job_id).where(await target.pages(connection)))
        assert sorted(map(str, found.scalars())) == sorted([first, second])
        assert (await row_counts(connection, target)).pages == 2


async def test_earlier_job_that_is_deleted_makes_all_pages_new(lanes: Lanes) -> None:
    """A re-crawl whose earlier job has lost its frontier is a crawl."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.delete(pages).where(pages.c.job_id == uuid.UUID(first)))
        await connection.execute(sa.delete(sources).where(sources.c.job_id == uuid.UUID(first)))
        values = {"deleted_at": sa.func.now(), "params": {}, "artifacts": Artifacts.CLEANED.value}
        await connection.execute(sa.update(jobs).where(jobs.c.id == uuid.UUID(first)).values(values))
    _, numbers = await again(lanes, first)
    assert numbers == {"fetched": 5, "failed": 1}


async def test_site_that_its_seed_leads_to_is_crawled_again(lanes: Lanes) -> None:
    """A seed that redirects to another host, as to one with `www`: the pages there are in reach from the start."""
    async with running_site() as www:
        lanes.others.append(www)
        lanes.answers["/"] = lambda _: web.Response(status=301, headers={"Location": f"{www.url}/"})
        www.versioned("/", "/a", text="The home page.", etag='"1"')
        www.versioned("/a", text="The other page.", etag='"2"')
        first, outcome = await lanes.whole(lanes.crawl())
        assert outcome.counters.pages_fetched == 2
        _, numbers = await again(lanes, first)
        assert numbers == {"unchanged": 2}
        assert [path for path in www.asked if path == "/a"] == ["/a", "/a"]
