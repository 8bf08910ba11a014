"""Forgetting one source, step by step against real stores: what goes, what stays, and who is kept from writing."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.cleanup import CleanupActivities
from ke.contracts.cleanup import CleanupFailure, CleanupInput, CleanupStatus, StoreCounts
from ke.contracts.errors import Conflict, Fenced
from ke.contracts.ids import page_id
from ke.contracts.jobs import JobKind, JobStatus
from ke.storage import recrawls
from ke.storage.cleanup_sources import open_source_cleanup
from ke.storage.dead_letters import DeadLetter, write_dead_letters
from ke.storage.documents import present_sources
from ke.storage.extracting import claim_tasks
from ke.storage.tables import cleanups, extraction_tasks, jobs, pages, sources
from tests.cleaning import (
    SOURCE_STEPS,
    BrittleDatabase,
    BrittleVectors,
    Crash,
    Tripwire,
    clean,
    forget,
    job_column,
    run_step,
    source_receipt,
)
from tests.seeding import (
    COLLECTION,
    Seeded,
    _source,
    a_point,
    content_hash,
    seed_crawl,
    seed_extract,
    seed_job,
    store_counts,
)
from tests.stores import Stores, open_stores

OF_ONE = StoreCounts(vectors=3, sources=1, extractions=3, entities=3, pages=1, records=2)
"""What `a_crawl` makes of each source."""
OF_BOTH = OF_ONE + StoreCounts(vectors=2, extractions=2, entities=2, records=2)
"""The same with what `seed_extract` makes of it."""


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


async def a_crawl(stores: Stores, **options: Any) -> Seeded:
    return await seed_crawl(stores.database, stores.vectors, chunks_each=3, entities_each=1, **options)


async def counts(stores: Stores, job: Seeded) -> StoreCounts:
    return await store_counts(stores.database, stores.vectors, job.id)


async def test_one_source_goes_and_the_rest_stays(stores: Stores) -> None:
    """Its points, chunks and entities go, by whichever job; both jobs keep the rest, and their state."""
    owner = await a_crawl(stores)
    other = await seed_extract(stores.database, stores.vectors, owner)
    stranger = await a_crawl(stores)
    receipt = await forget(stores, owner, owner.sources[0])
    assert (receipt.status, receipt.error) == (CleanupStatus.CLEANED, None)
    assert (receipt.planned, receipt.deleted, receipt.remaining) == (OF_BOTH, OF_BOTH, StoreCounts())
    assert receipt.fenced
    assert await counts(stores, owner) + OF_BOTH == owner.counts + other.counts
    assert await counts(stores, stranger) == stranger.counts
    assert [await job_column(stores, job.id, "artifacts") for job in (owner, other)] == ["present", "present"]
    assert await forget(stores, owner, owner.sources[0], run_id="run-2") == receipt


async def test_what_names_the_source_in_the_frontier_goes_too(stores: Stores) -> None:
    """Entries with its URL, with a redirect to it, or with the same content go; of its own job only."""
    owner, stranger = await a_crawl(stores, n_dead_letters=1), await a_crawl(stores)
    source = owner.sources[2]
    named = {"final_url": "https://site.example/2"}, {"content_hash": b"\x02" * 32}
    async with stores.database.transaction() as connection:
        changed = sa.update(sources).where(sources.c.id == source).values(content_hash=b"\x02" * 32)
        await connection.execute(changed)
        for job in (owner, stranger):
            for number, values in enumerate(named):
                url = f"https://site.example/other/{number}"
                entry = {"id": page_id(job.id, url), "job_id": job.id, "url": url, "depth": 1, "state": "duplicate"}
                await connection.execute(sa.insert(pages).values(**entry, **values))
        await write_dead_letters(connection, owner.id, [_letter(source)])
        await write_dead_letters(connection, stranger.id, [_letter(source)])
    receipt = await forget(stores, owner, source)
    assert (receipt.deleted.pages, receipt.deleted.dead_letters) == (3, 2)
    assert receipt.planned == receipt.deleted
    left = await counts(stores, owner)
    assert (left.pages, left.dead_letters) == (2, 1)
    assert (await counts(stores, stranger)).pages == 5


async def test_page_that_another_job_found_gone_stays(stores: Stores) -> None:
    """It is that job's finding and among its numbers; only the document is not named any more, in no count."""
    owner, other = await a_crawl(stores), await a_crawl(stores)
    source = owner.sources[0]
    states = ("gone", "unchanged")
    async with stores.database.transaction() as connection:
        for number, state in enumerate(states):
            its = sa.update(pages).where(pages.c.id == page_id(other.id, f"https://site.example/{number}"))
            await connection.execute(its.values(state=state, source_id=source, previous_source_id=source))
    receipt = await forget(stores, owner, source)
    assert (receipt.status, receipt.planned, receipt.remaining) == ("cleaned", receipt.deleted, StoreCounts())
    assert receipt.deleted == replace(OF_ONE, pages=2)
    async with stores.database.transaction() as connection:
        left = sa.select(pages.c.source_id, pages.c.previous_source_id).where(
            pages.c.job_id == other.id, pages.c.state.in_(states)
        )
        assert [tuple(row) for row in await connection.execute(left)] == [(None, source)]


