"""The extract lane on real stores and a real process pool, slice by slice, without Temporal."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from temporalio.testing import ActivityEnvironment

from activities.entities import EntityActivities
from activities.extract import COMMIT_CHUNKS, GROUP_SOURCES, GROUPS, ExtractActivities
from ke.contracts.activities import CloseJob, ExtractSlice
from ke.contracts.errors import Fenced, VectorStoreUnavailable, WorkLost
from ke.contracts.jobs import CollectSpec, ExtractSpec, JobInput, JobKind
from ke.runtime.pool import CpuPool
from ke.storage.closing import end_job
from ke.storage.jobs import open_job
from ke.storage.listing import ExtractionRow, list_extractions
from ke.storage.tables import extraction_tasks, sources
from ke.storage.vectors.base import Point
from tests.seeding import sources_of
from tests.stores import Stores, open_stores

SENTENCE = "Robert Stevenson built the lighthouse on the Bell Rock off Arbroath in 1810. "
TEXT = SENTENCE.strip()


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    folder: Path = tmp_path_factory.mktemp("extract")
    async with open_stores(folder) as opened:
        yield opened


@pytest.fixture
async def pool() -> AsyncIterator[CpuPool]:
    pool = CpuPool(1)
    yield pool
    await pool.close()


async def a_crawl(stores: Stores, texts: list[str]) -> str:
    """An ended crawl that owns these texts."""
    spec = CollectSpec(("https://site.example/",), follow=True)
    job = JobInput(str(uuid.uuid4()), JobKind.CRAWL, datetime.now(UTC).isoformat(), collect=spec)
    key = uuid.UUID(job.job_id)
    values = sources_of(key, texts)
    async with stores.database.transaction() as connection:
        await open_job(connection, job, "run")
        await connection.execute(insert(sources), values)
    await end_job(stores.database, CloseJob(job.job_id))
    return job.job_id


async def an_extract(stores: Stores, crawl: str, **options: object) -> ExtractSlice:
    """An open extract job's slice."""
    spec = ExtractSpec(source_job_id=crawl, **options)
    job = JobInput(str(uuid.uuid4()), JobKind.EXTRACT, datetime.now(UTC).isoformat(), extract=spec)
    async with stores.database.transaction() as connection:
        row = await open_job(connection, job, "run")
    return ExtractSlice(job.job_id, row.write_epoch, spec, collecting=False)


async def test_killed_pool_process_costs_no_source(stores: Stores, pool: CpuPool) -> None:
    """A pool process that dies under its work is replaced, and every source is extracted."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * (n + 1) * 20 for n in range(12)]))
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    running = asyncio.create_task(ActivityEnvironment().run(lane.extract_sources, piece))
    victims: list[psutil.Process] = []
    async with asyncio.timeout(60):
        while not victims:
            await asyncio.sleep(0.05)
            children = psutil.Process(os.getpid()).children()
            victims = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    victims[0].send_signal(signal.SIGKILL)
    report = await running
    assert report.done
    assert report.counters.sources_extracted == 12
    assert report.counters.dead_letters == 0
    assert await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id)) == report.counters.vectors > 0


async def test_batch_ends_its_slice(stores: Stores, pool: CpuPool) -> None:
    """With `chunk_size` a slice is one batch of so many sources; the last one says that it was the last."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE] * 5), chunk_size=2, entities=None)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    reports = [await ActivityEnvironment().run(lane.extract_sources, piece) for _ in range(4)]
    assert [report.counters.sources_extracted for report in reports] == [2, 4, 5, 5]
    assert [report.done for report in reports][-1] is True
    assert not any(report.done for report in reports[:2])


