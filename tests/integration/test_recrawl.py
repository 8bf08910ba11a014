"""A job that crawls again what an earlier one has crawled, on a real Postgres and a real site."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web
from sqlalchemy.dialects import postgresql

from ke.contracts.activities import CloseJob, CollectSlice
from ke.contracts.cleanup import CleanupInput, ReplacedPage, ReplacedSources
from ke.contracts.jobs import Artifacts, CollectSpec, CrawlScope, JobStatus, Lane, Reading
from ke.runtime.pool import CpuPool
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import active_dependents, row_counts
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import get_job, lane_progress
from ke.storage.listing import list_pages
from ke.storage.replaced import count_outdated, outdated, replaced_sources
from ke.storage.tables import jobs, pages, sources
from tests.integration.lanes import Lanes, running_site


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


def a_site(lanes: Lanes) -> None:
    """Five pages: one with an ETag, one with a date, two with neither; one links to a page that is not there."""
    lanes.site.html("/", "/tagged", "/dated", "/plain")
    lanes.site.versioned("/tagged", "/deep", "/broken", text="It has a tag.", etag='"1"')
    lanes.site.versioned("/dated", text="It has a date.", modified="Mon, 02 Nov 2026 10:00:00 GMT")
    lanes.html("/plain")
    lanes.html("/deep")


async def again(lanes: Lanes, earlier: str, spec: CollectSpec | None = None) -> tuple[str, dict[str, int]]:
    """Crawls the earlier job's pages again; gives the new job and its numbers of pages."""
    lanes.asked.clear()
    lanes.site.requests.clear()
    job, outcome = await lanes.whole(replace(spec or lanes.crawl(), recrawl_of=earlier))
    names = ("fetched", "unchanged", "gone", "failed", "skipped", "duplicate")
    counted = {name: getattr(outcome.counters, f"pages_{name}") for name in names}
    return job, {name: number for name, number in counted.items() if number}


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
    assert numbers == {"fetched": 2, "unchanged": 3}
    assert set(await previous(lanes, fourth, "changed")) == {"/", "/plain"}


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
    """It may come back, where a page that is as it was leads to it; once it is forgotten something must link to it."""
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
    _, numbers = await again(lanes, third)
    assert numbers == {"unchanged": 4}
    assert "/plain" not in lanes.asked


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


async def previous(lanes: Lanes, job: str, state: str) -> dict[str, uuid.UUID | None]:
    """Path to earlier document of a job's pages in a state, as they are listed."""
    async with lanes.database.transaction() as connection:
        rows = await list_pages(connection, uuid.UUID(job), limit=100, state=state)
    assert all(row.previous_is_stored is (None if row.previous_source_id is None else True) for row in rows)
    return {row.url.removeprefix(lanes.url): row.previous_source_id for row in rows}


async def replaced(
    lanes: Lanes, job: str, *, after: int = 0, limit: int = 100, back: int | None = None
) -> ReplacedSources:
    async with lanes.database.transaction() as connection:
        return await replaced_sources(connection, ReplacedPage(job, after, limit, back))


