"""Re-crawls whose pages rely on documents that a real cleanup deletes, on real stores and a real site."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from ke.contracts.cleanup import CleanupInput, CleanupReceipt, Relying
from ke.contracts.jobs import CollectSpec
from ke.runtime.pool import CpuPool
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.listing import list_pages
from ke.storage.relying import MAX_NAMED, relying_on, relying_on_project
from ke.storage.tables import jobs
from tests.cleaning import SOURCE_STEPS, STEPS, run_step
from tests.integration.lanes import Lanes, running_site
from tests.seeding import Seeded
from tests.stores import Stores, open_stores

PATHS = ("/", "/deep", "/plain", "/tagged")


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("s")) as made:
        yield made


@pytest.fixture
async def lanes(stores: Stores, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        site.versioned("/", "/tagged", "/plain", text="It begins here.", etag='"0"')
        site.versioned("/tagged", "/deep", text="It has a tag.", etag='"1"')
        site.html("/plain")
        site.html("/deep")
        yield Lanes(stores.database, pool, site)


async def again(lanes: Lanes, earlier: str, spec: CollectSpec | None = None) -> tuple[str, dict[str, str]]:
    """Crawls the earlier job's pages again; gives the new job and the states of its pages."""
    job, _ = await lanes.whole(replace(spec or lanes.crawl(), recrawl_of=earlier))
    return job, {path: state for path, (state, _) in (await lanes.pages(job)).items()}


async def clean(stores: Stores, cleanup: CleanupInput) -> CleanupReceipt:
    """A whole cleanup, by its real steps."""
    job = Seeded(uuid.UUID(cleanup.job_id))
    source, page = (uuid.UUID(key) if key is not None else None for key in (cleanup.source_id, cleanup.replaced_by))
    asked = {"delete_record": cleanup.delete_record, "source": source, "replaced_by": page}
    for step in STEPS if source is None else SOURCE_STEPS:
        receipt = await run_step(stores, job, step, **asked)
    assert isinstance(receipt, CleanupReceipt)
    assert receipt.status == "cleaned", receipt
    return receipt


async def relying(stores: Stores, job: str) -> Relying:
    async with stores.database.transaction() as connection:
        return await relying_on(connection, CleanupTarget(uuid.UUID(job)))


async def are_stored(stores: Stores, lanes: Lanes, job: str) -> dict[str, bool | None]:
    """Of each page of a job: whether its document is stored, as lists tell it."""
    async with stores.database.transaction() as connection:
        rows = await list_pages(connection, uuid.UUID(job), limit=100)
    return {row.url.removeprefix(lanes.url): row.source_is_stored for row in rows}


async def test_cleanup_tells_which_pages_rely_on_what_goes(stores: Stores, lanes: Lanes) -> None:
    """Those of later jobs that are unchanged, with their jobs; not those that changed or are gone, nor its own."""
    first, _ = await lanes.whole(lanes.crawl())
    assert await relying(stores, first) == Relying()
    second, _ = await again(lanes, first)
    lanes.site.html("/plain", text="Another text.")
    del lanes.answers["/deep"]
    third, states = await again(lanes, second)
    assert states == {"/": "unchanged", "/tagged": "unchanged", "/plain": "fetched", "/deep": "gone"}
    expected = Relying(6, 2, (second, third))
    assert await relying(stores, first) == expected
    assert (await clean(stores, CleanupInput(first))).relying == expected, "the receipt keeps what there was"
    assert await relying(stores, first) == Relying()


async def test_only_the_first_jobs_are_named_and_no_deleted_ones(stores: Stores, lanes: Lanes) -> None:
    """All are counted."""
    first, _ = await lanes.whole(lanes.crawl())
    later = [(await again(lanes, first))[0] for _ in range(MAX_NAMED + 2)]
    assert await relying(stores, first) == Relying(48, 12, tuple(later[:MAX_NAMED]))
    await clean(stores, CleanupInput(later[0], delete_record=True))
    assert await relying(stores, first) == Relying(44, 11, tuple(later[1:11]))


async def test_pages_of_other_projects_rely_on_a_project(stores: Stores, lanes: Lanes) -> None:
    """Those of its own jobs are cleaned up with it."""
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    third, _ = await again(lanes, first)
    async with stores.database.transaction() as connection:
        of = jobs.update()
        await connection.execute(of.where(jobs.c.id.in_([uuid.UUID(first), uuid.UUID(second)])).values(project="own"))
        assert await relying_on_project(connection, "own") == Relying(4, 1, (third,))
        assert await relying_on_project(connection, "other") == Relying()


async def test_cleaned_documents_are_fetched_anew_by_the_next_recrawl(stores: Stores, lanes: Lanes) -> None:
    """Without conditions, though the server has the same tags and bytes: nothing is unchanged that is not there."""
    first, _ = await lanes.whole(lanes.crawl())
    second, states = await again(lanes, first)
    assert set(states.values()) == {"unchanged"}
    assert await are_stored(stores, lanes, second) == dict.fromkeys(PATHS, True)
    await clean(stores, CleanupInput(first))
    assert await are_stored(stores, lanes, second) == dict.fromkeys(PATHS, False)
    lanes.site.requests.clear()
    third, states = await again(lanes, second)
    assert states == dict.fromkeys(PATHS, "fetched")
    assert not any("If-None-Match" in request.headers for request in lanes.site.requests)
    assert sorted(await lanes.stored(third)) == sorted(PATHS)
    assert await are_stored(stores, lanes, third) == dict.fromkeys(PATHS, True)


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_forgotten_page_comes_back_by_its_link(stores: Stores, lanes: Lanes, *, is_replaced: bool) -> None:
    """Of whichever job is crawled again, though the page that links to it is unchanged: it is read for its links."""
    first, _ = await lanes.whole(lanes.crawl())
    second, _ = await again(lanes, first)
    source = (await lanes.stored(first))["/deep"].id
    cleanup = CleanupInput(first, source_id=str(source))
    if is_replaced:
        lanes.site.html("/deep", text="It says something else.")
        for earlier in (first, second):
            newest, _ = await again(lanes, earlier)
        cleanup = replace(cleanup, replaced_by=str((await lanes.rows(newest))["/deep"].id))
    receipt = await clean(stores, cleanup)
    assert (receipt.relying, receipt.deleted.pages) == (Relying(1, 1, (second,)), 2)
    for earlier in (first, second):
        assert set(await lanes.pages(earlier)) == {"/", "/tagged", "/plain"}
        third, states = await again(lanes, earlier)
        assert states == {"/": "unchanged", "/tagged": "unchanged", "/plain": "unchanged", "/deep": "fetched"}
        assert set(await lanes.stored(third)) == {"/deep"}
        assert set((await are_stored(stores, lanes, third)).values()) == {True}


async def test_jobs_that_lost_no_page_are_asked_on_condition(stores: Stores, lanes: Lanes) -> None:
    """Only of those whose frontier lacks a page whole pages are fetched."""
    first, _ = await lanes.whole(lanes.crawl())
    lanes.site.html("/deep", text="It says something else.")
    second, _ = await again(lanes, first)
    await clean(stores, CleanupInput(first, source_id=str((await lanes.stored(first))["/deep"].id)))
    for earlier, status in ((first, 200), (second, 304)):
        job, states = await again(lanes, earlier)
        assert states["/tagged"] == "unchanged"
        assert (await lanes.rows(job))["/tagged"].http_status == status
