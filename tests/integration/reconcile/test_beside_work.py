"""Reconciliations beside jobs and cleanups at work: they find nothing, and harm nothing."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.reconcile import ReconcileActivities, RestoreActivities
from ke.contracts.cleanup import CleanupStatus
from ke.contracts.errors import VectorStoreUnavailable
from ke.contracts.reconciling import Finding, FindingKind, ReconcileStep
from ke.runtime.pool import CpuPool
from ke.storage.cleanup_batches import claim_points
from ke.storage.reconcile_rows import hold_orphans
from tests.cleaning import clean, run_step
from tests.integration.test_extract_lane import SENTENCE, a_crawl, an_extract
from tests.reconciling import execute, scalar
from tests.seeding import COLLECTION, a_point, seed_crawl, seed_extract, store_counts
from tests.stores import Stores


@asynccontextmanager
async def repairing(stores: Stores, pool: CpuPool) -> AsyncIterator[list[Finding]]:
    """Repairs everything there is to repair, again and again while the block runs; yields what was found."""
    compare = ReconcileActivities(stores.database, stores.vectors)
    restore = RestoreActivities(stores.database, stores.vectors, pool)
    step = ReconcileStep("reconcile-test", repair=True)
    seen: list[Finding] = []
    stop = asyncio.Event()

    async def rounds() -> None:
        while not stop.is_set() or not seen:
            for look in (compare.delete_pending_rows, compare.compare_points, restore.restore_points):
                seen.extend(await ActivityEnvironment().run(look, step))

    work = asyncio.create_task(rounds())
    try:
        yield seen
    finally:
        stop.set()
        await work


def wrong(seen: list[Finding]) -> list[Finding]:
    return [finding for finding in seen if finding.found or finding.repaired]


async def test_running_extraction_is_left_alone(stores: Stores) -> None:
    """Repairs beside an extract job find none of its unfinished work, and the job ends with every row and point."""
    pool = CpuPool(1)
    try:
        piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 60] * 24), entities=None)
        async with repairing(stores, pool) as seen:
            lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
            report = await ActivityEnvironment().run(lane.extract_sources, piece)
    finally:
        await pool.close()
    assert wrong(seen) == []
    job_id = uuid.UUID(piece.job_id)
    rows = await scalar(stores, "SELECT count(*) FROM extractions WHERE job_id = :id AND state = 'ready'", id=job_id)
    assert rows == report.counters.extractions == await stores.vectors.count_job("wordllama-256", job_id) > 0


async def test_cleanup_is_left_alone_and_its_receipt_is_exact(stores: Stores) -> None:
    """Repairs beside a cleanup restore nothing that it deleted, and delete nothing that it counts."""
    job = await seed_crawl(stores.database, stores.vectors, n_sources=60, chunks_each=20)
    reader = await seed_extract(stores.database, stores.vectors, job)
    pool = CpuPool(1)
    try:
        async with repairing(stores, pool) as seen:
            receipt = await clean(stores, job)
    finally:
        await pool.close()
    assert wrong(seen) == []
    assert receipt.status is CleanupStatus.CLEANED
    assert receipt.deleted.vectors == job.counts.vectors + reader.counts.vectors
    assert receipt.deleted.extractions == job.counts.extractions + reader.counts.extractions
    assert (await store_counts(stores.database, stores.vectors, job.id)).total == 0


async def test_point_that_is_to_be_deleted_gets_no_row_meanwhile(stores: Stores) -> None:
    """A row for a point that is being deleted is written before, and the point stays, or after it is gone."""
    job = await seed_crawl(stores.database, stores.vectors)
    lone = [uuid.uuid4() for _ in range(2)]
    change = "UPDATE extractions SET id = :new WHERE id = :old"
    async with stores.database.transaction() as connection:
        await connection.execute(sa.text("DELETE FROM entities WHERE job_id = :id"), {"id": job.id})
        await connection.execute(sa.text(change), {"new": lone[0], "old": job.extractions[0]})
    async with stores.database.transaction() as connection:
        assert await hold_orphans(connection, COLLECTION, lone) == lone[1:]
        writer = asyncio.create_task(execute(stores, change, new=lone[1], old=job.extractions[1]))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'extractions'::regclass"
        async with asyncio.timeout(30):
            while not await scalar(stores, waits):  # noqa: ASYNC110  (Postgres's state: it can only be asked)
                await asyncio.sleep(0.02)
        assert not writer.done()
    await writer
    await execute(stores, "DELETE FROM extractions WHERE job_id = :id", id=job.id)
    await stores.vectors.delete(COLLECTION, list(job.extractions))


async def test_slow_vector_store_is_given_up_while_the_lock_is_held(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion never outlasts the lock that makes it safe: the step fails as unavailable, and is tried again."""
    job = await seed_crawl(stores.database, stores.vectors)
    lone = a_point(uuid.uuid4(), job.id, job.id, job.sources[0])
    await stores.vectors.upsert(COLLECTION, [lone], epochs={job.id: 1})
    compare = ReconcileActivities(stores.database, stores.vectors)

    async def hang(collection: str, ids: Sequence[uuid.UUID]) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr("activities.reconcile.STORE_UNDER_LOCK_S", 0.1)
        patch.setattr(stores.vectors, "delete", hang)
        with pytest.raises(VectorStoreUnavailable, match="held"):
            await compare._delete_orphans(COLLECTION, [lone.id])
    [finding] = await ActivityEnvironment().run(compare.compare_points, ReconcileStep("reconcile-test", repair=True))
    assert (finding.found, finding.repaired) == (1, 1)


