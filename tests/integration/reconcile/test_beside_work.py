"""Reconciliations beside jobs and cleanups at work: they find nothing, and harm nothing."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from temporalio.testing import ActivityEnvironment

from activities.extract import ExtractActivities
from activities.reconcile import ReconcileActivities, RestoreActivities
from ke.contracts.cleanup import CleanupStatus
from ke.contracts.reconciling import Finding, ReconcileStep
from ke.runtime.pool import CpuPool
from tests.cleaning import clean
from tests.integration.test_extract_lane import SENTENCE, a_crawl, an_extract
from tests.reconciling import scalar
from tests.seeding import seed_crawl, seed_extract, store_counts
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
            lane = ExtractActivities(stores.database, stores.vectors, pool)
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
