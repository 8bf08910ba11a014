"""Which documents a re-crawl has replaced: those that no page has any more, and that are found in a new form."""

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from aiohttp import web

from ke.contracts.cleanup import CleanupInput, ReplacedPage, ReplacedSources
from ke.contracts.jobs import CollectSpec
from ke.runtime.pool import CpuPool
from ke.storage.database import Database
from ke.storage.replaced import is_replaced, replaced_sources
from ke.storage.tables import extraction_tasks, extractions, jobs, pages, records, sources
from tests.integration.lanes import Lanes, running_site
from tests.integration.recrawling import shared
from tests.seeding import COLLECTION, _extraction, _record


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


async def again(lanes: Lanes, earlier: str, spec: CollectSpec | None = None) -> str:
    """Crawls the earlier job's pages again; gives the new job."""
    job, _ = await lanes.whole(replace(spec or lanes.crawl(), recrawl_of=earlier))
    return job


async def listed(lanes: Lanes, job: str, limit: int = 100) -> list[CleanupInput]:
    """All of a re-crawl's replaced documents, as many at once."""
    found: list[CleanupInput] = []
    part = ReplacedSources((), 0, is_more=True)
    async with lanes.database.transaction() as connection:
        while part.is_more:
            part = await replaced_sources(connection, ReplacedPage(job, part.after, limit, part.back))
            found += part.cleanups
    return found


async def replaced(lanes: Lanes, job: str) -> list[uuid.UUID]:
    return [uuid.UUID(cleanup.source_id) for cleanup in await listed(lanes, job)]


def forbidden(lanes: Lanes, path: str = "/b") -> CollectSpec:
    lanes.answers[path] = lambda _: web.Response(status=403)
    return lanes.crawl()


def left_out(lanes: Lanes) -> CollectSpec:
    return lanes.crawl(max_pages=2)


async def check(lanes: Lanes, job: str, expected: list[tuple[uuid.UUID, str]]) -> None:
    """A re-crawl's replaced documents are these, each with the job whose page tells so, one by one or all at once."""
    found = await listed(lanes, job, 1)
    assert found == await listed(lanes, job)
    async with lanes.database.transaction() as connection:
        assert all([await is_replaced(connection, cleanup) for cleanup in found])
        pages_of = sa.select(pages.c.job_id).where(pages.c.id == sa.bindparam("page"))
        told = [
            (c.source_id, (await connection.execute(pages_of, {"page": c.replaced_by})).scalar_one()) for c in found
        ]
    assert told == [(str(source), uuid.UUID(page_of)) for source, page_of in expected]


async def test_what_the_jobs_before_have_replaced_is_forgotten_too(lanes: Lanes) -> None:
    """As far back as a re-crawl goes: nobody had asked for it there."""
    first, one = await single(lanes)
    second = await again(lanes, first)
    two = (await lanes.stored(second))["/"].id
    third = await again(lanes, second)
    assert (await lanes.rows(third))["/"].state == "unchanged"
    await check(lanes, third, [(one, second)])
    lanes.site.html("/", text="As it will be.")
    fourth = await again(lanes, third)
    await check(lanes, fourth, [(one, second), (two, fourth)])


async def test_what_the_jobs_before_found_gone_is_forgotten_too(lanes: Lanes) -> None:
    """Also where it has changed before it went, and where it is not asked for any more."""
    lanes.html("/", "/a", "/b")
    for path in ("/a", "/b"):
        lanes.html(path)
    first, _ = await lanes.whole(lanes.crawl())
    before = {path: row.id for path, row in (await lanes.stored(first)).items()}
    lanes.site.html("/a", text="Not the same any more.")
    del lanes.answers["/b"]
    second = await again(lanes, first)
    changed = (await lanes.stored(second))["/a"].id
    del lanes.answers["/a"]
    third = await again(lanes, second)
    assert (await lanes.rows(third))["/b"].state == "gone"
    await check(lanes, third, [(before["/a"], second), (before["/b"], second), (changed, third)])
    await forget(lanes, third, at_once=4)
    fourth = await again(lanes, third)
    assert {"/a", "/b"}.isdisjoint(await lanes.rows(fourth))


