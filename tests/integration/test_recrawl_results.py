"""What a re-crawl says of the documents that it has replaced, and counts, on a real Postgres and a real site."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ke.contracts.cleanup import CleanupInput, ReplacedPage, ReplacedSources
from ke.contracts.jobs import Artifacts, CollectSpec, CrawlScope, Lane
from ke.runtime.pool import CpuPool
from ke.storage.database import Database
from ke.storage.jobs import get_job, lane_progress
from ke.storage.replaced import count_outdated, outdated, replaced_sources
from ke.storage.tables import jobs
from tests.integration.lanes import Lanes, running_site
from tests.integration.recrawling import a_site, again, previous, shared


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


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
    first, _ = await shared(lanes)
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
        for name in ("ix_pages_replaced", "ix_pages_source_id_job_id", "ix_pages_job_id_seq", "pk_sources")
        if name in plan
    }
    assert used == {"ix_pages_replaced", "ix_pages_source_id_job_id", "pk_sources"}, plan


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