async def test_page_with_a_document_of_its_own_stays(stores: Stores) -> None:
    """Also when it has the content of the one that goes, or was led to its address: it is that other one's page."""
    owner = await a_crawl(stores)
    source, other = owner.sources[:2]
    async with stores.database.transaction() as connection:
        its = sa.update(pages).where(pages.c.id == page_id(owner.id, "https://site.example/1"))
        same = {"final_url": "https://site.example/0", "content_hash": content_hash(owner.id)}
        await connection.execute(its.values(source_id=other, **same))
    assert (await forget(stores, owner, source)).deleted == OF_ONE


def _letter(source: uuid.UUID) -> DeadLetter:
    return DeadLetter("source", source, "https://site.example/2", "broken", "It broke.", 3, datetime.now(UTC))


# Crashes, and two at once


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every step has more than one."""
    monkeypatch.setattr("ke.storage.cleanup_points.MAX_BATCH", 4)
    monkeypatch.setattr("ke.storage.cleanup_rows.MAX_ROWS", 1)


async def _until_crash(stores: Stores, job: Seeded, wire: Tripwire) -> str | None:
    brittle: Any = CleanupActivities(BrittleDatabase(stores, wire), BrittleVectors(stores, wire))  # type: ignore[arg-type]
    for step in SOURCE_STEPS:
        try:
            await run_step(stores, job, step, activities=brittle, source=job.sources[0])
        except Crash:
            return step
    return None


async def _shared_source(stores: Stores) -> Seeded:
    owner = await a_crawl(stores, n_sources=2)
    await seed_extract(stores.database, stores.vectors, owner)
    async with stores.database.transaction() as connection:
        await write_dead_letters(connection, owner.id, [_letter(owner.sources[0])])
    return owner


@pytest.mark.usefixtures("small_batches")
async def test_crash_at_every_boundary_keeps_the_receipt_exact(stores: Stores) -> None:
    """The worker dies after each write to the vector store, before and after each commit: same numbers.

    The run is terminated then, and another begins from the start.
    """
    everything = OF_BOTH + StoreCounts(dead_letters=1)
    whole = Tripwire()
    assert await _until_crash(stores, await _shared_source(stores), whole) is None
    few_at_once = asyncio.Semaphore(4)

    async def crash(at: int) -> None:
        async with few_at_once:
            job, wire = await _shared_source(stores), Tripwire(at)
            died_in = await _until_crash(stores, job, wire)
            receipt = await forget(stores, job, job.sources[0], run_id="run-2")
            where = f"{wire.passed[-1]} in {died_in}, boundary {at}"
            assert (receipt.status, receipt.planned, receipt.deleted) == ("cleaned", everything, everything), where

    await asyncio.gather(*(crash(at) for at in range(1, len(whole.passed) + 1)))


@pytest.mark.usefixtures("small_batches")
async def test_attempts_at_the_same_time_count_once(stores: Stores) -> None:
    """An attempt that was thought dead and its successor work side by side; nothing is counted twice."""
    owner = await _shared_source(stores)
    source = owner.sources[0]
    await run_step(stores, owner, "begin_cleanup", source=source)
    for step in SOURCE_STEPS[1:]:
        await asyncio.gather(*(run_step(stores, owner, step, source=source) for _ in range(3)))
    receipt = await source_receipt(stores, source)
    assert (receipt.status, receipt.deleted) == ("cleaned", OF_BOTH + StoreCounts(dead_letters=1))


@pytest.mark.usefixtures("small_batches")
async def test_cleanups_of_a_job_and_of_its_sources_count_each_thing_once(stores: Stores) -> None:
    """They run at once; each thing is in one receipt, all are cleaned, and nothing is left."""
    owner = await a_crawl(stores, n_sources=4)
    async with asyncio.TaskGroup() as group:
        whole = group.create_task(clean(stores, owner))
        parts = [group.create_task(forget(stores, owner, source)) for source in owner.sources[:2]]
    receipts = [whole.result(), *(part.result() for part in parts)]
    assert {receipt.status for receipt in receipts} == {CleanupStatus.CLEANED}
    assert sum((receipt.deleted for receipt in receipts), StoreCounts()) == owner.counts
    assert await counts(stores, owner) == StoreCounts()
    assert await job_column(stores, owner.id, "artifacts") == "cleaned"


async def test_source_that_a_cleanup_of_its_job_took_is_cleaned(stores: Stores) -> None:
    """Its receipt tells what it really deleted: what it had reached by then, or nothing."""
    owner = await a_crawl(stores)
    begun, unbegun = owner.sources[:2]
    for step in ("begin_cleanup", "delete_vectors"):
        await run_step(stores, owner, step, source=begun)
    whole = await clean(stores, owner)
    for step in SOURCE_STEPS[1:]:
        await run_step(stores, owner, step, source=begun)
    first, second = await source_receipt(stores, begun), await forget(stores, owner, unbegun)
    assert (first.status, first.deleted) == (CleanupStatus.CLEANED, StoreCounts(vectors=3))
    assert (second.status, second.deleted) == (CleanupStatus.CLEANED, StoreCounts())
    assert whole.deleted + first.deleted == owner.counts


# Who may not write any more


async def test_whoever_worked_on_the_source_is_fenced(stores: Stores) -> None:
    """A worker of its job, or of one that extracted it, that comes back late puts nothing back."""
    owner, stranger = await a_crawl(stores), await a_crawl(stores)
    maker = await seed_extract(stores.database, stores.vectors, owner)
    source = owner.sources[0]
    await forget(stores, owner, source)
    assert [await job_column(stores, job.id, "write_epoch") for job in (owner, maker)] == [2, 2]
    for job, epochs in (
        (owner, {owner.id: 1}),
        (maker, {maker.id: 1, owner.id: 2}),
        (maker, {maker.id: 2, owner.id: 1}),
    ):
        late = a_point(uuid.uuid4(), job.id, owner.id, source)
        with pytest.raises(Fenced):
            await stores.vectors.upsert(COLLECTION, [late], epochs=epochs)
    assert await stores.vectors.count_source(COLLECTION, source) == 0
    assert await job_column(stores, stranger.id, "write_epoch") == 1


async def test_busy_jobs_keep_a_source_from_being_forgotten(stores: Stores) -> None:
    """The receipt names them and says failed; nothing was begun, and once they have ended it can be."""
    owner = await a_crawl(stores)
    other = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.RUNNING)
    source = owner.sources[0]
    with pytest.raises(Conflict, match=str(other.id)):
        await run_step(stores, owner, "begin_cleanup", source=source)
    receipt = await source_receipt(stores, source)
    assert (receipt.status, receipt.deleted) == (CleanupStatus.FAILED, StoreCounts())
    assert str(other.id) in (receipt.error or "")
    assert await job_column(stores, owner.id, "write_epoch") == 1
    await _set(stores, other.id, status="completed", result={}, completed_at=sa.func.clock_timestamp())
    await _set(stores, owner.id, retry_id="retry-1")
    with pytest.raises(Conflict, match=str(owner.id)):
        await run_step(stores, owner, "begin_cleanup", run_id="run-2", source=source)
    await _set(stores, owner.id, retry_id=None)
    assert (await forget(stores, owner, source, run_id="run-3")).deleted == OF_BOTH


# What a re-crawl has replaced


async def replaced(stores: Stores) -> tuple[Seeded, Seeded, uuid.UUID]:
    """A crawl and a re-crawl, whose first page has another document now; and that page."""
    owner = await a_crawl(stores)
    again = await a_crawl(stores, params={"recrawl_of": str(owner.id)})
    page = page_id(again.id, "https://site.example/0")
    async with stores.database.transaction() as connection:
        for job, key in ((owner, page_id(owner.id, "https://site.example/0")), (again, page)):
            values = {"source_id": job.sources[0], "fetched_at": sa.func.clock_timestamp()}
            await connection.execute(sa.update(pages).where(pages.c.id == key).values(**values))
        names = sa.update(pages).where(pages.c.id == page).values(previous_source_id=owner.sources[0])
        await connection.execute(names)
        done = sa.update(extraction_tasks).where(extraction_tasks.c.job_id == again.id).values(record_state="done")
        await connection.execute(done)
    return owner, again, page


async def _receipts(stores: Stores, source: uuid.UUID) -> int:
    async with stores.database.transaction() as connection:
        found = sa.select(sa.func.count()).where(cleanups.c.source_id == source)
        return int((await connection.execute(found)).scalar_one())


async def test_replaced_source_goes_like_any_other(stores: Stores) -> None:
    """Its receipt is the same, and a retried step looks no second time at what it has begun to delete."""
    owner, again, page = await replaced(stores)
    source = owner.sources[0]
    await run_step(stores, owner, "begin_cleanup", source=source, replaced_by=page)
    await _set(stores, again.id, artifacts="cleaning")
    receipt = await forget(stores, owner, source, replaced_by=page)
    assert (receipt.status, receipt.deleted) == (CleanupStatus.CLEANED, OF_ONE)


async def test_source_that_is_replaced_no_more_is_kept_without_a_receipt(stores: Stores) -> None:
    """It is looked at again under the lock, whatever was listed; a reconciliation has nothing to take up."""
    owner, again, page = await replaced(stores)
    source = owner.sources[0]
    later = await seed_job(stores.database, params={"recrawl_of": str(owner.id)})
    entry = {"id": page_id(later.id, "https://site.example/0"), "job_id": later.id, "url": "https://site.example/0"}
    async with stores.database.transaction() as connection:
        found = {"depth": 0, "state": "unchanged", "source_id": source, "fetched_at": sa.func.clock_timestamp()}
        await connection.execute(sa.insert(pages).values(**entry, **found))
    with pytest.raises(Conflict, match="something else"):
        await run_step(stores, owner, "begin_cleanup", source=source, replaced_by=page)
    async with stores.database.transaction() as connection:
        await connection.execute(sa.delete(pages).where(pages.c.job_id == later.id))
    await _set(stores, again.id, artifacts="cleaning")
    with pytest.raises(Conflict, match="something else"):
        await run_step(stores, owner, "begin_cleanup", source=source, replaced_by=page)
    assert await counts(stores, owner) == owner.counts
    assert await _receipts(stores, source) == 0


async def test_replaced_source_that_is_in_use_is_kept_without_a_receipt(stores: Stores) -> None:
    """The refusal names the job; who fails the run afterwards leaves no receipt either."""
    owner, _, page = await replaced(stores)
    source = owner.sources[0]
    busy = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.RUNNING)
    with pytest.raises(Conflict, match=str(busy.id)):
        await run_step(stores, owner, "begin_cleanup", source=source, replaced_by=page)
    activities = CleanupActivities(stores.database, stores.vectors)
    await ActivityEnvironment().run(activities.fail_cleanup, CleanupFailure(str(owner.id), "In use.", str(source)))
    assert await _receipts(stores, source) == 0
    async with stores.database.transaction() as connection:
        assert await present_sources(connection, [source]) == {source}


async def test_source_whose_deletion_has_begun_is_nobodys_document_any_more(stores: Stores) -> None:
    """A re-crawl that meets it meanwhile stores the page anew, also when the deletion has failed and is to go on."""
    owner, _, page = await replaced(stores)
    source = owner.sources[0]
    await run_step(stores, owner, "begin_cleanup", source=source, replaced_by=page)
    failing = CleanupActivities(stores.database, stores.vectors)
    environment = ActivityEnvironment()
    for failed in (False, True):
        if failed:
            environment.info = replace(environment.info, workflow_run_id="run-1")
            await environment.run(failing.fail_cleanup, CleanupFailure(str(owner.id), "It failed.", str(source)))
        async with stores.database.transaction() as connection:
            assert await present_sources(connection, owner.sources[:2]) == {owner.sources[1]}
    assert (await source_receipt(stores, source)).status is CleanupStatus.FAILED


async def test_forgotten_source_is_not_given_to_extraction(stores: Stores) -> None:
    """A job that was submitted after the forgetting began passes over the source, whose task goes with it."""
    owner = await a_crawl(stores, n_sources=2)
    await run_step(stores, owner, "begin_cleanup", source=owner.sources[0])
    late = await seed_job(stores.database, kind=JobKind.EXTRACT, status=JobStatus.RUNNING)
    async with stores.database.transaction() as connection:
        tasks = [{"job_id": late.id, "source_id": source} for source in owner.sources]
        await connection.execute(sa.insert(extraction_tasks), tasks)
        assert [s.id for s in await claim_tasks(connection, late.id, uuid.uuid4(), limit=9)] == [owner.sources[1]]
    for step in SOURCE_STEPS[1:]:
        await run_step(stores, owner, step, source=owner.sources[0])
    async with stores.database.transaction() as connection:
        left = await connection.execute(
            sa.select(extraction_tasks.c.source_id).where(extraction_tasks.c.job_id == late.id)
        )
        assert list(left.scalars()) == [owner.sources[1]]


async def _set(stores: Stores, job_id: uuid.UUID, **values: Any) -> None:
    async with stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))


# What is left, and what comes back


class KeepingVectors:
    """A store that says it has deleted points, and keeps them."""

    def __init__(self, stores: Stores) -> None:
        self._vectors = stores.vectors
        self._told: set[uuid.UUID] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vectors, name)

    async def delete(self, _collection: str, ids: list[uuid.UUID]) -> int:
        self._told.update(ids)
        return 0

    async def count_ids(self, collection: str, ids: list[uuid.UUID]) -> int:
        return await self._vectors.count_ids(collection, [key for key in ids if key not in self._told])


async def test_what_the_store_keeps_fails_the_cleanup_and_is_named(stores: Stores) -> None:
    """The exact count finds it; the receipt says how much and where, and another run removes it."""
    owner = await a_crawl(stores)
    source = owner.sources[0]
    keeping: Any = CleanupActivities(stores.database, KeepingVectors(stores))  # type: ignore[arg-type]
    failed = await forget(stores, owner, source, activities=keeping)
    assert (failed.status, failed.remaining) == (CleanupStatus.FAILED, StoreCounts(vectors=3))
    assert f"The source still has 3 points in collection {COLLECTION}" in (failed.error or "")
    assert await job_column(stores, owner.id, "artifacts") == "present"
    again = await forget(stores, owner, source, run_id="run-2")
    assert (again.status, again.remaining, again.error) == (CleanupStatus.CLEANED, StoreCounts(), None)
    assert again.started_at == failed.started_at
    assert await stores.vectors.count_source(COLLECTION, source) == 0


async def test_points_without_rows_go_with_the_source(stores: Stores) -> None:
    """A point that names the source and has no row is found by that name, deleted, and counted."""
    owner = await a_crawl(stores)
    strays = [a_point(uuid.uuid4(), owner.id, owner.id, owner.sources[0]) for _ in range(5)]
    await stores.vectors.upsert(COLLECTION, strays, epochs={owner.id: 1})
    receipt = await forget(stores, owner, owner.sources[0])
    assert receipt.planned == receipt.deleted == OF_ONE + StoreCounts(vectors=5)


async def test_stopped_run_leaves_a_failed_receipt_and_the_next_goes_on(stores: Stores) -> None:
    """A run that was cancelled in its middle says so, counts what is left, and its job's artifacts stay present."""
    owner = await a_crawl(stores)
    source = owner.sources[0]
    for step in ("begin_cleanup", "delete_vectors"):
        await run_step(stores, owner, step, source=source)
    activities = CleanupActivities(stores.database, stores.vectors)
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id="run-1")
    await environment.run(activities.fail_cleanup, CleanupFailure(str(owner.id), "It was cancelled.", str(source)))
    receipt = await source_receipt(stores, source)
    assert (receipt.status, receipt.error) == (CleanupStatus.FAILED, "It was cancelled.")
    assert receipt.deleted + receipt.remaining == receipt.planned == OF_ONE
    assert (await forget(stores, owner, source, run_id="run-2")).deleted == OF_ONE
    assert await job_column(stores, owner.id, "artifacts") == "present"


