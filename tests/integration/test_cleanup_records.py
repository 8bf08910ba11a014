"""What the gateway reads of cleanups, and the tombstone of a deleted job."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupInput, CleanupStatus, StoreCounts
from ke.contracts.jobs import COUNTER_NAMES, JobKind, JobStatus
from ke.storage.cleanup_runs import ask_record_deletion, start_receipt
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import (
    active_dependents,
    deleted_counts,
    find_receipt,
    row_counts,
    tombstone,
    vector_counts,
)
from ke.storage.collect_shards import Shard, take_shard
from tests.cleaning import STEPS, clean, job_column, receipt_of, run_step
from tests.seeding import COLLECTION, seed_crawl, seed_extract, seed_job
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


async def test_counts_before_a_cleanup(stores: Stores) -> None:
    """A dry run counts what a cleanup would delete, what others made of the job's sources included."""
    job = await seed_crawl(stores.database, stores.vectors, n_pages=9)
    other = await seed_extract(stores.database, stores.vectors, job)
    everything = job.counts + other.counts
    async with stores.database.transaction() as connection:
        assert await row_counts(connection, CleanupTarget(job.id)) == replace(everything, vectors=0)
        assert await row_counts(connection, CleanupTarget(other.id)) == replace(other.counts, vectors=0)
        assert await find_receipt(connection, job.cleanup_id) is None
    assert await vector_counts(stores.vectors, CleanupTarget(job.id)) == {COLLECTION: everything.vectors}


async def test_job_without_artifacts_counts_zero(stores: Stores) -> None:
    """A job that made nothing has nothing, in either store."""
    job = await seed_job(stores.database)
    async with stores.database.transaction() as connection:
        assert (await row_counts(connection, CleanupTarget(job.id))).total == 0
    assert await vector_counts(stores.vectors, CleanupTarget(job.id)) == {}


async def test_dependents_are_known_before_they_begin(stores: Stores) -> None:
    """A job that was told to extract from these sources counts, by job, by source, or with its tasks written."""
    owner = await seed_crawl(stores.database, stores.vectors, n_sources=2)
    queued, extract = {"status": JobStatus.QUEUED}, {"kind": JobKind.EXTRACT}
    by_job = await seed_job(stores.database, **queued, **extract, params={"source_job_id": str(owner.id)})
    by_source = await seed_job(
        stores.database, **queued, **extract, params={"source_job_id": None, "source_ids": [str(owner.sources[1])]}
    )
    by_tasks = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.PAUSED)
    await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.COMPLETED)
    await seed_job(stores.database, **queued, **extract, params={"source_job_id": None, "source_ids": None})
    await seed_job(stores.database, status=JobStatus.RUNNING)
    async with stores.database.transaction() as connection:
        assert await active_dependents(connection, owner.id) == [by_job.id, by_source.id, by_tasks.id]


async def test_delete_record_leaves_a_tombstone_without_a_url(stores: Stores) -> None:
    """The row stays for its key, counters and times; nothing in it tells what the job was about."""
    job = await seed_crawl(stores.database, stores.vectors, idempotency_key="key-1")
    async with stores.database.transaction() as connection:
        await take_shard(connection, job.id, Shard(0, 2), uuid.uuid4())
    await clean(stores, job, delete_record=True)
    async with stores.database.transaction() as connection:
        row = (await connection.execute(sa.text("SELECT * FROM jobs WHERE id = :id"), {"id": job.id})).one()
        for table in ("job_progress", "collect_shards"):
            notes = await connection.execute(sa.text(f"SELECT 1 FROM {table} WHERE job_id = :id"), {"id": job.id})
            assert notes.first() is None
    assert row.deleted_at is not None
    assert row.idempotency_key == "key-1"
    assert (row.params, row.labels, row.error, row.cancel_reason) == ({}, {}, None, None)
    assert set(row.result) == {*COUNTER_NAMES, "elapsed_s"}
    assert "http" not in str(row)
    receipt = await receipt_of(stores, job)
    assert receipt.delete_record
    assert receipt.deleted == job.counts


async def test_tombstone_can_still_be_cleaned(stores: Stores) -> None:
    """A record that was deleted without its artifacts leaves them to a later cleanup."""
    job = await seed_crawl(stores.database, stores.vectors)
    async with stores.database.transaction() as connection:
        await tombstone(connection, job.id)
    deleted_at = await job_column(stores, job.id, "deleted_at")
    receipt = await clean(stores, job)
    assert receipt.deleted == job.counts
    assert await job_column(stores, job.id, "artifacts") == "cleaned"
    assert await job_column(stores, job.id, "deleted_at") == deleted_at


