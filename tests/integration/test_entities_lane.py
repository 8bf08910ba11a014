"""The entities lane on real stores, the real model and a real process pool, slice by slice, without Temporal."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities import entities as lane_module
from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.heartbeat import STOP_S
from activities.retry import RetryActivities
from ke.contracts.activities import CloseJob, EntitySlice, ExtractSlice, SliceReport
from ke.contracts.cleanup import StoreCounts
from ke.contracts.errors import Fenced, WorkLost
from ke.contracts.jobs import Counters, JobStatus, Lane
from ke.contracts.naming import retry_id, source_cleanup_id
from ke.contracts.retries import CloseRetry, RetryInput, RetryOutcome, RetryStatus
from ke.runtime.pool import CpuPool
from ke.storage import retries
from ke.storage.closing import end_job
from ke.storage.jobs import lane_progress
from ke.storage.tables import cleanups, dead_letters, entities, entity_tasks, extractions, jobs
from tests.cleaning import run_step
from tests.integration import poison
from tests.integration.test_extract_lane import SENTENCE, a_crawl, an_extract
from tests.seeding import Seeded
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    folder: Path = tmp_path_factory.mktemp("found")
    async with open_stores(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[CpuPool]:
    pool = CpuPool(1)
    yield pool
    await pool.close()


@pytest.fixture
def poisonous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that kill or upset the process that reads them do so."""
    monkeypatch.setattr(lane_module, "find_entities", poison.find_entities)


async def extracted(stores: Stores, pool: CpuPool, texts: list[str], **options: Any) -> ExtractSlice:
    """An extract job whose sources are searchable, and whose entities are not looked for."""
    piece = await an_extract(stores, await a_crawl(stores, texts), **options)
    piece = ExtractSlice(piece.job_id, piece.epoch, piece.spec, collecting=False, entities_apart=True)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    report = await ActivityEnvironment().run(lane.extract_sources, piece)
    assert (report.done, report.counters.entities) == (True, 0)
    return piece


def entities_of(piece: ExtractSlice, **options: Any) -> EntitySlice:
    return EntitySlice(piece.job_id, piece.epoch, "spacy", **{"extracting": True} | options)


async def find(
    stores: Stores, pool: CpuPool, piece: EntitySlice, environment: ActivityEnvironment | None = None
) -> SliceReport:
    lane = EntityActivities(stores.database, pool)
    return await (environment or ActivityEnvironment()).run(lane.find_entities, piece)


async def states(stores: Stores, job_id: str) -> dict[str, int]:
    statement = sa.select(entity_tasks.c.state, sa.func.count()).where(entity_tasks.c.job_id == uuid.UUID(job_id))
    async with stores.database.transaction() as connection:
        found = await connection.execute(statement.group_by(entity_tasks.c.state))
        return {record[0]: record[1] for record in found}


async def count(stores: Stores, table: sa.Table, job_id: str, *conditions: sa.ColumnElement[bool]) -> int:
    statement = sa.select(sa.func.count()).select_from(table).where(table.c.job_id == uuid.UUID(job_id), *conditions)
    async with stores.database.transaction() as connection:
        return int((await connection.execute(statement)).scalar_one())


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(60):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


async def totals(stores: Stores, job_id: str) -> Counters:
    async with stores.database.transaction() as connection:
        return (await lane_progress(connection, uuid.UUID(job_id), Lane.ENTITIES)).counters


async def test_text_is_searchable_before_its_entities_are_found(stores: Stores, pool: CpuPool) -> None:
    """After the extract lane every chunk is ready and no entity is there; each one that follows slices to its text."""
    piece = await extracted(stores, pool, [SENTENCE * (n + 1) * 20 for n in range(6)])
    ready = await count(stores, extractions, piece.job_id, extractions.c.state == "ready")
    assert ready == await stores.vectors.count_job("wordllama-256", uuid.UUID(piece.job_id)) > 6
    assert (await count(stores, entities, piece.job_id), await states(stores, piece.job_id)) == (0, {"pending": 6})
    report = await find(stores, pool, entities_of(piece))
    assert (report.done, report.counters.entity_sources) == (True, 6)
    assert report.counters.entities == await count(stores, entities, piece.job_id) > 0
    span = sa.func.substr(extractions.c.text, entities.c.start + 1, entities.c.end - entities.c.start)
    statement = sa.select(entities.c.text, span).join(extractions, extractions.c.id == entities.c.extraction_id)
    async with stores.database.transaction() as connection:
        found = list(await connection.execute(statement.where(entities.c.job_id == uuid.UUID(piece.job_id))))
    assert all(text == own for text, own in found)
    assert "Robert Stevenson" in {text for text, _ in found}


