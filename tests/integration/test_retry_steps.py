"""The steps of a retry of dead letters on real stores, without Temporal: whole, repeated, cut short and overtaken."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.retry import RetryActivities
from ke.contracts.activities import CloseJob, ExtractSlice
from ke.contracts.cleanup import CleanupInput
from ke.contracts.errors import Conflict, Fenced, RowLocked, WorkLost
from ke.contracts.ids import dead_letter_id, page_id, source_id
from ke.contracts.jobs import (
    CancellationReceipt,
    CollectSpec,
    Counters,
    CrawlLimits,
    ExtractSpec,
    JobInput,
    JobKind,
    JobStatus,
    Lane,
)
from ke.contracts.naming import retry_id
from ke.contracts.retries import CloseRetry, LetterFilter, OpenedRetry, RetryInput, RetryOutcome, RetryStatus
from ke.runtime.pool import CpuPool
from ke.storage import extracting, requeueing, retries
from ke.storage.cleanup_runs import open_cleanup
from ke.storage.cleanups import active_dependents, tombstone
from ke.storage.closing import end_job
from ke.storage.collecting import PageOutcome, PageState, write_pages
from ke.storage.database import Database
from ke.storage.dead_letters import DeadLetter, list_dead_letters, purge_dead_letters, write_dead_letters
from ke.storage.frontier import claim_pages
from ke.storage.jobs import JobRow, find_job, get_job, lane_progress, open_job, take_lease
from ke.storage.tables import extraction_tasks, jobs, pages, sources
from tests.stores import Stores, open_stores

SITE = "https://site.example"
AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class Ended:
    """An ended job, and what a test does with it."""

    stores: Stores
    id: uuid.UUID

    @property
    def db(self) -> Any:
        return self.stores.database.transaction()

    def retry(self, number: int = 1, **letters: Any) -> RetryInput:
        return RetryInput(
            retry_id(str(self.id), number),
            str(self.id),
            number,
            datetime.now(UTC).isoformat(),
            LetterFilter(**letters),
        )

    async def open(self, retry: RetryInput) -> OpenedRetry:
        """The first activity; its start is lost, so it writes that too."""
        return await ActivityEnvironment().run(self.activities.open_retry, retry)

    async def close(self, retry: RetryInput, status: RetryStatus, **options: Any) -> RetryOutcome:
        return await retries.end_retry(self.stores.database, CloseRetry(retry.id, retry.job_id, status), **options)

    @property
    def activities(self) -> RetryActivities:
        return RetryActivities(self.stores.database, self.stores.vectors)

    async def row(self) -> JobRow:
        async with self.db as connection:
            return await get_job(connection, self.id)

    async def counters(self, lane: Lane) -> Counters:
        async with self.db as connection:
            return (await lane_progress(connection, self.id, lane)).counters

    async def states(self) -> dict[str, tuple[str, int]]:
        """State and attempts of each page, by path."""
        async with self.db as connection:
            found = await connection.execute(
                sa.select(pages.c.url, pages.c.state, pages.c.attempts).where(pages.c.job_id == self.id)
            )
            return {record.url.removeprefix(SITE): (record.state, record.attempts) for record in found}

    async def letters(self) -> dict[str, int]:
        """The attempts of each letter, by path."""
        async with self.db as connection:
            found = await list_dead_letters(connection, self.id, limit=100)
        return {letter.url.removeprefix(SITE): letter.attempts for letter in found}


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    folder: Path = tmp_path_factory.mktemp("retry")
    async with open_stores(folder) as opened:
        yield opened


async def a_crawl(
    stores: Stores, failed: int, *, fetched: int = 1, key: uuid.UUID | None = None, **limits: int
) -> Ended:
    """An ended crawl of so many pages that failed and that did not, counted by its lane as it would have."""
    spec = CollectSpec((f"{SITE}/ok-0",), follow=True, limits=CrawlLimits(**limits))
    job = JobInput(str(key or uuid.uuid4()), JobKind.CRAWL, AT.isoformat(), collect=spec)
    key, claim = uuid.UUID(job.job_id), uuid.uuid4()
    paths = [*(f"/ok-{n}" for n in range(fetched)), *(f"/no-{n}" for n in range(failed))]
    async with stores.database.transaction() as connection:
        row = await open_job(connection, job, "run")
        values = [
            {"id": page_id(key, SITE + p), "job_id": key, "url": SITE + p, "depth": n} for n, p in enumerate(paths)
        ]
        await connection.execute(sa.insert(pages), values)
        await take_lease(connection, key, Lane.COLLECT, claim)
        claimed = await claim_pages(connection, key, claim, limit=100)
        batch = [
            PageOutcome(entry, PageState.FAILED, AT, reason="no", error_type="http-500", http_status=500)
            if "/no-" in entry.url
            else PageOutcome(entry, PageState.FETCHED, AT, bytes=10)
            for entry in claimed
        ]
        await write_pages(connection, key, row.write_epoch, claim, batch, extract=False)
    await end_job(stores.database, CloseJob(job.job_id))
    return Ended(stores, key)


async def an_extract(stores: Stores, owner: uuid.UUID, failed: int, key: uuid.UUID | None = None) -> Ended:
    """An ended extract job, all of whose sources failed; another job owns them."""
    keys = [source_id(owner, f"{SITE}/{n}") for n in range(failed)]
    text = "Robert Stevenson built the lighthouse on the Bell Rock off Arbroath in 1810. " * 20
    rows = [
        {
            "id": source,
            "job_id": owner,
            "url": f"{SITE}/{n}",
            "text": text,
            "content_type": "text/html",
            "content_hash": n.to_bytes(32, "big"),
            "bytes": len(text),
            "fetched_at": AT,
        }
        for n, source in enumerate(keys)
    ]
    spec = ExtractSpec(source_ids=tuple(map(str, keys)), entities=None)
    job = JobInput(str(key or uuid.uuid4()), JobKind.EXTRACT, AT.isoformat(), extract=spec)
    key, claim = uuid.UUID(job.job_id), uuid.uuid4()
    async with stores.database.transaction() as connection:
        await connection.execute(sa.insert(sources), rows)
        row = await open_job(connection, job, "run")
        await connection.execute(sa.insert(extraction_tasks), [{"job_id": key, "source_id": source} for source in keys])
        await take_lease(connection, key, Lane.EXTRACT, claim)
        for source in await extracting.claim_tasks(connection, key, claim, limit=failed):
            letter = DeadLetter("source", source.id, source.url, "unextractable", "no", 1, AT)
            await extracting.fail_task(connection, key, row.write_epoch, claim, letter)
    await end_job(stores.database, CloseJob(job.job_id))
    return Ended(stores, key)


async def test_letters_are_taken_up_once_and_counted(stores: Stores) -> None:
    """Opening twice is opening once: pages are pending with no attempts, the lane's counters go down with them."""
    job = await a_crawl(stores, failed=3)
    before = await job.row()
    retry = job.retry()
    first = await job.open(retry)
    assert await job.open(retry) == first
    assert (first.letters, first.epoch, first.extract) == (3, before.write_epoch + 1, None)
    states = await job.states()
    assert {states[f"/no-{n}"] for n in range(3)} == {("pending", 0)}
    assert states["/ok-0"] == ("fetched", 0)
    counted = await job.counters(Lane.COLLECT)
    assert (counted.pages_fetched, counted.pages_failed, counted.dead_letters) == (1, 0, 0)
    assert len(await job.letters()) == 3
    row = await job.row()
    assert (row.retry_id, row.retries, row.status) == (retry.id, 1, before.status)