async def test_record_of_a_cleaned_job_can_go_later(stores: Stores) -> None:
    """Asked for with a second call, the record goes, and the receipt says so."""
    job = await seed_crawl(stores.database, stores.vectors)
    first = await clean(stores, job)
    second = await run_step(stores, job, "begin_cleanup", run_id="run-2", delete_record=True)
    assert second == replace(first, delete_record=True)
    assert await job_column(stores, job.id, "deleted_at") is not None


async def test_cleanup_can_be_asked_to_delete_the_record(stores: Stores) -> None:
    """The wish reaches a cleanup that was started, begun or not; after its end it is for the caller to fulfil."""
    for begun in (False, True):
        job = await seed_crawl(stores.database, stores.vectors)
        if begun:
            await run_step(stores, job, "begin_cleanup")
        async with stores.database.transaction() as connection:
            assert await ask_record_deletion(connection, job.id)
        receipt = await clean(stores, job)
        assert (receipt.delete_record, receipt.deleted) == (True, job.counts)
        assert await job_column(stores, job.id, "deleted_at") is not None
        async with stores.database.transaction() as connection:
            assert not await ask_record_deletion(connection, job.id)


async def test_wish_for_deletion_outlives_the_run_it_was_made_to(stores: Stores) -> None:
    """A later run that was started without the wish fulfils it all the same."""
    job = await seed_crawl(stores.database, stores.vectors)
    await run_step(stores, job, "begin_cleanup", delete_record=True)
    assert (await clean(stores, job, run_id="run-2")).delete_record
    assert await job_column(stores, job.id, "deleted_at") is not None


async def test_wish_made_while_the_receipt_is_closed_is_not_lost(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks between the last look at the wish and the end of the cleanup is told that it came too late."""
    job = await seed_crawl(stores.database, stores.vectors)
    asked: list[asyncio.Task[bool]] = []

    async def ask() -> bool:
        async with stores.database.transaction() as connection:
            return await ask_record_deletion(connection, job.id)

    async def count_slowly(connection: AsyncConnection, receipt_id: str) -> StoreCounts:
        asked.append(asyncio.create_task(ask()))
        await asyncio.wait(asked, timeout=0.5)
        return await deleted_counts(connection, receipt_id)

    for step in STEPS[:-1]:
        await run_step(stores, job, step)
    with monkeypatch.context() as patch:
        patch.setattr("ke.storage.cleanup_runs.deleted_counts", count_slowly)
        await run_step(stores, job, "verify_cleanup")
    assert [await task for task in asked] == [False]


async def test_tombstone_keeps_no_list_of_sources(stores: Stores) -> None:
    """What a job was to extract goes with its record, though no cleanup ever runs; other jobs keep theirs."""
    owner = await seed_crawl(stores.database, stores.vectors)
    other = await seed_extract(stores.database, stores.vectors, owner, chunks_each=0)
    async with stores.database.transaction() as connection:
        await tombstone(connection, other.id)
        tasks = await connection.execute(
            sa.text("SELECT DISTINCT job_id FROM extraction_tasks WHERE job_id IN (:owner, :other)"),
            {"owner": owner.id, "other": other.id},
        )
        assert list(tasks.scalars()) == [owner.id]


async def test_part_of_a_project_stays_one_whoever_starts_it_again(stores: Stores) -> None:
    """What a run that somebody else started deletes stays in the sum of the project; a later project takes it over."""
    job = await seed_crawl(stores.database, stores.vectors, n_sources=2)
    first, second = "cleanup-project-x-1", "cleanup-project-x-2"
    projects = sa.table("cleanups", *map(sa.column, ("id", "scope", "project", "status", "planned", "started_at")))
    async with stores.database.transaction() as connection:
        for key in (first, second):
            about = {"id": key, "scope": "project", "project": "x", "status": CleanupStatus.RUNNING.value}
            await connection.execute(
                sa.insert(projects).values(**about, planned=sa.text("'{}'"), started_at=sa.func.now())
            )
        await start_receipt(connection, CleanupInput(str(job.id), part_of=first), "the project's")
    await clean(stores, job)
    async with stores.database.transaction() as connection:
        assert await deleted_counts(connection, first) == job.counts
        await start_receipt(connection, CleanupInput(str(job.id), part_of=second), "another project's")
        assert (await deleted_counts(connection, first)).total == 0
        assert await deleted_counts(connection, second) == job.counts