async def test_source_that_was_stored_again_goes_under_the_same_receipt(stores: Stores) -> None:
    """Forgetting is no ban; what a retry of its job stored anew is deleted by the next run, and counted to it."""
    owner = await a_crawl(stores)
    source = owner.sources[0]
    first = await forget(stores, owner, source)
    async with stores.database.transaction() as connection:
        await connection.execute(sa.insert(sources).values(**_source(owner.id, source, 0)))
    second = await forget(stores, owner, source, run_id="run-2")
    assert (second.status, second.started_at) == (CleanupStatus.CLEANED, first.started_at)
    assert second.planned == second.deleted == OF_ONE + StoreCounts(sources=1)


async def test_cleanups_along_a_line_of_recrawls_do_not_wait_for_each_other(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes something down of later jobs too, of which one has another cleanup's source: no deadlock."""
    third, first, second = sorted([await a_crawl(stores) for _ in range(3)], key=lambda job: job.id)
    unchanged = ((second, first.sources[0], 1), (third, first.sources[0], 1), (third, second.sources[1], 0))
    async with stores.database.transaction() as connection:
        for job in (first, second, third):
            params = {"limits": {"max_depth": 5}}
            await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(params=params))
        for job, source, number in unchanged:
            url = f"https://site.example/{number}"
            page = sa.update(pages).where(pages.c.job_id == job.id, pages.c.url == url)
            await connection.execute(page.values(state="unchanged", source_id=source))
    note = recrawls.note_depth

    async def slowly(*arguments: Any) -> None:
        await asyncio.sleep(0.2)
        await note(*arguments)

    async def begin(job: Seeded, source: uuid.UUID) -> None:
        async with stores.database.transaction() as connection:
            await open_source_cleanup(connection, CleanupInput(str(job.id), source_id=str(source)), "run")

    monkeypatch.setattr(recrawls, "note_depth", slowly)
    of_first = asyncio.create_task(begin(first, first.sources[0]))
    await asyncio.sleep(0.1)
    await asyncio.gather(of_first, begin(second, second.sources[1]))
    async with stores.database.transaction() as connection:
        of_all = sa.select(jobs.c.params["least_depth"].astext).where(jobs.c.id.in_([first.id, second.id, third.id]))
        assert (await connection.execute(of_all)).scalars().all() == ["0"] * 3