async def test_only_what_fits_is_taken_up(stores: Stores) -> None:
    """A filter by id leaves the other letters as they are."""
    job = await a_crawl(stores, failed=3)
    key = dead_letter_id(job.id, "page", page_id(job.id, f"{SITE}/no-1"))
    assert (await job.open(job.retry(ids=(str(key),)))).letters == 1
    assert {path: state for path, (state, _) in (await job.states()).items() if state == "pending"} == {
        "/no-1": "pending"
    }


async def test_limits_make_room_for_all_that_is_taken_up(stores: Stores) -> None:
    """`max_pages` is raised just so far that every letter fits, `max_bytes` counts on top of what was used."""
    job = await a_crawl(stores, failed=2, fetched=3, max_pages=4, max_bytes=100)
    opened = await job.open(job.retry())
    assert opened.collect is not None
    assert (opened.collect.limits.max_pages, opened.collect.limits.max_bytes) == (5, 130)
    roomy = await a_crawl(stores, failed=2, fetched=3, max_pages=40)
    opened = await roomy.open(roomy.retry())
    assert opened.collect is not None
    assert opened.collect.limits.max_pages == 40


async def test_letters_come_first_and_others_as_far_as_there_is_room(stores: Stores) -> None:
    """Of the pages that are left under the limit, each letter has one, also while it waits for its next attempt."""
    job = await a_crawl(stores, failed=3)
    await job.open(job.retry())
    async with job.db as connection:
        new = [
            {"id": page_id(job.id, f"{SITE}/new-{n}"), "job_id": job.id, "url": f"{SITE}/new-{n}", "depth": 0}
            for n in range(4)
        ]
        await connection.execute(sa.insert(pages), new)
        waits = sa.update(pages).where(pages.c.id == page_id(job.id, f"{SITE}/no-2"))
        await connection.execute(waits.values(not_before=sa.func.now() + sa.text("interval '1 hour'")))
        claimed = await requeueing.claim_letters_first(connection, job.id, uuid.uuid4(), limit=10, pages_left=5)
        assert [entry.url.removeprefix(SITE) for entry in claimed] == ["/no-0", "/no-1", "/new-0", "/new-1"]


