"""The steps of a cleanup against real stores: what they delete, what they leave, what they refuse."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.cleanup import CleanupStatus, StoreCounts
from ke.contracts.errors import Conflict, Fenced, NotFound
from ke.contracts.jobs import JobStatus
from ke.storage.tables import jobs
from tests.cleaning import STEPS, clean, job_column, receipt_of, run_step
from tests.seeding import COLLECTION, a_point, seed_crawl, seed_extract, seed_job, store_counts
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


async def test_receipt_equals_the_counts_taken_before(stores: Stores) -> None:
    """Planned and deleted are what SQL and the vector store said before; afterwards both say zero."""
    job = await seed_crawl(stores.database, stores.vectors, n_sources=7, without_points=3, n_pages=11)
    before = await store_counts(stores.database, stores.vectors, job.id)
    assert before == job.counts
    receipt = await clean(stores, job)
    assert receipt.status is CleanupStatus.CLEANED
    assert (receipt.planned, receipt.deleted, receipt.remaining) == (before, before, StoreCounts())
    assert receipt.fenced
    assert receipt.error is None
    assert receipt.started_at < (receipt.completed_at or "")
    assert await store_counts(stores.database, stores.vectors, job.id) == StoreCounts()
    assert await job_column(stores, job.id, "artifacts") == "cleaned"


async def test_second_run_gives_the_same_receipt(stores: Stores) -> None:
    """A job that is cleaned answers with its receipt, unchanged, and is not fenced again."""
    job = await seed_crawl(stores.database, stores.vectors)
    first = await clean(stores, job)
    epoch = await job_column(stores, job.id, "write_epoch")
    assert await run_step(stores, job, "begin_cleanup", run_id="run-2") == first
    assert await job_column(stores, job.id, "write_epoch") == epoch


async def test_each_step_may_run_twice(stores: Stores) -> None:
    """An activity that ran and whose answer was lost runs again; the receipt is the same."""
    job = await seed_crawl(stores.database, stores.vectors)
    for step in STEPS:
        await run_step(stores, job, step)
        await run_step(stores, job, step)
    receipt = await receipt_of(stores, job)
    assert (receipt.planned, receipt.deleted) == (job.counts, job.counts)
    assert await job_column(stores, job.id, "write_epoch") == 2


async def test_attempts_at_the_same_time_count_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that was thought dead and its successor delete side by side; nothing is counted twice."""
    monkeypatch.setattr("ke.storage.cleanup_points.MAX_BATCH", 5)
    job = await seed_crawl(stores.database, stores.vectors, n_sources=12)
    await run_step(stores, job, "begin_cleanup")
    for step in STEPS[1:]:
        await asyncio.gather(*(run_step(stores, job, step) for _ in range(3)))
    receipt = await receipt_of(stores, job)
    assert (receipt.deleted, receipt.status) == (job.counts, CleanupStatus.CLEANED)


async def test_cleanups_that_share_points_count_them_once(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner of sources and a job that extracted them are cleaned together: each thing is in one receipt."""
    monkeypatch.setattr("ke.storage.cleanup_points.MAX_BATCH", 5)
    owner = await seed_crawl(stores.database, stores.vectors, n_sources=10)
    other = await seed_extract(stores.database, stores.vectors, owner, chunks_each=4)
    first, second = await asyncio.gather(clean(stores, owner), clean(stores, other))
    if CleanupStatus.FAILED in {first.status, second.status}:
        first, second = await clean(stores, owner, run_id="run-2"), await clean(stores, other, run_id="run-2")
    assert {first.status, second.status} == {CleanupStatus.CLEANED}
    assert first.deleted + second.deleted == owner.counts + other.counts


async def test_other_jobs_keep_their_own(stores: Stores) -> None:
    """Only the job's own things go."""
    job = await seed_crawl(stores.database, stores.vectors)
    other = await seed_crawl(stores.database, stores.vectors)
    await clean(stores, job)
    assert await store_counts(stores.database, stores.vectors, other.id) == other.counts


async def test_extract_job_removes_only_its_own_extractions(stores: Stores) -> None:
    """The sources that it read, and what their owner made of them, stay."""
    owner = await seed_crawl(stores.database, stores.vectors)
    other = await seed_extract(stores.database, stores.vectors, owner)
    receipt = await clean(stores, other)
    assert receipt.deleted == other.counts
    assert await store_counts(stores.database, stores.vectors, owner.id) == owner.counts
    assert await _tasks_of(stores, other.id) == 0


async def test_owner_removes_what_others_extracted_from_its_sources(stores: Stores) -> None:
    """With a source goes everything that was made of it, by whichever job, and it is counted."""
    owner = await seed_crawl(stores.database, stores.vectors)
    other = await seed_extract(stores.database, stores.vectors, owner)
    receipt = await clean(stores, owner)
    assert receipt.deleted == owner.counts + other.counts
    assert await store_counts(stores.database, stores.vectors, other.id) == StoreCounts()


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLING])
async def test_active_job_is_refused(stores: Stores, status: JobStatus) -> None:
    """A job that has not ended is not cleaned; the refusal names its state."""
    job = await seed_job(stores.database, status=status)
    with pytest.raises(Conflict, match=str(status)):
        await run_step(stores, job, "begin_cleanup")
    assert await job_column(stores, job.id, "artifacts") == "present"