async def test_doing_it_again_changes_nothing(stores: Stores, pool: CpuPool) -> None:
    """A slice that is repeated after its commit was lost finds the same mentions, and counts none of them twice."""
    piece = await extracted(stores, pool, [SENTENCE * 40] * 3)
    first = await find(stores, pool, entities_of(piece))
    rows = await count(stores, entities, piece.job_id)
    async with stores.database.transaction() as connection:
        await connection.execute(
            sa.update(entity_tasks)
            .where(entity_tasks.c.job_id == uuid.UUID(piece.job_id))
            .values(state="claimed", claim=uuid.uuid4(), next_chunk=0)
        )
    again = await find(stores, pool, entities_of(piece))
    assert again.counters.entities == first.counters.entities == rows == await count(stores, entities, piece.job_id)


async def test_entities_follow_while_sources_still_come(stores: Stores, pool: CpuPool) -> None:
    """The lane runs beside the extract lane, waits for it, and ends when that has ended and all is found."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 10] * 30), chunk_size=10)
    piece = ExtractSlice(piece.job_id, piece.epoch, piece.spec, collecting=False, entities_apart=True)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    finding = asyncio.create_task(find(stores, pool, entities_of(piece)))
    reports: list[SliceReport] = []
    while not (reports and reports[-1].done):
        assert not finding.done()
        reports.append(await ActivityEnvironment().run(lane.extract_sources, piece))
    report = await finding
    assert (len(reports), report.done, report.counters.entity_sources) == (4, True, 30)
    assert await states(stores, piece.job_id) == {"done": 30}


async def test_lane_does_not_wait_for_one_that_ended_before(stores: Stores, pool: CpuPool) -> None:
    """Told by the workflow that extraction is over, it ends, whatever an older worker left unwritten."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE]))
    report = await find(stores, pool, entities_of(piece, extracting=False))
    assert (report.done, report.counters) == (True, Counters())
    waiting = await find(stores, pool, entities_of(piece, extracting=True, max_seconds=1))
    assert not waiting.done


async def test_workflow_without_the_lane_gets_its_entities(stores: Stores, pool: CpuPool) -> None:
    """Where a workflow began before there was this lane, the extract activity finds the entities after the text."""
    piece = await an_extract(stores, await a_crawl(stores, [SENTENCE * 10] * 5), chunk_size=3)
    lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
    reports = [await ActivityEnvironment().run(lane.extract_sources, piece) for _ in range(2)]
    assert [(report.done, report.counters.entity_sources) for report in reports] == [(False, 3), (True, 5)]
    assert reports[-1].counters.entities == await count(stores, entities, piece.job_id) > 0


async def test_killed_pool_process_costs_no_source(stores: Stores) -> None:
    """A pool process that dies under its work is replaced, and the entities of every source are found once."""
    pool = CpuPool(1)
    try:
        piece = await extracted(stores, pool, [SENTENCE * 100] * 12)
        before = {child.pid for child in psutil.Process(os.getpid()).children()}
        finding = asyncio.create_task(find(stores, pool, entities_of(piece)))
        await until(lambda: count(stores, entities, piece.job_id))
        for pid in before:
            process = psutil.Process(pid)
            if "spawn_main" in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        report = await finding
    finally:
        await pool.close()
    assert (report.done, report.counters.entity_sources, report.counters.dead_letters) == (True, 12, 0)
    assert report.counters.entities == await count(stores, entities, piece.job_id)