@pytest.mark.parametrize("limit", [1, 1000], ids=["row-by-row", "at-once"])
async def test_what_was_not_tried_is_buried_again(stores: Stores, limit: int) -> None:
    """A cancelled retry leaves letters, pages and counters as they were; what was newly found is skipped."""
    job = await a_crawl(stores, failed=3)
    before, counted, states = await job.row(), await job.counters(Lane.COLLECT), await job.states()
    letters = await job.letters()
    retry = job.retry()
    await job.open(retry)
    async with job.db as connection:
        new = {"id": page_id(job.id, f"{SITE}/new"), "job_id": job.id, "url": f"{SITE}/new", "depth": 1}
        await connection.execute(sa.insert(pages).values(new))
        await claim_pages(connection, job.id, uuid.uuid4(), limit=2)
    outcome = await job.close(retry, RetryStatus.CANCELLED, limit=limit)
    assert (outcome.status, outcome.letters, outcome.succeeded, outcome.failed) == (RetryStatus.CANCELLED, 3, 0, 0)
    after = await job.states()
    assert after.pop("/new") == ("skipped", 0)
    assert {path: state for path, (state, _) in after.items()} == {path: state for path, (state, _) in states.items()}
    assert (await job.letters(), await job.counters(Lane.COLLECT)) == (letters, counted)
    row = await job.row()
    assert (row.retry_id, row.status, row.completed_at) == (None, before.status, before.completed_at)
    assert row.result == (before.result or {}) | {"pages_skipped": 1}
    again = await job.close(retry, RetryStatus.FAILED)
    assert again.status is RetryStatus.CANCELLED


async def test_end_waits_for_a_row_no_longer_than_it_may(stores: Stores) -> None:
    """A row that a frozen slice holds makes an end of a retry give up, and nothing is changed."""
    job = await a_crawl(stores, failed=1)
    retry = job.retry()
    await job.open(retry)
    async with job.db as held:
        await held.execute(sa.select(jobs.c.id).where(jobs.c.id == job.id).with_for_update(read=True))
        async with asyncio.timeout(30):
            with pytest.raises(RowLocked):
                await job.close(retry, RetryStatus.FAILED, lock_timeout_s=0.05)
    assert (await job.row()).retry_id == retry.id
    assert (await job.close(retry, RetryStatus.FAILED)).status is RetryStatus.FAILED


async def test_result_keeps_what_is_not_counted(stores: Stores) -> None:
    """The cancellation's receipt and the time stay in the result; the counters are those of the rows."""
    job = await a_crawl(stores, failed=1)
    receipt = CancellationReceipt(AT.isoformat(), AT.isoformat(), 0.0, 1, reason="enough")
    async with job.db as connection:
        kept = {"elapsed_s": 7.5, "cancellation": asdict(receipt), "skipped_source_ids": ["gone"]}
        await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(result=kept))
    retry = job.retry()
    await job.open(retry)
    await job.close(retry, RetryStatus.COMPLETED)
    result = (await job.row()).result or {}
    assert (result["elapsed_s"], result["cancellation"]) == (7.5, {**asdict(receipt), "timed_out": []})
    assert (result["pages_fetched"], result["pages_failed"]) == (1, 1)
    assert "skipped_source_ids" not in result