async def test_job_with_active_dependents_is_refused(stores: Stores) -> None:
    """While an active job extracts from its sources a job is not cleaned; the refusal and the receipt name it.

    What it made stays in use, also where the job's end had announced the cleanup.
    """
    owner = await seed_crawl(stores.database, stores.vectors)
    other = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.RUNNING)
    await _set(stores, owner.id, artifacts="cleaning")
    with pytest.raises(Conflict, match=str(other.id)):
        await run_step(stores, owner, "begin_cleanup")
    receipt = await receipt_of(stores, owner)
    assert receipt.status is CleanupStatus.FAILED
    assert str(other.id) in (receipt.error or "")
    assert receipt.remaining.sources == owner.counts.sources
    assert await job_column(stores, owner.id, "artifacts") == "present"
    assert await job_column(stores, owner.id, "write_epoch") == 1


async def test_half_deleted_job_that_is_refused_stays_out_of_use(stores: Stores) -> None:
    """After a run that deleted something, a refused one leaves the job as failed, and the wish of the first stands."""
    owner = await seed_crawl(stores.database, stores.vectors)
    for step in ("begin_cleanup", "delete_vectors"):
        await run_step(stores, owner, step, delete_record=True)
    other = await seed_extract(stores.database, stores.vectors, owner, chunks_each=0, status=JobStatus.RUNNING)
    with pytest.raises(Conflict):
        await run_step(stores, owner, "begin_cleanup", run_id="run-2")
    receipt = await receipt_of(stores, owner)
    assert (receipt.status, receipt.deleted.vectors) == (CleanupStatus.FAILED, owner.counts.vectors)
    assert await job_column(stores, owner.id, "artifacts") == "cleanup_failed"
    await _set(stores, other.id, status="completed", result={}, completed_at=sa.func.clock_timestamp())
    assert (await clean(stores, owner, run_id="run-3")).delete_record


async def _set(stores: Stores, job_id: uuid.UUID, **values: Any) -> None:
    async with stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(**values))


async def test_unknown_job_is_not_found(stores: Stores) -> None:
    """There is nothing to clean up for a job that never was."""
    job = await seed_job(stores.database)
    with pytest.raises(NotFound):
        await run_step(stores, type(job)(uuid.uuid4()), "begin_cleanup")


async def test_begin_fences_the_vector_store(stores: Stores) -> None:
    """After a cleanup began, a late worker can no longer write a point of the job."""
    job = await seed_crawl(stores.database, stores.vectors)
    await run_step(stores, job, "begin_cleanup")
    late = a_point(uuid.uuid4(), job.id, job.id, job.sources[0])
    with pytest.raises(Fenced):
        await stores.vectors.upsert(COLLECTION, [late], epochs={job.id: 1})


