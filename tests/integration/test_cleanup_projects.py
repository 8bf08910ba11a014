"""What the receipt of a project's cleanup counts, against real stores: each thing once, whoever deletes it."""

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.project_cleanup import ProjectCleanupActivities
from ke.contracts.cleanup import CleanupStatus, ProjectCleanup, ProjectEnd, StoreCounts
from ke.storage import cleanup_projects
from ke.storage.cleanup_projects import ProjectCounts, count_project
from ke.storage.tables import jobs
from tests.cleaning import STEPS, clean, run_step
from tests.seeding import Seeded, seed_crawl, seed_extract
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


async def _crawl(stores: Stores, project: str) -> Seeded:
    return await seed_crawl(stores.database, stores.vectors, project=project)


async def _run(stores: Stores, step: str, argument: Any) -> Any:
    activities = ProjectCleanupActivities(stores.database, stores.vectors)
    return await ActivityEnvironment().run(getattr(activities, step), argument)


@pytest.mark.parametrize("at_once", [1, 8])
async def test_each_thing_is_counted_once(stores: Stores, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """What jobs share is counted with the owner of the source, or the maker when the owner is not of the project."""
    project = f"p-{uuid.uuid4()}"
    elsewhere = await _crawl(stores, "elsewhere")
    owners = [await _crawl(stores, project) for _ in range(2)]
    readers = [await seed_extract(stores.database, stores.vectors, o, project=project) for o in (*owners, elsewhere)]
    visitor = await seed_extract(stores.database, stores.vectors, owners[0], project="elsewhere")
    monkeypatch.setattr(cleanup_projects, "_COUNTED_AT_ONCE", at_once)
    found = await count_project(stores.database, stores.vectors, project)
    everything = sum((job.counts for job in (*owners, *readers, visitor)), StoreCounts())
    assert found == ProjectCounts(5, everything)


async def test_cleanup_of_a_job_that_is_at_work_is_a_part(stores: Stores) -> None:
    """What it deletes is in the project's sums, though it began before and ended on its own."""
    project = f"p-{uuid.uuid4()}"
    job = await _crawl(stores, project)
    for step in ("begin_cleanup", "delete_vectors"):
        await run_step(stores, job, step)
    receipt = await _run(stores, "begin_project_cleanup", ProjectCleanup(project, f"cleanup-{project}"))
    assert receipt.planned == job.counts
    for step in STEPS[1:]:
        await run_step(stores, job, step)
    closed = await _run(stores, "close_project_cleanup", ProjectEnd(project, receipt.id, jobs=0, after=0))
    assert (closed.status, closed.jobs) == (CleanupStatus.CLEANED, 1)
    assert (closed.planned, closed.deleted) == (job.counts, job.counts)


async def test_cleanup_of_a_job_that_begins_and_ends_meanwhile_is_a_part(stores: Stores) -> None:
    """A job that was to be cleaned was planned, so what its own cleanup deletes counts; a later job's does not."""
    project = f"p-{uuid.uuid4()}"
    job = await _crawl(stores, project)
    async with stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(artifacts="cleaning"))
    receipt = await _run(stores, "begin_project_cleanup", ProjectCleanup(project, f"cleanup-{project}"))
    await clean(stores, job)
    await clean(stores, await _crawl(stores, project))
    closed = await _run(stores, "close_project_cleanup", ProjectEnd(project, receipt.id, jobs=0, after=0))
    assert (closed.status, closed.jobs) == (CleanupStatus.CLEANED, 1)
    assert (closed.planned, closed.deleted) == (job.counts, job.counts)
