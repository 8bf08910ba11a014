"""What a cleanup tells of the extractions that other jobs made of the sources that go, against real stores."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.cleanup import ExtractingJob, Relying
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import tombstone
from ke.storage.relying import MAX_NAMED, RELYING, most_relying, relying_of, relying_on, relying_on_project
from ke.storage.tables import cleanups
from tests.cleaning import clean, receipt_of, run_step
from tests.seeding import Seeded, seed_crawl, seed_extract
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


async def _crawl(stores: Stores, project: str = "a") -> Seeded:
    return await seed_crawl(stores.database, stores.vectors, project=project)


async def _extract(stores: Stores, owner: Seeded, project: str, **options: Any) -> Seeded:
    return await seed_extract(stores.database, stores.vectors, owner, project=project, **options)


async def _relying(stores: Stores, job: Seeded, source: uuid.UUID | None = None) -> Relying:
    async with stores.database.transaction() as connection:
        return await relying_on(connection, CleanupTarget(job.id, source))


def _extracted(number: int, *jobs: tuple[Seeded, str]) -> Relying:
    named = tuple(ExtractingJob(str(job.id), project) for job, project in jobs)
    return Relying(extractions=number, extract_jobs=len(jobs), extracted_by=named)


async def test_extractions_of_other_jobs_are_told_with_their_projects(stores: Stores) -> None:
    """Of a job, of one source, and of a project: there those of other projects only. Its own never count."""
    own = f"p-{uuid.uuid4()}"
    crawl = await _crawl(stores, own)
    assert await _relying(stores, crawl) == Relying()
    inside, outside = await _extract(stores, crawl, own), await _extract(stores, crawl, "b")
    assert await _relying(stores, crawl) == _extracted(12, (inside, own), (outside, "b"))
    assert await _relying(stores, crawl, crawl.sources[0]) == _extracted(4, (inside, own), (outside, "b"))
    assert await _relying(stores, outside) == Relying(), "it takes no other job's"
    async with stores.database.transaction() as connection:
        assert await relying_on_project(connection, own) == _extracted(6, (outside, "b"))
        assert await relying_on_project(connection, "b") == Relying()


async def test_all_are_counted_and_ten_are_named(stores: Stores) -> None:
    """In the order of their submits."""
    crawl = await _crawl(stores)
    readers = [await _extract(stores, crawl, f"b{number}", chunks_each=1) for number in range(MAX_NAMED + 2)]
    first = tuple(ExtractingJob(str(job.id), f"b{number}") for number, job in enumerate(readers[:MAX_NAMED]))
    assert await _relying(stores, crawl) == Relying(extractions=36, extract_jobs=12, extracted_by=first)


async def test_only_what_a_search_finds_counts(stores: Stores) -> None:
    """Nothing of a job that is cleaned or being cleaned; but what is kept of one whose record was deleted."""
    crawl = await _crawl(stores)
    kept, half, cleaned = [await _extract(stores, crawl, "b") for _ in range(3)]
    async with stores.database.transaction() as connection:
        await tombstone(connection, kept.id)
    await run_step(stores, half, "begin_cleanup")
    await clean(stores, cleaned)
    assert await _relying(stores, crawl) == _extracted(6, (kept, "b"))


async def test_receipt_keeps_what_there_was_at_the_beginning(stores: Stores) -> None:
    """Though the plan that is made again, after the worker died in its middle, finds nothing of it any more."""
    crawl = await _crawl(stores)
    reader = await _extract(stores, crawl, "b")
    for step in ("begin_cleanup", "delete_sources"):
        await run_step(stores, crawl, step)
    assert await _relying(stores, crawl) == Relying()
    await clean(stores, crawl)
    assert (await receipt_of(stores, crawl)).relying == _extracted(6, (reader, "b"))


async def test_receipts_of_older_versions_are_read(stores: Stores) -> None:
    """What they do not name is nothing."""
    crawl = await _crawl(stores)
    await clean(stores, crawl)
    for old, relying in (({}, Relying()), ({"pages": 3, "jobs": 1, "job_ids": ["x"]}, Relying(3, 1, ("x",)))):
        async with stores.database.transaction() as connection:
            of = sa.update(cleanups).where(cleanups.c.id == crawl.cleanup_id)
            await connection.execute(of.values(planned={"vectors": 1, RELYING: old} if old else {"vectors": 1}))
        assert (await receipt_of(stores, crawl)).relying == relying


def test_pages_and_extractions_are_kept_apart() -> None:
    """Each from the run that found the most; and a plan gives back what was put in."""
    by = (ExtractingJob("y", "b"),)
    pages, chunks = Relying(3, 1, ("x",)), Relying(extractions=2, extract_jobs=1, extracted_by=by)
    both = Relying(3, 1, ("x",), 2, 1, by)
    assert most_relying(pages, chunks) == most_relying(chunks, pages) == most_relying(both, Relying()) == both
    assert relying_of({RELYING: asdict(both)}) == both