async def test_purged_letters_are_counted_no_more(stores: Stores) -> None:
    """After a purge the lane and the result count the letters that are left, also when a retry has ended since."""
    job = await a_crawl(stores, failed=3)
    key = dead_letter_id(job.id, "page", page_id(job.id, f"{SITE}/no-1"))
    async with job.db as connection:
        assert await purge_dead_letters(connection, job.id, LetterFilter(ids=(str(key),))) == 1
        assert await purge_dead_letters(connection, job.id, LetterFilter(subject="source")) == 0

    async def counted() -> list[tuple[int, int]]:
        row, lane = await job.row(), await job.counters(Lane.COLLECT)
        result = row.result or {}
        return [(result["pages_failed"], result["dead_letters"]), (lane.pages_failed, lane.dead_letters)]

    assert await counted() == [(3, 2), (3, 2)]
    retry = job.retry()
    await job.open(retry)
    await job.close(retry, RetryStatus.CANCELLED)
    assert await counted() == [(3, 2), (3, 2)]


async def test_purged_letters_of_sources_leave_the_extract_lane(stores: Stores) -> None:
    """A source's letter is taken off the lane that extracts, while the pages' lane stays as it is."""
    job = await an_extract(stores, (await a_crawl(stores, failed=0)).id, failed=2)
    async with job.db as connection:
        assert await purge_dead_letters(connection, job.id) == 2
    assert (await job.counters(Lane.EXTRACT), await job.counters(Lane.COLLECT)) == (Counters(), Counters())
    assert ((await job.row()).result or {})["dead_letters"] == 0


async def test_old_epochs_are_fenced_by_the_start(stores: Stores) -> None:
    """What a slice of before the retry still has may not be written beside it."""
    job = await a_crawl(stores, failed=1)
    before = await job.row()
    await job.open(job.retry())
    with pytest.raises(Fenced):
        async with job.db as connection:
            await write_pages(connection, job.id, before.write_epoch, uuid.uuid4(), [], extract=False)


class OvertakenDatabase:
    """A database whose third transaction begins only after another attempt has done all there was to do."""

    def __init__(self, job: Ended, retry: RetryInput) -> None:
        self._job = job
        self._retry = retry
        self._number = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        self._number += 1
        if self._number == 3:
            await self._job.open(self._retry)
        async with self._job.db as connection:
            yield connection


async def test_late_attempt_to_open_takes_nothing_up(stores: Stores) -> None:
    """Of two attempts the one that was overtaken is refused before it touches a letter."""
    job = await a_crawl(stores, failed=2)
    retry = job.retry()
    late = RetryActivities(cast("Database", OvertakenDatabase(job, retry)), stores.vectors)
    with pytest.raises(WorkLost):
        await ActivityEnvironment().run(late.open_retry, retry)
    async with job.db as connection:
        assert (await retries.get_retry(connection, retry.id)).letters == 2


async def test_cleanup_takes_the_job_over(stores: Stores) -> None:
    """A cleanup that begins clears the retry and fences it; the retry's end then touches its own row only."""
    job = await a_crawl(stores, failed=2)
    retry = job.retry()
    opened = await job.open(retry)
    async with job.db as connection:
        cleanup = await open_cleanup(connection, CleanupInput(str(job.id)), "run-1")
    assert not cleanup.blocked_by
    row = await job.row()
    assert (row.retry_id, row.write_epoch) == (None, opened.epoch + 1)
    with pytest.raises(Fenced):
        await job.open(retry)
    outcome = await job.close(retry, RetryStatus.CANCELLED)
    assert outcome.status is RetryStatus.CANCELLED
    assert (await job.states())["/no-0"][0] == "pending"
    with pytest.raises(Conflict):
        await job.open(job.retry(2))