async def test_what_was_gone_meanwhile_and_is_back_is_found_again(lanes: Lanes) -> None:
    """The page that leads to it is as it was, and tells no links; what the job before found is no reason to forget."""
    lanes.html("/", "/a", "/b")
    for path in ("/a", "/b"):
        lanes.html(path)
    first, _ = await lanes.whole(lanes.crawl())
    for path in ("/a", "/b"):
        del lanes.answers[path]
    second = await again(lanes, first)
    lanes.site.html("/b", text="It is back.")
    forbidden(lanes, "/a")
    third = await again(lanes, second)
    rows = await lanes.rows(third)
    assert (rows["/a"].state, rows["/b"].state) == ("failed", "fetched")
    before = {path: row.id for path, row in (await lanes.stored(first)).items()}
    await check(lanes, third, [(before["/b"], second)])


@pytest.mark.parametrize("at_once", [1, 4])
async def test_nothing_that_a_line_of_re_crawls_has_replaced_is_left(lanes: Lanes, at_once: int) -> None:
    """A page goes with its own document, and names the one before that: so the oldest go first."""
    lanes.html("/", "/a", "/b", "/c")
    for path in ("/a", "/b", "/c"):
        lanes.html(path)
    job, _ = await lanes.whole(lanes.crawl())
    for version in range(3):
        for path in ("/a", "/b", "/c"):
            lanes.site.html(path, text=f"Version {version} of {path}.")
        job = await again(lanes, job)
    await forget(lanes, job, at_once=at_once)
    async with lanes.database.transaction() as connection:
        left = (await connection.execute(sa.select(sources.c.job_id, sources.c.url))).all()
    paths = [(r.url.removeprefix(lanes.url), str(r.job_id) == job) for r in left if r.url.startswith(f"{lanes.url}/")]
    assert sorted(paths) == [("/", False), ("/a", True), ("/b", True), ("/c", True)]


async def forget(lanes: Lanes, job: str, *, at_once: int) -> None:
    """Deletes what a re-crawl has replaced, list by list, with the pages that have it."""
    part = ReplacedSources((), 0, is_more=True)
    while part.is_more:
        async with lanes.database.transaction() as connection:
            part = await replaced_sources(connection, ReplacedPage(job, part.after, at_once, part.back))
        for cleanup in part.cleanups:
            source = uuid.UUID(cleanup.source_id)
            async with lanes.database.transaction() as connection:
                assert await is_replaced(connection, cleanup)
                await connection.execute(sa.delete(pages).where(pages.c.source_id == source))
                await connection.execute(sa.delete(sources).where(sources.c.id == source))


async def test_what_the_jobs_before_have_replaced_elsewhere_only_is_kept(lanes: Lanes) -> None:
    """The re-crawl itself found it at another address, unchanged; once that has changed, it goes."""
    first, source = await shared(lanes)
    second = await again(lanes, first)
    third = await again(lanes, second)
    assert (await lanes.rows(third))["/b"].source_id == source
    assert await replaced(lanes, third) == []
    del lanes.answers["/b"]
    fourth = await again(lanes, third)
    await check(lanes, fourth, [(source, second)])


@pytest.mark.parametrize("between", [forbidden, left_out], ids=["failed", "skipped"])
async def test_page_that_could_not_be_had_meanwhile_is_what_it_was_before(
    lanes: Lanes, between: Callable[[Lanes], CollectSpec]
) -> None:
    """Unchanged, changed or gone: a re-crawl that found nothing out about it does not make it new."""
    lanes.html("/", "/a", "/b")
    for path in ("/a", "/b"):
        lanes.html(path, "/deep")
    lanes.html("/deep")
    first, _ = await lanes.whole(lanes.crawl())
    sources = {path: row.id for path, row in (await lanes.stored(first)).items()}
    answer = lanes.answers["/b"]
    second = await again(lanes, first, between(lanes))
    assert (await lanes.rows(second))["/b"].state in {"failed", "skipped"}
    lanes.answers["/b"] = answer
    third = await again(lanes, second)
    row = (await lanes.rows(third))["/b"]
    assert (row.state, row.source_id) == ("unchanged", sources["/b"])
    lanes.site.html("/b", "/deep", text="Not the same any more.")
    changed = await again(lanes, second)
    await check(lanes, changed, [(sources["/b"], changed)])
    del lanes.answers["/b"]
    gone = await again(lanes, second)
    assert (await lanes.rows(gone))["/b"].state == "gone"
    await check(lanes, gone, [(sources["/b"], gone)])
    lanes.html("/", "/a", "/b", "/new")
    failed = await again(lanes, gone, forbidden(lanes))
    del lanes.answers["/b"]
    lanes.html("/", "/a", "/b")
    still_gone = await again(lanes, failed)
    assert [(await lanes.rows(job))["/b"].state for job in (failed, still_gone)] == ["failed", "gone"]


