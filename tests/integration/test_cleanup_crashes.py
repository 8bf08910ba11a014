"""The receipt stays exact wherever the worker dies."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from activities.cleanup import CleanupActivities
from ke.contracts.cleanup import CleanupStatus, StoreCounts
from tests.cleaning import STEPS, BrittleDatabase, BrittleVectors, Crash, Tripwire, receipt_of, run_step
from tests.seeding import Seeded, seed_crawl, store_counts
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every step of a small job has more than one."""
    monkeypatch.setattr("ke.storage.cleanup_points.MAX_BATCH", 4)
    monkeypatch.setattr("ke.storage.cleanup_rows.MAX_SOURCES", 1)
    monkeypatch.setattr("ke.storage.cleanup_rows.MAX_ROWS", 2)


async def a_job(stores: Stores) -> Seeded:
    return await seed_crawl(
        stores.database, stores.vectors, n_sources=2, chunks_each=3, entities_each=1, n_dead_letters=1
    )


async def run_until_crash(stores: Stores, job: Seeded, wire: Tripwire, **options: Any) -> str | None:
    """Runs the steps on brittle stores; returns the step in which the worker died, or None when it did not."""
    brittle: Any = CleanupActivities(BrittleDatabase(stores, wire), BrittleVectors(stores, wire))  # type: ignore[arg-type]
    for step in STEPS:
        try:
            await run_step(stores, job, step, activities=brittle, **options)
        except Crash:
            return step
    return None


@pytest.mark.parametrize("terminated", [False, True], ids=["retried", "terminated-and-started-again"])
async def test_crash_at_every_boundary_keeps_the_receipt_exact(stores: Stores, *, terminated: bool) -> None:
    """The worker dies after each write to the vector store, before and after each commit: same numbers.

    Either the step is retried, or the whole run was terminated and another begins from the start.
    """
    whole = Tripwire()
    assert await run_until_crash(stores, await a_job(stores), whole) is None
    assert whole.passed.count("after delete") == 2
    few_at_once = asyncio.Semaphore(4)

    async def crash(at: int) -> None:
        async with few_at_once:
            await crash_and_go_on(stores, at, terminated=terminated)

    await asyncio.gather(*(crash(at) for at in range(1, len(whole.passed) + 1)))


async def crash_and_go_on(stores: Stores, at: int, *, terminated: bool) -> None:
    """One job whose worker dies at that boundary."""
    job, wire = await a_job(stores), Tripwire(at)
    died_in = await run_until_crash(stores, job, wire)
    assert died_in is not None
    for step in STEPS if terminated else STEPS[STEPS.index(died_in) :]:
        await run_step(stores, job, step, run_id="run-2" if terminated else "run-1")
    receipt = await receipt_of(stores, job)
    where = f"{wire.passed[-1]} in {died_in}, boundary {at}"
    assert receipt.status is CleanupStatus.CLEANED, where
    assert (receipt.planned, receipt.deleted) == (job.counts, job.counts), where
    assert await store_counts(stores.database, stores.vectors, job.id) == StoreCounts(), where


async def test_worker_that_dies_again_and_again_still_ends(stores: Stores) -> None:
    """Each attempt dies a little later than the one before; the receipt is exact in the end."""
    job = await a_job(stores)
    for at in range(1, 200):
        if await run_until_crash(stores, job, Tripwire(at)) is None:
            break
    receipt = await receipt_of(stores, job)
    assert (receipt.status, receipt.planned, receipt.deleted) == (CleanupStatus.CLEANED, job.counts, job.counts)


async def test_a_running_receipt_tells_what_is_left(stores: Stores) -> None:
    """While a cleanup runs its receipt shows the finished batches, and what was planned beyond them."""
    job = await a_job(stores)
    await run_step(stores, job, "begin_cleanup")
    await run_step(stores, job, "delete_vectors")
    receipt = await receipt_of(stores, job)
    assert receipt.status is CleanupStatus.RUNNING
    assert receipt.deleted == StoreCounts(vectors=6)
    assert receipt.deleted + receipt.remaining == receipt.planned
