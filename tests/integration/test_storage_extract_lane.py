"""The extract lane on real stores: what a job names is queued once, and the lane ends, whatever its slices do."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from ke.contracts.activities import CloseJob, ExtractSlice, SliceReport
from ke.contracts.jobs import ExtractSpec, JobKind, JobStatus, Lane
from ke.runtime.pool import CpuPool
from ke.storage.closing import end_job
from ke.storage.jobs import lane_progress
from ke.storage.tables import sources
from tests.cleaning import run_step
from tests.seeding import seed_crawl, seed_job
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    """Empty stores."""
    folder: Path = tmp_path_factory.mktemp("e")
    async with open_stores(folder) as stores:
        yield stores


async def store_sources(stores: Stores, owner: uuid.UUID, number: int) -> None:
    """Stores so many small sources for a job."""
    async with stores.database.transaction() as connection:
        for _ in range(number):
            key = uuid.uuid4()
            values = {"id": key, "job_id": owner, "url": f"https://site.example/{key}", "text": "Ada met Charles."}
            facts = {"content_type": "text/html", "content_hash": key.bytes, "bytes": 16, "fetched_at": sa.func.now()}
            await connection.execute(sa.insert(sources).values(**values, **facts))


async def run(stores: Stores, piece: ExtractSlice, environment: ActivityEnvironment | None = None) -> SliceReport:
    """One slice to its end."""
    pool = CpuPool(1)
    try:
        lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
        return await (environment or ActivityEnvironment()).run(lane.extract_sources, piece)
    finally:
        await pool.close()


async def test_sources_are_queued_by_the_first_slice_only(stores: Stores) -> None:
    """A job that works in batches extracts what its source job had when it began, and no more."""
    owner = (await seed_job(stores.database)).id
    job = (await seed_job(stores.database, kind=JobKind.EXTRACT, status=JobStatus.RUNNING)).id
    await store_sources(stores, owner, 3)
    piece = ExtractSlice(str(job), 1, ExtractSpec(chunk_size=2, source_job_id=str(owner)), collecting=False)
    first = await run(stores, piece)
    assert (first.done, first.counters.sources_extracted) == (False, 2)
    await store_sources(stores, owner, 2)
    second = await run(stores, piece)
    assert (second.done, second.counters.sources_extracted) == (True, 3)
    async with stores.database.transaction() as connection:
        assert (await lane_progress(connection, job, Lane.EXTRACT)).seeded


async def test_lane_ends_beside_a_source_that_is_being_forgotten(stores: Stores) -> None:
    """A cleanup that was terminated leaves its receipt running: its source is skipped, and nobody waits for it."""
    owner = await seed_crawl(stores.database, stores.vectors, n_sources=2)
    await run_step(stores, owner, "begin_cleanup", source=owner.sources[0], run_id="terminated")
    job = (await seed_job(stores.database, kind=JobKind.EXTRACT, status=JobStatus.RUNNING)).id
    spec = ExtractSpec(source_job_id=str(owner.id))
    report = await run(stores, ExtractSlice(str(job), 1, spec, collecting=False))
    assert (report.done, report.counters.sources_extracted) == (True, 1)
    outcome = await end_job(stores.database, CloseJob(str(job)))
    assert (outcome.counters.sources_extracted, outcome.counters.sources_skipped) == (1, 1)