async def test_no_re_crawl_goes_back_without_end(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was replaced before is kept."""
    monkeypatch.setattr("ke.storage.recrawls.MAX_LINE", 2)
    first, source = await single(lanes)
    second = await again(lanes, first)
    third = await again(lanes, second)
    assert await replaced(lanes, third) == [source]
    assert await replaced(lanes, await again(lanes, third)) == []


def not_asked_for(lanes: Lanes) -> CollectSpec:
    return CollectSpec((f"{lanes.url}/a",), follow=False)


@pytest.mark.parametrize(
    ("spec", "state"),
    [(forbidden, "failed"), (left_out, "skipped"), (not_asked_for, None)],
    ids=["failed", "skipped", "not asked for"],
)
async def test_document_of_a_page_that_was_not_seen_again_is_kept(
    lanes: Lanes, spec: Callable[[Lanes], CollectSpec], state: str | None
) -> None:
    """Another address of it has changed, which says nothing of this one."""
    first, source = await shared(lanes)
    second = await again(lanes, first, spec(lanes))
    rows = await lanes.rows(second)
    assert rows["/a"].previous_source_id == source
    assert (rows["/b"].state if "/b" in rows else None) == state
    assert await replaced(lanes, second) == []


async def test_document_that_no_address_has_any_more_is_replaced(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named once, however many pages had it; those that changed in the job before count as well."""
    for name in ("PIECE", "URLS"):
        monkeypatch.setattr(f"ke.storage.replaced.{name}", 1)
    first, source = await shared(lanes)
    second = await again(lanes, first)
    assert await replaced(lanes, second) == []
    lanes.answers["/b"] = lanes.answers["/a"]
    third = await again(lanes, second)
    assert (await lanes.rows(third))["/b"].previous_source_id == source
    assert await replaced(lanes, third) == [source]
    both = await again(lanes, first)
    assert {(await lanes.rows(both))[path].previous_source_id for path in ("/a", "/b")} == {source}
    assert await replaced(lanes, both) == [source]


async def test_page_that_went_back_keeps_the_document(lanes: Lanes) -> None:
    """A job that was submitted later found it unchanged: the site is as it was, whatever the workers' clocks say."""
    first, source = await shared(lanes)
    before, lanes.answers["/b"] = lanes.answers["/b"], lanes.answers["/a"]
    second = await again(lanes, first)
    assert await replaced(lanes, second) == [source]
    lanes.answers["/a"] = before
    later = await again(lanes, first)
    row = (await lanes.rows(later))["/a"]
    assert row.state == "unchanged"
    assert await replaced(lanes, second) == []
    async with lanes.database.transaction() as connection:
        behind = {"fetched_at": row.fetched_at - timedelta(days=1)}
        await connection.execute(sa.update(pages).where(pages.c.job_id == uuid.UUID(later)).values(behind))
    assert await replaced(lanes, second) == []


async def single(lanes: Lanes) -> tuple[str, uuid.UUID]:
    """A crawl of one page, which says something else from now on."""
    lanes.site.html("/", text="As it was.")
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.html("/", text="As it is.")
    return first, (await lanes.stored(first))["/"].id


async def make(lanes: Lanes, table: sa.Table, job: str, source: uuid.UUID) -> None:
    """What was made of a document."""
    owner = uuid.UUID(job)
    row = _record(owner, owner, source, 0) if table is records else _extraction(owner, owner, source, 0, COLLECTION)
    async with lanes.database.transaction() as connection:
        await connection.execute(sa.insert(table).values(**row))


async def put_task(lanes: Lanes, job: str, source: uuid.UUID, **states: Any) -> None:
    async with lanes.database.transaction() as connection:
        task = {"job_id": uuid.UUID(job), "source_id": source}
        await connection.execute(sa.delete(extraction_tasks).where(extraction_tasks.c.source_id == source))
        await connection.execute(sa.insert(extraction_tasks).values(**task, **states))


@pytest.mark.parametrize(
    ("table", "undone", "done"),
    [
        (extractions, [{"state": state} for state in ("pending", "failed", "skipped")], {"state": "done"}),
        (
            records,
            [{"state": "done", "record_state": state} for state in (None, "failed", "skipped")],
            {"state": "done", "record_state": "done"},
        ),
    ],
    ids=["extractions", "records"],
)
async def test_what_is_searchable_is_replaced_by_what_is(
    lanes: Lanes, table: sa.Table, undone: list[dict[str, str | None]], done: dict[str, str]
) -> None:
    """As long as the new document is not extracted, the earlier one is all there is to find."""
    first, source = await single(lanes)
    await make(lanes, table, first, source)
    second = await again(lanes, first)
    new = (await lanes.rows(second))["/"].source_id
    assert await replaced(lanes, second) == []
    for states in undone:
        await put_task(lanes, second, new, **states)
        assert await replaced(lanes, second) == []
    await put_task(lanes, second, new, **done)
    assert await replaced(lanes, second) == [source]


async def test_what_is_gone_is_replaced_by_nothing(lanes: Lanes) -> None:
    """Extracted or not: there is nothing that could be found instead."""
    lanes.html("/", "/a")
    lanes.html("/a")
    first, _ = await lanes.whole(lanes.crawl())
    source = (await lanes.stored(first))["/a"].id
    await make(lanes, extractions, first, source)
    del lanes.answers["/a"]
    assert await replaced(lanes, await again(lanes, first)) == [source]


@pytest.mark.parametrize(
    ("pages_gone", "of", "share", "forgotten"),
    [
        (10, 12, 0.5, True),
        (11, 14, 0.5, False),
        (11, 22, 0.5, True),
        (11, 13, 1.0, True),
        (11, 14, 0.8, True),
        (1, 14, 0, False),
    ],
)
async def test_site_that_has_nothing_any_more_is_broken(
    lanes: Lanes, pages_gone: int, of: int, share: float, *, forgotten: bool
) -> None:
    """Where more of its pages are gone than a share, and than a few, they are kept; what has changed is replaced."""
    paths = [f"/{number}" for number in range(1, of)]
    lanes.html("/", *paths)
    for path in paths:
        lanes.html(path)
    first, _ = await lanes.whole(lanes.crawl())
    before = {path: row.id for path, row in (await lanes.stored(first)).items()}
    gone = paths[:pages_gone]
    for path in gone:
        del lanes.answers[path]
    lanes.site.html(paths[-1], text="Not the same any more.")
    second = await again(lanes, first, replace(lanes.crawl(), max_gone_share=share))
    states = {path: row.state for path, row in (await lanes.rows(second)).items()}
    assert {path for path, state in states.items() if state == "gone"} == set(gone)
    found = set(await replaced(lanes, second))
    assert found == {before[path] for path in ([*gone, paths[-1]] if forgotten else paths[-1:])}


async def test_pages_that_a_limit_left_out_say_nothing_of_a_site(lanes: Lanes) -> None:
    """A crawl knows many more addresses than it fetched; what fails now was not found either."""
    paths = [f"/{number}" for number in range(40)]
    lanes.html("/", *paths)
    for path in paths:
        lanes.html(path)
    first, _ = await lanes.whole(lanes.crawl(max_pages=12))
    for path in ("/", *paths):
        del lanes.answers[path]
    second = await again(lanes, first, lanes.crawl(max_pages=100))
    assert sum(row.state == "gone" for row in (await lanes.rows(second)).values()) == 12
    assert await replaced(lanes, second) == []


async def test_page_without_a_document_replaces_none(lanes: Lanes) -> None:
    """One that asks not to be indexed from now on was fetched, and what it says is nowhere."""
    first, source = await single(lanes)
    lanes.site.html("/", text="As it is.", head='<meta name="robots" content="noindex">')
    second = await again(lanes, first)
    row = (await lanes.rows(second))["/"]
    assert (row.state, row.source_id, row.previous_source_id) == ("fetched", None, source)
    assert await replaced(lanes, second) == []


async def test_document_whose_successor_is_deleted_is_kept(lanes: Lanes) -> None:
    """By the cleanup of the job that owns it: the earlier document is the last."""
    first, source = await single(lanes)
    second = await again(lanes, first)
    lanes.site.html("/", text="As it will be.")
    third = await again(lanes, second)
    assert await replaced(lanes, second) == [source]
    assert await replaced(lanes, third) == [source, (await lanes.stored(second))["/"].id]
    async with lanes.database.transaction() as connection:
        cleaning = sa.update(jobs).where(jobs.c.id == uuid.UUID(second)).values(artifacts="cleaning")
        await connection.execute(cleaning)
    assert await replaced(lanes, second) == []