async def test_points_without_rows_go_and_are_counted(stores: Stores) -> None:
    """A point whose row is gone is found by its job, deleted, and in the receipt."""
    job = await seed_crawl(stores.database, stores.vectors)
    strays = [a_point(uuid.uuid4(), job.id, job.id, uuid.uuid4()) for _ in range(5)]
    await stores.vectors.upsert(COLLECTION, strays, epochs={job.id: 1})
    receipt = await clean(stores, job)
    assert receipt.deleted.vectors == job.counts.vectors + 5
    assert receipt.planned == receipt.deleted


async def test_a_thousand_and_one_points_make_two_batches(stores: Stores) -> None:
    """A batch has at most 1,000 ids; when it is done they are forgotten."""
    job = await seed_crawl(stores.database, stores.vectors, n_sources=7, chunks_each=143, entities_each=0)
    assert job.counts.vectors == 1001
    receipt = await clean(stores, job)
    assert receipt.deleted == job.counts
    batches = await _batches(stores, job.cleanup_id)
    assert [(row.counts, row.ids, row.done) for row in batches if row.store == "vectors"] == [
        ({"vectors": 1000}, [], True),
        ({"vectors": 1}, [], True),
    ]


async def test_rows_of_a_collection_that_never_was_are_no_error(stores: Stores) -> None:
    """A job that was stopped before its first point has rows and nothing to delete for them in the vector store."""
    job = await seed_crawl(stores.database, stores.vectors, without_points=12)
    async with stores.database.transaction() as connection:
        await connection.execute(
            sa.text("UPDATE extractions SET collection = 'never_made' WHERE job_id = :job"), {"job": job.id}
        )
    receipt = await clean(stores, job)
    assert (receipt.status, receipt.deleted) == (CleanupStatus.CLEANED, job.counts)
    assert receipt.deleted.vectors == 0


@pytest.mark.parametrize(("bound", "sizes"), [(9, [1, 2, 2]), (8, [1, 2, 2]), (7, [1] * 5), (3, [1] * 5)])
async def test_large_sources_make_smaller_batches(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, bound: int, sizes: list[int]
) -> None:
    """A transaction takes no more extractions than its bound, and one source in any case."""
    monkeypatch.setattr("ke.storage.cleanup_rows.MAX_EXTRACTIONS", bound)
    job = await seed_crawl(stores.database, stores.vectors, n_sources=5, chunks_each=4)
    receipt = await clean(stores, job)
    assert receipt.deleted == job.counts
    batches = [row.counts for row in await _batches(stores, job.cleanup_id) if row.store == "sources"]
    # Several are under way at once, and any may be the first to be done.
    assert sorted(batch["sources"] for batch in batches) == sizes


async def test_failed_verification_can_be_made_good(stores: Stores) -> None:
    """What came late fails the cleanup and is named; the next run removes it under the same receipt."""
    job = await seed_crawl(stores.database, stores.vectors)
    for step in STEPS[:-1]:
        await run_step(stores, job, step)
    await stores.vectors.upsert(COLLECTION, [a_point(uuid.uuid4(), job.id, job.id, uuid.uuid4())], epochs={job.id: 2})
    failed = await run_step(stores, job, "verify_cleanup")
    assert failed.status is CleanupStatus.FAILED
    assert failed.remaining == StoreCounts(vectors=1)
    assert f"1 point in collection {COLLECTION}" in failed.error
    assert await job_column(stores, job.id, "artifacts") == "cleanup_failed"
    again = await clean(stores, job, run_id="run-2")
    assert again.status is CleanupStatus.CLEANED
    assert again.started_at == failed.started_at
    assert again.planned == again.deleted == job.counts + StoreCounts(vectors=1)
    assert again.error is None
    assert await job_column(stores, job.id, "write_epoch") == 3


async def _tasks_of(stores: Stores, job_id: uuid.UUID) -> int:
    async with stores.database.transaction() as connection:
        sql = sa.text("SELECT count(*) FROM extraction_tasks WHERE job_id = :job")
        return (await connection.execute(sql, {"job": job_id})).scalar_one()


async def _batches(stores: Stores, cleanup_id: str) -> list:
    async with stores.database.transaction() as connection:
        sql = sa.text("SELECT * FROM cleanup_batches WHERE cleanup_id = :id ORDER BY store, number")
        return list(await connection.execute(sql, {"id": cleanup_id}))