async def test_points_that_a_cleanup_has_counted_are_left_to_it(stores: Stores) -> None:
    """A lone point in an open batch is its cleanup's to delete, so that the receipt stays exact."""
    job = await seed_crawl(stores.database, stores.vectors)
    left = list(job.extractions[:3])
    await run_step(stores, job, "begin_cleanup")
    async with stores.database.transaction() as connection:
        await claim_points(connection, job.cleanup_id, [(COLLECTION, left)])
        await connection.execute(sa.text("DELETE FROM extractions WHERE job_id = :id"), {"id": job.id})
    compare = ReconcileActivities(stores.database, stores.vectors)
    [finding] = await ActivityEnvironment().run(compare.compare_points, ReconcileStep("reconcile-test", repair=True))
    assert (finding.found, finding.repaired) == (len(job.extractions), len(job.extractions) - len(left))
    assert await stores.vectors.count_ids(COLLECTION, left) == len(left)
    receipt = await clean(stores, job)
    assert receipt.status is CleanupStatus.CLEANED
    assert receipt.deleted.vectors == len(left)


async def test_next_attempt_goes_on_at_the_last_heartbeat(stores: Stores) -> None:
    """What an attempt that died had walked over is not walked over again, and its counts are kept."""
    job = await seed_crawl(stores.database, stores.vectors)
    ids = sorted(job.extractions)
    before = asdict(Finding(FindingKind.ROWS_WITHOUT_POINTS, checked=1000, found=7, examples=("x",)))
    environment = ActivityEnvironment()
    details = {"cursor": str(ids[5]), "findings": [before]}
    environment.info = replace(environment.info, heartbeat_details=[details])
    compare = ReconcileActivities(stores.database, stores.vectors)
    found = {f.kind: f for f in await environment.run(compare.compare_rows, ReconcileStep("reconcile-test"))}
    rest = await scalar(stores, "SELECT count(*) FROM extractions WHERE id > :id", id=ids[5])
    assert found[FindingKind.PENDING_ROWS].checked == rest
    assert found[FindingKind.ROWS_WITHOUT_POINTS].found == 7
    assert found[FindingKind.ROWS_WITHOUT_POINTS].checked >= 1000
    assert found[FindingKind.ROWS_WITHOUT_POINTS].examples == ("x",)