async def test_record_that_goes_takes_its_retries_along(stores: Stores) -> None:
    """A tombstone has no retries, and what one still writes is refused."""
    job = await a_crawl(stores, failed=1)
    retry = job.retry()
    opened = await job.open(retry)
    async with job.db as connection:
        await tombstone(connection, job.id)
        assert await retries.find_retry(connection, retry.id) is None
        row = await find_job(connection, job.id)
    assert row is not None
    assert (row.retry_id, row.write_epoch) == (None, opened.epoch + 1)
    assert (await job.close(retry, RetryStatus.CANCELLED)).letters == 0


async def test_job_that_is_retried_is_in_the_way_of_its_owners_cleanup(stores: Stores) -> None:
    """An ended extract job counts as active for the job whose sources it reads, for as long as it is retried."""
    owner = await a_crawl(stores, failed=0)
    job = await an_extract(stores, owner.id, failed=1)
    retry = job.retry()
    for opened in (False, True):
        if opened:
            await job.open(retry)
        async with job.db as connection:
            assert await active_dependents(connection, owner.id) == ([job.id] if opened else [])
    await job.close(retry, RetryStatus.CANCELLED)
    async with job.db as connection:
        assert await active_dependents(connection, owner.id) == []


async def test_retry_locks_jobs_in_the_order_in_which_cleanups_do(stores: Stores) -> None:
    """The jobs of a retry are locked by their ids: while it waits for the first of them it does not hold the second."""
    one, other = sorted(uuid.uuid4() for _ in range(2))
    owner = await a_crawl(stores, failed=0, key=one)
    job = await an_extract(stores, owner.id, failed=1, key=other)

    async def hold() -> None:
        async with job.db as connection:
            assert set(await retries.hold_jobs_of_letters(connection, job.id)) == {owner.id}

    async with owner.db as connection:
        await get_job(connection, owner.id, lock=True)
        waiting = asyncio.create_task(hold())
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await connection.execute(sa.select(jobs.c.id).where(jobs.c.id == job.id).with_for_update(nowait=True))
    await asyncio.wait_for(waiting, 10)


async def test_sources_that_failed_are_extracted(stores: Stores) -> None:
    """The real extract lane does what a retry has queued for it; letters go with each source, counters are exact."""
    owner = await a_crawl(stores, failed=0)
    job = await an_extract(stores, owner.id, failed=3)
    assert (await job.counters(Lane.EXTRACT)).dead_letters == 3
    retry = job.retry(subject="source")
    opened = await job.open(retry)
    assert opened.extract is not None
    assert (opened.collect, opened.letters, (await job.counters(Lane.EXTRACT)).dead_letters) == (None, 3, 0)
    pool = CpuPool(1)
    try:
        lane = ExtractActivities(stores.database, stores.vectors, pool, EntityActivities(stores.database, pool))
        piece = ExtractSlice(str(job.id), opened.epoch, opened.extract, collecting=False)
        report = await ActivityEnvironment().run(lane.extract_sources, piece)
    finally:
        await pool.close()
    assert report.done
    outcome = await job.close(retry, RetryStatus.COMPLETED)
    assert (outcome.succeeded, outcome.failed, await job.letters()) == (3, 0, {})
    row = await job.row()
    counted = await job.counters(Lane.EXTRACT) + await job.counters(Lane.ENTITIES)
    assert outcome.counters == replace(counted, sources=0)
    assert (row.result or {})["sources_extracted"] == 3
    points = await stores.vectors.count_job("wordllama-256", job.id)
    assert points == (row.result or {})["vectors"] > 0
    assert row.status is JobStatus.COMPLETED_WITH_ERRORS


async def test_source_that_fails_again_keeps_its_first_time(stores: Stores) -> None:
    """A letter that is written again adds its attempts up."""
    owner = await a_crawl(stores, failed=0)
    job = await an_extract(stores, owner.id, failed=1)
    source = source_id(owner.id, f"{SITE}/0")
    later = DeadLetter("source", source, f"{SITE}/0", "work-lost", "again", 3, datetime.now(UTC))
    async with job.db as connection:
        await write_dead_letters(connection, job.id, [later])
        (letter,) = await list_dead_letters(connection, job.id, limit=10)
    assert (letter.attempts, letter.first_failed_at, letter.error_type) == (4, AT, "work-lost")
    assert letter.last_failed_at == later.failed_at