async def changed_site(lanes: Lanes) -> tuple[str, str, dict[str, uuid.UUID]]:
    """A re-crawl that finds a changed, a gone and a new page; gives both jobs and the earlier documents."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    before = {path: row.id for path, row in (await lanes.stored(first)).items()}
    lanes.site.versioned("/tagged", "/deep", "/new", text="It has another tag.", etag='"2"')
    lanes.html("/new")
    del lanes.answers["/plain"]
    second, _ = await again(lanes, first)
    return first, second, before


async def test_page_that_changed_or_is_gone_names_the_document_it_had(lanes: Lanes) -> None:
    """And no other page does; they can be listed by what has become of them."""
    _, second, before = await changed_site(lanes)
    assert await previous(lanes, second, "changed") == {"/tagged": before["/tagged"]}
    assert await previous(lanes, second, "gone") == {"/plain": before["/plain"]}
    assert await previous(lanes, second, "new") == {"/new": None}
    unchanged = await previous(lanes, second, "unchanged")
    assert unchanged == dict.fromkeys(("/", "/dated", "/deep"))


async def test_documents_of_changed_and_gone_pages_are_replaced(lanes: Lanes) -> None:
    """Each is named with the job that owns it, and a list is gone on with where it was left off."""
    first, second, before = await changed_site(lanes)
    rows = await lanes.rows(second)
    expected = {
        CleanupInput(first, source_id=str(before[path]), replaced_by=str(rows[path].id), recrawl_id=second)
        for path in ("/tagged", "/plain")
    }
    whole = await replaced(lanes, second)
    assert set(whole.cleanups) == expected
    one = await replaced(lanes, second, limit=1)
    rest = await replaced(lanes, second, after=one.after, back=one.back)
    assert (*one.cleanups, *rest.cleanups) == whole.cleanups
    none = await replaced(lanes, second, after=rest.after, back=rest.back)
    assert none == ReplacedSources((), rest.after, 0, is_more=False)


async def test_document_that_another_page_still_has_is_not_replaced(lanes: Lanes) -> None:
    """Two addresses had it, and one of them has it still."""
    lanes.html("/", "/a", "/b")
    lanes.site.html("/a", text="The same on both.")
    lanes.answers["/b"] = lanes.answers["/a"]
    first, outcome = await lanes.whole(lanes.crawl())
    assert outcome.counters.pages_duplicate == 1
    lanes.site.html("/a", text="Not the same any more.")
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 2}
    assert set(await previous(lanes, second, "changed")) == {"/a"}
    assert (await replaced(lanes, second)).cleanups == ()


@pytest.mark.parametrize("values", [{"status": "cancelled"}, {"artifacts": "cleaning"}], ids=str)
async def test_recrawl_that_did_not_end_well_has_replaced_nothing(lanes: Lanes, values: dict[str, str]) -> None:
    """Nor one whose own documents are deleted: the earlier one may be the last."""
    _, second, _ = await changed_site(lanes)
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == uuid.UUID(second)).values(**values))
    assert (await replaced(lanes, second)).cleanups == ()


async def test_number_of_pages_in_common_is_told(lanes: Lanes) -> None:
    """Of crawls and of scrapes; of a scope in which no earlier page is, it is 0."""
    a_site(lanes)
    first, _ = await lanes.whole(lanes.crawl())
    lanes.html("/elsewhere", "/elsewhere/a")
    lanes.html("/elsewhere/a")
    other = replace(lanes.crawl("/elsewhere"), scope=CrawlScope(include=("/elsewhere",), sitemaps=False))
    scrape = CollectSpec((f"{lanes.url}/dated", f"{lanes.url}/elsewhere"), follow=False)
    found = []
    for spec in (lanes.crawl(), other, scrape):
        job, _ = await again(lanes, first, spec)
        async with lanes.database.transaction() as connection:
            found.append((await lane_progress(connection, uuid.UUID(job), Lane.COLLECT)).earlier_pages)
    assert found == [6, 0, 1]
    async with lanes.database.transaction() as connection:
        assert (await lane_progress(connection, uuid.UUID(first), Lane.COLLECT)).earlier_pages is None


async def result_of(lanes: Lanes, job: str) -> dict[str, Any]:
    """What the row of an ended job tells."""
    async with lanes.database.transaction() as connection:
        row = await get_job(connection, uuid.UUID(job))
    assert row.result is not None
    return row.result


async def test_result_counts_what_became_of_pages(lanes: Lanes) -> None:
    """New and changed apart, which `pages_fetched` and `pages_duplicate` have together; of a first crawl neither."""
    first, second, _ = await changed_site(lanes)
    done = await result_of(lanes, second)
    names = ("pages_new", "pages_changed", "pages_unchanged", "pages_gone", "pages_fetched")
    assert {name: done[name] for name in names} == dict(zip(names, (1, 1, 3, 1, 2), strict=True))
    assert not {"pages_new", "pages_changed"} & set(await result_of(lanes, first))


async def test_changed_copies_count_as_changed(lanes: Lanes) -> None:
    """A duplicate that had a document before has changed as well."""
    lanes.html("/", "/a", "/b")
    lanes.html("/a")
    lanes.html("/b")
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.html("/a", text="The same now.")
    lanes.answers["/b"] = lanes.answers["/a"]
    second, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1, "duplicate": 1}
    done = await result_of(lanes, second)
    assert (done["pages_new"], done["pages_changed"], done["pages_duplicate"]) == (0, 2, 1)


async def test_outdated_pages_are_counted(lanes: Lanes) -> None:
    """Those whose earlier document is still found; not beyond what is asked for, and none whose job is cleaned up."""
    first, second, _ = await changed_site(lanes)
    async with lanes.database.transaction() as connection:
        assert [await count_outdated(connection, uuid.UUID(second), most) for most in (10, 1)] == [2, 1]
        assert await count_outdated(connection, uuid.UUID(first), 10) == 0
        cleaning = sa.update(jobs).where(jobs.c.id == uuid.UUID(first)).values(artifacts=Artifacts.CLEANING.value)
        await connection.execute(cleaning)
        assert await count_outdated(connection, uuid.UUID(second), 10) == 0


async def test_document_that_another_page_has_is_not_outdated(lanes: Lanes) -> None:
    """What two pages said alike one of them may say still; once that is gone or has changed too, both are counted."""
    lanes.site.html("/", "/a", "/b")
    lanes.site.html("/a", text="The same.")
    lanes.answers["/b"] = lanes.answers["/a"]
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.html("/a", text="Another text.")
    second, numbers = await again(lanes, first)
    assert (numbers, set(await previous(lanes, second, "changed"))) == ({"fetched": 1, "unchanged": 2}, {"/a"})
    del lanes.answers["/b"]
    third, numbers = await again(lanes, first)
    assert numbers == {"fetched": 1, "unchanged": 1, "gone": 1}
    async with lanes.database.transaction() as connection:
        assert [await count_outdated(connection, uuid.UUID(job), 10) for job in (second, third)] == [0, 2]


async def test_outdated_pages_are_counted_by_their_documents(lanes: Lanes) -> None:
    """By the indexes, also of a new job of which the statistics tell nothing: a job's pages are not read for each."""
    job = uuid.UUID((await lanes.job(lanes.crawl())).job_id)
    statement = outdated(job, 10_000).compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.text("ANALYZE pages"))
        await connection.execute(sa.text(_MANY), {"job": job})
        plan = "\n".join((await connection.exec_driver_sql(f"EXPLAIN {statement}")).scalars())
        await connection.rollback()
    used = {
        name
        for name in ("ix_pages_replaced", "ix_pages_source_id", "ix_pages_job_id_seq", "pk_sources")
        if name in plan
    }
    assert used == {"ix_pages_replaced", "ix_pages_source_id", "pk_sources"}, plan


_MANY = """
INSERT INTO pages (id, job_id, url, depth, state, source_id, previous_source_id)
SELECT gen_random_uuid(), :job, 'https://many.example/' || number, 0, 'fetched', gen_random_uuid(), gen_random_uuid()
FROM generate_series(1, 20000) number
"""


async def test_crawl_that_ended_at_a_limit_goes_on_as_a_recrawl_under_a_greater_one(lanes: Lanes) -> None:
    """What was fetched is unchanged, and what was left is fetched: every page is there in the end, once."""
    a_site(lanes)
    first, outcome = await lanes.whole(lanes.crawl(max_pages=3))
    assert (outcome.counters.pages_fetched, (await result_of(lanes, first))["limits_reached"]) == (3, ["max_pages"])
    second, numbers = await again(lanes, first, lanes.crawl(max_pages=6))
    assert numbers == {"fetched": 2, "unchanged": 3, "failed": 1}
    stored = [*(await lanes.stored(first)), *(await lanes.stored(second))]
    assert sorted(stored) == ["/", "/dated", "/deep", "/plain", "/tagged"]