async def test_deadly_and_upsetting_sources_are_dead_letters(
    stores: Stores, pool: CpuPool, poisonous: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that kills its process three times fails alone, as does one that raises; a retry takes both up."""
    texts = [SENTENCE * 10] * 8
    texts[2], texts[5] = f"{SENTENCE} {poison.DEADLY}", f"{SENTENCE} {poison.UPSETTING}"
    piece = await extracted(stores, pool, texts)
    report = await find(stores, pool, entities_of(piece))
    assert (report.done, report.counters.entity_sources, report.counters.dead_letters) == (True, 6, 2)
    assert await states(stores, piece.job_id) == {"done": 6, "failed": 2}
    statement = sa.select(dead_letters.c.error_type, dead_letters.c.attempts, dead_letters.c.url)
    async with stores.database.transaction() as connection:
        letters = list(await connection.execute(statement.where(dead_letters.c.job_id == uuid.UUID(piece.job_id))))
    assert {(kind, attempts, url[-1]) for kind, attempts, url in letters} == {
        ("work-lost", 3, "2"),
        ("entities-failed", 1, "5"),
    }
    outcome = await end_job(stores.database, CloseJob(piece.job_id))
    assert (outcome.status, outcome.counters.dead_letters) == (JobStatus.COMPLETED_WITH_ERRORS, 2)

    cancelled = await retried(stores, pool, piece, number=1, finds=False)
    assert (cancelled.letters, cancelled.succeeded, cancelled.failed) == (2, 0, 0)
    assert (await totals(stores, piece.job_id)).dead_letters == 2
    again = await retried(stores, pool, piece, number=2)
    assert (again.letters, again.succeeded, again.failed, again.counters.dead_letters) == (2, 0, 2, 2)
    monkeypatch.undo()
    mended = await retried(stores, pool, piece, number=3)
    assert (mended.letters, mended.succeeded, mended.failed, mended.counters.dead_letters) == (2, 2, 0, 0)
    assert (mended.counters.entity_sources, await states(stores, piece.job_id)) == (8, {"done": 8})
    counted = await totals(stores, piece.job_id)
    assert (counted.entity_sources, counted.dead_letters) == (8, 0)
    assert counted.entities == mended.counters.entities == await count(stores, entities, piece.job_id)


async def retried(
    stores: Stores, pool: CpuPool, piece: ExtractSlice, *, number: int, finds: bool = True
) -> RetryOutcome:
    """Retries a job's dead letters, of which only the entities lane has some; it may be stopped before it begins."""
    retry = RetryInput(retry_id(piece.job_id, number), piece.job_id, number, "2026-01-01T00:00:00+00:00")
    opened = await ActivityEnvironment().run(RetryActivities(stores.database, stores.vectors).open_retry, retry)
    assert (opened.extract, opened.entities) == (None, "spacy")
    if finds:
        report = await find(stores, pool, EntitySlice(piece.job_id, opened.epoch, "spacy", extracting=False))
        assert report.done
    status = RetryStatus.COMPLETED if finds else RetryStatus.CANCELLED
    return await retries.end_retry(stores.database, CloseRetry(retry.id, piece.job_id, status))


async def test_cancel_keeps_what_is_found_and_counts_the_rest_as_skipped(stores: Stores, pool: CpuPool) -> None:
    """A cancelled slice hands back within a second; the job's result tells how many sources it left."""
    piece = await extracted(stores, pool, [SENTENCE * 200] * 40)
    environment = ActivityEnvironment()
    finding = asyncio.create_task(find(stores, pool, entities_of(piece), environment))
    await until(lambda: count(stores, entities, piece.job_id))
    environment.cancel()
    async with asyncio.timeout(STOP_S):
        report = await finding
    assert (report.done, report.interrupted) == (False, True)
    assert (await states(stores, piece.job_id)).get("claimed", 0) == 0
    assert report.counters.entities == await count(stores, entities, piece.job_id)
    counters = (await end_job(stores.database, CloseJob(piece.job_id, cancelled=True))).counters
    assert counters.entity_sources_skipped > 0
    assert (counters.sources_extracted, counters.sources_skipped) == (40, 0)
    assert counters.entity_sources + counters.entity_sources_skipped == 40
    assert counters.entities == report.counters.entities


async def test_long_source_goes_on_where_the_slice_before_ended(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One source of many chunks takes several slices, each of which begins after the chunks that are stored."""
    monkeypatch.setattr(lane_module, "LOAD_CHUNKS", 8)
    piece = await extracted(stores, pool, [SENTENCE * 400])
    write, gone_by = lane_module.entity_lane.write_found, 0.0

    async def write_once(*args: Any) -> Counters:
        nonlocal gone_by
        gone_by = 3600.0  # so that the slice's time is up once it has stored something
        return await write(*args)

    with monkeypatch.context() as patched:
        patched.setattr(lane_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + gone_by))
        patched.setattr(lane_module.entity_lane, "write_found", write_once)
        reports = [await find(stores, pool, entities_of(piece))]
    async with stores.database.transaction() as connection:
        reached = (await connection.execute(sa.select(sa.func.max(entity_tasks.c.next_chunk)))).scalar_one()
    assert (reports[0].done, reached > 0, reports[0].counters.entities > 0) == (False, True, True)
    while not reports[-1].done:
        reports.append(await find(stores, pool, entities_of(piece)))
    whole = await extracted(stores, pool, [SENTENCE * 400])
    at_once = await find(stores, pool, entities_of(whole))
    assert reports[-1].counters == at_once.counters


async def test_late_worker_cannot_write_beside_its_successor(
    stores: Stores, pool: CpuPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two slices of one lane the first is refused, and the second finds everything, counted once."""
    piece = await extracted(stores, pool, [SENTENCE * 100] * 10)
    commit, is_late, go_on = lane_module._Slice._commit, asyncio.Event(), asyncio.Event()

    async def held(one: lane_module._Slice) -> None:
        is_late.set()
        await go_on.wait()
        await commit(one)

    with monkeypatch.context() as patched:
        patched.setattr(lane_module._Slice, "_commit", held)
        late = asyncio.create_task(find(stores, pool, entities_of(piece)))
        await asyncio.wait_for(is_late.wait(), 60)
    report = await find(stores, pool, entities_of(piece))
    go_on.set()
    with pytest.raises((WorkLost, Fenced)):
        await late
    assert (report.done, report.counters.entity_sources) == (True, 10)
    assert report.counters.entities == await count(stores, entities, piece.job_id)


async def test_source_that_is_being_forgotten_is_left_and_not_waited_for(stores: Stores, pool: CpuPool) -> None:
    """A source with a cleanup under way is not given out; the lane ends without it, and its job skips it."""
    piece = await extracted(stores, pool, [SENTENCE * 5] * 3)
    mine = sa.select(entity_tasks.c.source_id).where(entity_tasks.c.job_id == uuid.UUID(piece.job_id)).limit(1)
    async with stores.database.transaction() as connection:
        source = (await connection.execute(mine)).scalar_one()
        receipt = {"id": source_cleanup_id(str(source)), "scope": "source", "source_id": source, "status": "running"}
        values = {"planned": {}, "started_at": sa.func.now(), **receipt}
        await connection.execute(sa.insert(cleanups).values(**values))
    report = await find(stores, pool, entities_of(piece))
    assert (report.done, report.counters.entity_sources) == (True, 2)
    outcome = await end_job(stores.database, CloseJob(piece.job_id))
    assert (outcome.counters.entity_sources, outcome.counters.entity_sources_skipped) == (2, 1)


async def test_cleanup_takes_the_lane_with_it(stores: Stores, pool: CpuPool) -> None:
    """The owner's cleanup counts and deletes what the lane found in its sources, and leaves none of its entries."""
    piece = await extracted(stores, pool, [SENTENCE * 5] * 3)
    report = await find(stores, pool, entities_of(piece))
    await end_job(stores.database, CloseJob(piece.job_id))
    owner = Seeded(uuid.UUID(piece.spec.source_job_id or ""), [], [], StoreCounts())
    for step in ("begin_cleanup", "delete_vectors", "delete_sources", "purge_dead_letters"):
        await run_step(stores, owner, step)
    receipt = await run_step(stores, owner, "verify_cleanup")
    assert (receipt.status, receipt.deleted.entities) == ("cleaned", report.counters.entities)
    assert await states(stores, piece.job_id) == {}


async def test_cleanup_of_the_owner_fences_the_lane(stores: Stores, pool: CpuPool) -> None:
    """What is found in sources whose owner was cleaned up meanwhile is not stored."""
    piece = await extracted(stores, pool, [SENTENCE * 100] * 6)
    finding = asyncio.create_task(find(stores, pool, entities_of(piece)))
    await until(lambda: count(stores, entity_tasks, piece.job_id, entity_tasks.c.state == "claimed"))
    async with stores.database.transaction() as connection:
        owner = uuid.UUID(piece.spec.source_job_id or "")
        await connection.execute(sa.update(jobs).where(jobs.c.id == owner).values(write_epoch=jobs.c.write_epoch + 1))
    with pytest.raises(Fenced):
        await finding
