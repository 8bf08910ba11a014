"""Retries of dead letters of records, and purging them, on real stores."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.records import StructuredActivities
from activities.retry import RetryActivities
from ke.contracts.activities import CloseJob, StructuredSlice
from ke.contracts.jobs import Counters, JobStatus
from ke.contracts.naming import retry_id
from ke.contracts.retries import CloseRetry, LetterFilter, OpenedRetry, RetryInput, RetryOutcome, RetryStatus
from ke.extraction.chat import ChatClient
from ke.runtime.pool import CpuPool
from ke.storage import retries
from ke.storage.closing import end_job
from ke.storage.dead_letters import purge_dead_letters
from ke.storage.jobs import get_job
from ke.storage.tables import dead_letters, extraction_tasks, records
from tests.integration.record_lanes import GOOD, WRONG, Lanes, a_job
from tests.llm_server import Call, LlmServer, Reply, open_llm
from tests.stores import Stores, open_stores


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("records")) as opened:
        yield opened


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[CpuPool]:
    pool = CpuPool(1)
    yield pool
    await pool.close()


@pytest.fixture
async def llm() -> AsyncIterator[LlmServer]:
    async with open_llm() as server:
        yield server


def only(*bad: int) -> Any:
    """A model that reads all sources but these."""

    def answer(call: Call) -> Reply:
        return WRONG if any(f"Text {n}\n" in call.document for n in bad) else GOOD

    return answer


async def an_ended_job(stores: Stores, pool: CpuPool, llm: LlmServer, **options: Any) -> Lanes:
    """A job of four sources that was closed with two dead letters of records."""
    job = await a_job(stores.database, pool, [f"Text {n}" for n in range(4)], **options)
    llm.script = only(1, 2)
    assert (await job.run(llm)).done
    outcome = await end_job(stores.database, CloseJob(job.piece.job_id))
    assert (outcome.status, outcome.counters.dead_letters) == (JobStatus.COMPLETED_WITH_ERRORS, 2)
    return job


async def open_retry(stores: Stores, job: Lanes, number: int = 1, **letters: Any) -> tuple[RetryInput, OpenedRetry]:
    key = job.piece.job_id
    at = "2026-01-01T00:00:00+00:00"
    retry = RetryInput(retry_id(key, number), key, number, at, LetterFilter(**letters))
    lane = RetryActivities(stores.database, stores.vectors)
    return retry, await ActivityEnvironment().run(lane.open_retry, retry)


async def run_slice(stores: Stores, job: Lanes, llm: LlmServer, epoch: int) -> Any:
    async with ChatClient(llm.endpoint()) as client:
        lane = StructuredActivities(stores.database, job.pool, client)
        piece = StructuredSlice(job.piece.job_id, epoch, collecting=False)
        return await ActivityEnvironment().run(lane.extract_records, piece)


async def close(stores: Stores, retry: RetryInput, status: RetryStatus = RetryStatus.COMPLETED) -> RetryOutcome:
    return await retries.end_retry(stores.database, CloseRetry(retry.id, retry.job_id, status))


async def letters_of(job: Lanes) -> set[uuid.UUID]:
    return {row.subject_id for row in await job.rows(dead_letters)}


async def test_letters_of_records_are_tried_again(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """A retry asks about what had failed, and nothing else: one succeeds, one fails again, and all is counted."""
    job = await an_ended_job(stores, pool, llm)
    retry, opened = await open_retry(stores, job, subject="record")
    assert opened.letters == 2
    assert opened.extract is not None
    assert opened.extract.schema is not None
    assert await job.states() == ["done", "pending", "pending", "done"]
    llm.calls.clear()
    llm.script = only(2)
    report = await run_slice(stores, job, llm, opened.epoch)
    assert (report.done, report.counters.records, report.counters.dead_letters) == (True, 3, 1)
    assert len(llm.calls) == 3
    outcome = await close(stores, retry)
    assert (outcome.letters, outcome.succeeded, outcome.failed) == (2, 1, 1)
    assert (outcome.counters.records, outcome.counters.dead_letters) == (3, 1)
    assert outcome.counters.tokens_in == report.counters.tokens_in == 900
    assert await letters_of(job) == {job.sources[2]}
    assert len(await job.rows(records)) == 3


async def test_cancelled_retry_buries_what_it_did_not_try(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """What was taken up and not asked about is the dead letter it was, and nothing is skipped."""
    job = await an_ended_job(stores, pool, llm)
    retry, _ = await open_retry(stores, job)
    outcome = await close(stores, retry, RetryStatus.CANCELLED)
    assert (outcome.succeeded, outcome.failed) == (0, 0)
    assert (outcome.counters.dead_letters, outcome.counters.records_skipped) == (2, 0)
    assert await job.states() == ["done", "failed", "failed", "done"]
    assert await letters_of(job) == {job.sources[1], job.sources[2]}


async def test_retry_beyond_the_budget_buries_its_letters(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """A job that has spent its budget asks about nothing more; the letters stay letters and are not skipped."""
    job = await an_ended_job(stores, pool, llm, max_tokens=8_000)
    async with stores.database.transaction() as connection:
        await connection.execute(sa.text("UPDATE job_progress SET tokens_in = 7900 WHERE job_id = :j"), {"j": job.id})
    retry, opened = await open_retry(stores, job)
    llm.calls.clear()
    report = await run_slice(stores, job, llm, opened.epoch)
    assert (report.done, report.counters.records_skipped, llm.calls) == (True, 0, [])
    outcome = await close(stores, retry)
    assert (outcome.counters.dead_letters, outcome.counters.records_skipped) == (2, 0)
    assert await letters_of(job) == {job.sources[1], job.sources[2]}


async def test_purged_letters_are_counted_no_more(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """Letters of records are purged like the others, off the lane and off the result."""
    job = await an_ended_job(stores, pool, llm)
    async with stores.database.transaction() as connection:
        await get_job(connection, job.id, lock=True)
        assert await purge_dead_letters(connection, job.id, LetterFilter(subject="record")) == 2
    async with stores.database.transaction() as connection:
        row = await get_job(connection, job.id)
    assert row.result is not None
    assert (row.result["dead_letters"], (await job.progress()).counters.dead_letters) == (0, 0)


async def test_a_source_may_fail_in_both_lanes(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """Its two letters are two things: retrying the one leaves the other as it is."""
    job = await an_ended_job(stores, pool, llm)
    source = job.sources[1]
    async with stores.database.transaction() as connection:
        mine = (extraction_tasks.c.job_id == job.id) & (extraction_tasks.c.source_id == source)
        await connection.execute(sa.update(extraction_tasks).where(mine).values(state="failed"))
        await connection.execute(
            sa.text(
                "INSERT INTO dead_letters (id, job_id, subject, subject_id, url, error_type, error_message, attempts,"
                " first_failed_at, last_failed_at) VALUES (gen_random_uuid(), :job, 'source', :source, 'u', 'e', 'm',"
                " 1, now(), now())"
            ),
            {"job": job.id, "source": source},
        )
    retry, opened = await open_retry(stores, job, subject="record")
    llm.script = only()
    assert (await run_slice(stores, job, llm, opened.epoch)).counters.records == 4
    await close(stores, retry)
    (letter,) = await job.rows(dead_letters)
    assert (letter.subject, letter.subject_id) == ("source", source)


async def test_lanes_do_not_wait_for_each_other(stores: Stores, pool: CpuPool, llm: LlmServer) -> None:
    """While the extract lane holds all of a job's tasks locked, records are written after it and never against it."""
    job = await a_job(stores.database, pool, [f"Text {n}" for n in range(3)])
    llm.script = [GOOD]
    mine = extraction_tasks.c.job_id == job.id
    async with stores.database.transaction() as connection:
        await connection.execute(sa.select(extraction_tasks).where(mine).with_for_update())
        running = asyncio.create_task(job.run(llm))
        await asyncio.sleep(1)
        await connection.execute(sa.update(extraction_tasks).where(mine).values(state="done"))
    report = await running
    assert (report.done, report.counters) == (True, Counters(records=3, tokens_in=300, tokens_out=30))