async def test_cancel_between_sources_tells_which_were_skipped(stores: Stores, pool: CpuPool) -> None:
    """A cancelled slice keeps what is finished; the job's result counts and names the rest."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 800] * 120))
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    environment = ActivityEnvironment()
    running = asyncio.create_task(environment.run(lane.extract_sources, piece))
    await asyncio.sleep(1)
    environment.cancel()
    report = await running
    assert (report.done, report.interrupted) == (False, True)
    outcome = await end_job(stores.database, CloseJob(piece.job_id, cancelled=True))
    counters = outcome.counters
    assert counters.sources_extracted + counters.sources_skipped == 120
    assert counters.sources_skipped > 0
    assert counters.extractions == counters.vectors
    points = await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id))
    assert points == counters.vectors


async def test_stop_within_a_long_source_waits_for_one_commit(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What of it is committed stays and is counted once; the source is given back, and extracted to its end later."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 6000]), entities=None)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    environment = ActivityEnvironment()
    upsert, sizes = stores.vectors.upsert, list[int]()

    async def cancel_at_the_second(collection: str, points: Sequence[Point], **options: Any) -> None:
        await upsert(collection, points, **options)
        sizes.append(len(points))
        if len(sizes) == 2:
            environment.cancel()
            await asyncio.sleep(0)

    with monkeypatch.context() as patched:
        patched.setattr(stores.vectors, "upsert", cancel_at_the_second)
        stopped = await environment.run(lane.extract_sources, piece)
    assert (stopped.done, stopped.interrupted, sizes) == (False, True, [COMMIT_CHUNKS] * 2)
    assert (stopped.counters.sources_extracted, stopped.counters.extractions) == (0, 2 * COMMIT_CHUNKS)
    assert await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id)) == 2 * COMMIT_CHUNKS
    ended = await ActivityEnvironment().run(lane.extract_sources, piece)
    points = await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id))
    assert ended.done
    assert ended.counters.sources_extracted == 1
    assert ended.counters.extractions == ended.counters.vectors == points > 4 * COMMIT_CHUNKS


async def test_next_group_is_extracted_while_one_is_committed(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Points that take long hold no more than so many groups up; a stop amid them gives back what is not committed."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE] * 80), entities=None)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    upsert, writing, all_write, go_on = stores.vectors.upsert, list[int](), asyncio.Event(), asyncio.Event()

    async def wait(collection: str, points: Sequence[Point], **options: Any) -> None:
        writing.append(len(points))
        if len(writing) == GROUPS:
            all_write.set()
        await go_on.wait()
        await upsert(collection, points, **options)

    environment = ActivityEnvironment()
    with monkeypatch.context() as patched:
        patched.setattr(stores.vectors, "upsert", wait)
        running = asyncio.create_task(environment.run(lane.extract_sources, piece))
        async with asyncio.timeout(30):
            await all_write.wait()
        await asyncio.sleep(0.3)
        assert await tasks(stores, piece) == {"claimed": GROUPS * GROUP_SOURCES, "pending": 80 - GROUPS * GROUP_SOURCES}
        environment.cancel()
        go_on.set()
        stopped = await running
    kept = GROUPS * GROUP_SOURCES
    assert writing == [GROUP_SOURCES] * GROUPS
    assert (stopped.interrupted, stopped.counters.sources_extracted, stopped.counters.vectors) == (True, kept, kept)
    assert await tasks(stores, piece) == {"done": kept, "pending": 80 - kept}
    ended = await ActivityEnvironment().run(lane.extract_sources, piece)
    assert (ended.done, ended.counters.sources_extracted, ended.counters.vectors) == (True, 80, 80)
    assert await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id)) == 80


async def chunks(stores: Stores, piece: ExtractSlice) -> list[ExtractionRow]:
    """What a job has of chunks."""
    async with stores.database.transaction() as connection:
        return await list_extractions(connection, uuid.UUID(piece.job_id), limit=1_000)


async def tasks(stores: Stores, piece: ExtractSlice) -> dict[str, int]:
    """How many sources of a job are in which state."""
    columns = (extraction_tasks.c.state, sa.func.count())
    statement = sa.select(*columns).where(extraction_tasks.c.job_id == uuid.UUID(piece.job_id)).group_by(columns[0])
    async with stores.database.transaction() as connection:
        return {record[0]: record[1] for record in await connection.execute(statement)}


async def test_failure_of_one_commit_ends_the_slice(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a commit fails with is what the slice fails with; the next attempt extracts everything once.

    The rows that it leaves have no text yet, and get it when they are `ready`.
    """
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE] * 80), entities=None)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))

    async def fail(*_: Any, **__: Any) -> None:
        raise VectorStoreUnavailable("it is down")

    with monkeypatch.context() as patched:
        patched.setattr(stores.vectors, "upsert", fail)
        with pytest.raises(VectorStoreUnavailable):
            await ActivityEnvironment().run(lane.extract_sources, piece)
    left = await chunks(stores, piece)
    assert {(row.state, row.text, row.end, row.tokens) for row in left} == {("pending", "", 0, 0)}
    report = await ActivityEnvironment().run(lane.extract_sources, piece)
    assert (report.done, report.counters.sources_extracted, report.counters.vectors) == (True, 80, 80)
    made = await chunks(stores, piece)
    assert {row.id for row in left} < {row.id for row in made}
    assert {(row.state, row.text, row.start, row.end) for row in made} == {("ready", TEXT, 0, len(TEXT))}
    assert all(row.tokens > 0 for row in made)


async def test_sources_that_fail_together_are_extracted_alone(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of several sources that goes wrong, in whatever way, costs none of them."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE] * 20), entities=None)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))

    async def fail(*_: Any) -> None:
        raise ValueError("of one of them")

    monkeypatch.setattr("activities.extract.extract_short", fail)
    report = await ActivityEnvironment().run(lane.extract_sources, piece)
    assert (report.counters.sources_extracted, report.counters.dead_letters) == (20, 0)


async def test_late_worker_cannot_end_its_successors_lane(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two slices of one lane the first is refused, and the second extracts everything."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 100] * 20))
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    upsert, is_late, go_on = stores.vectors.upsert, asyncio.Event(), asyncio.Event()

    async def held(*args: Any, **options: Any) -> None:
        is_late.set()
        await go_on.wait()
        await upsert(*args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(stores.vectors, "upsert", held)
        late = asyncio.create_task(ActivityEnvironment().run(lane.extract_sources, piece))
        await asyncio.wait_for(is_late.wait(), 60)
    report = await ActivityEnvironment().run(lane.extract_sources, piece)
    go_on.set()
    with pytest.raises((WorkLost, Fenced)):
        await late
    assert report.done
    assert report.counters.sources_extracted == 20


async def test_text_without_words_is_a_source_without_chunks(stores: Stores, pool: CpuPool) -> None:
    """An empty source is extracted, into nothing, and one that nothing can be made of fails alone."""
    piece = await an_extract(stores, await a_crawl(stores, ["", " \n ", SENTENCE]))
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    report = await ActivityEnvironment().run(lane.extract_sources, piece)
    assert report.done
    assert report.counters.sources_extracted == 3
    assert report.counters.extractions == 1
