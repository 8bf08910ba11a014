"""What is written and skipped in batches, on a real Postgres: broken off anywhere, it is taken up again."""

import uuid
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from ke.contracts.activities import CloseJob
from ke.contracts.errors import Fenced, WorkLost
from ke.contracts.ids import page_id
from ke.contracts.jobs import Counters, ExtractSpec, JobKind, JobStatus, Lane
from ke.storage import collect_batches, counting, frontier
from ke.storage.closing import end_job
from ke.storage.collect_batches import skip_batch, write_batch
from ke.storage.collecting import PageOutcome, PageState
from ke.storage.database import Database
from ke.storage.dead_letters import DeadLetter, purge_dead_letters
from ke.storage.extract_queue import queued_up_to, select_sources
from ke.storage.extracting import claim_tasks, fail_task
from ke.storage.frontier import FrontierEntry, add_pages, claim_pages
from ke.storage.jobs import lane_progress, take_lease
from ke.storage.tables import extraction_tasks, jobs, pages, sources
from tests.seeding import Seeded, seed_job

EPOCH = 1


class CrashError(Exception):
    """The worker dies here."""


async def a_crawl(database: Database, n_pages: int = 0) -> uuid.UUID:
    """A running crawl with open pages."""
    job = (await seed_job(database, status=JobStatus.RUNNING)).id
    async with database.transaction() as connection:
        await add_pages(connection, job, ((f"https://site.example/{number}", 1) for number in range(n_pages)))
    return job


async def with_sources(database: Database, number: int) -> Seeded:
    """A finished crawl that stored so many sources."""
    job = await seed_job(database)
    keys = [uuid.uuid4() for _ in range(number)]
    async with database.transaction() as connection:
        for key in keys:
            values = {"id": key, "job_id": job.id, "url": f"https://site.example/{key}", "text": "A text."}
            facts = {"content_type": "text/html", "content_hash": key.bytes, "bytes": 7, "fetched_at": sa.func.now()}
            await connection.execute(sa.insert(sources).values(**values, **facts))
    return Seeded(job.id, keys)


async def states(database: Database, table: sa.Table, job: uuid.UUID) -> dict[str, int]:
    """How many of the job's rows are in which state."""
    statement = sa.select(table.c.state, sa.func.count()).where(table.c.job_id == job).group_by(table.c.state)
    async with database.transaction() as connection:
        return {record[0]: record[1] for record in await connection.execute(statement)}


class Stepper:
    """Counts steps, and crashes at one of them."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.steps = 0
        self._crash_at = crash_at

    def __call__(self) -> None:
        self.steps += 1
        if self.steps == self._crash_at:
            raise CrashError


async def test_pages_are_skipped_no_more_than_a_batch_at_a_time(database: Database) -> None:
    """Each call marks as many as it may, breadth first, and says how many."""
    job = await a_crawl(database, 7)
    numbers = []
    for _ in range(4):
        async with database.transaction() as connection:
            numbers.append(await frontier.skip_open_pages(connection, job, "enough", limit=3))
    assert numbers == [3, 3, 1, 0]
    assert await states(database, pages, job) == {"skipped": 7}


async def test_lane_is_done_with_its_last_batch(database: Database) -> None:
    """What is skipped is counted with its batch; only the last one marks the lane as done."""
    job = await a_crawl(database, 5)
    ends = []
    for _ in range(2):
        async with database.transaction() as connection:
            totals, done = await skip_batch(connection, job, "max_pages", limit=3)
            lane = await lane_progress(connection, job, Lane.COLLECT)
        ends.append((totals.pages_skipped, done, lane.done))
    assert ends == [(3, False, False), (5, True, True)]
    assert lane.note == "max_pages"


async def test_lane_that_a_batch_brings_to_its_end_is_done_with_it(database: Database) -> None:
    """The batch that reaches a limit skips what is left and marks the lane as done, in its own transaction."""
    job, claim = await a_crawl(database, 3), uuid.uuid4()
    batch = [fetched(entry, 0) for entry in (await claimed(database, job, claim))[:2]]

    def end(totals: Counters) -> str | None:
        return "max_pages" if totals.pages_fetched == 2 else None

    totals, ended_by = await write_batch(database, job, EPOCH, claim, batch, extract=False, end=end)
    async with database.transaction() as connection:
        lane = await lane_progress(connection, job, Lane.COLLECT)
    assert (ended_by, lane.done, lane.note, lane.counters) == ("max_pages", True, "max_pages", totals)
    assert await states(database, pages, job) == {"fetched": 2, "skipped": 1}


async def test_end_that_was_broken_off_goes_on_after_the_last_batch(database: Database) -> None:
    """A crash between two batches keeps what was skipped, leaves the job open, and the next end counts all."""
    job = await a_crawl(database, 10)
    with pytest.raises(CrashError):
        await end_job(database, CloseJob(str(job), cancelled=True), Stepper(crash_at=2), limit=3)
    assert await states(database, pages, job) == {"skipped": 6, "pending": 4}
    outcome = await end_job(database, CloseJob(str(job), cancelled=True), limit=3)
    assert (outcome.status, outcome.counters.pages_skipped) == (JobStatus.CANCELLED, 10)


async def test_small_job_ends_in_one_transaction(database: Database) -> None:
    """What is less than a batch is skipped in the transaction that closes the job."""
    job = await a_crawl(database, 10)
    outcome = await end_job(database, CloseJob(str(job)), limit=11)
    assert (outcome.status, outcome.counters.pages_skipped) == (JobStatus.COMPLETED, 10)
    writers = sa.text(
        "SELECT xmin::text FROM pages WHERE job_id = :job UNION SELECT xmin::text FROM jobs WHERE id = :job"
    )
    async with database.transaction() as connection:
        assert len((await connection.execute(writers, {"job": job})).all()) == 1


async def test_counts_are_exact_across_pieces(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of all states are counted once, wherever one statement ends and the next begins."""
    job = await a_crawl(database, 10)
    async with database.transaction() as connection:
        for number, state in enumerate(("fetched", "failed", "duplicate", "fetched", "fetched")):
            page = page_id(job, f"https://site.example/{number}")
            await connection.execute(sa.update(pages).where(pages.c.id == page).values(state=state, bytes=100 + number))
    monkeypatch.setattr(counting, "COUNT_PIECE", 3)
    counters = (await end_job(database, CloseJob(str(job)))).counters
    assert (counters.pages_fetched, counters.pages_failed, counters.pages_duplicate) == (3, 1, 1)
    assert (counters.pages_skipped, counters.bytes) == (5, 510)


async def test_ended_job_is_not_skipped_again(database: Database) -> None:
    """A second end changes no row, whatever lies open."""
    job = await a_crawl(database, 2)
    first = await end_job(database, CloseJob(str(job)))
    async with database.transaction() as connection:
        await add_pages(connection, job, [("https://site.example/late", 1)])
    assert await end_job(database, CloseJob(str(job))) == first
    assert await states(database, pages, job) == {"skipped": 2, "pending": 1}


async def test_purge_does_not_make_a_failed_page_good(database: Database) -> None:
    """A job with a failed page ends with errors, though its dead letters are gone."""
    job, claim = await a_crawl(database, 1), uuid.uuid4()
    (entry,) = await claimed(database, job, claim)
    failed = PageOutcome(entry, PageState.FAILED, datetime.now(UTC), reason="HTTP 500", error_type="http-500")
    await write_batch(database, job, EPOCH, claim, [failed], extract=False)
    async with database.transaction() as connection:
        assert await purge_dead_letters(connection, job) == 1
    outcome = await end_job(database, CloseJob(str(job)))
    assert (outcome.status, outcome.counters.dead_letters) == (JobStatus.COMPLETED_WITH_ERRORS, 0)


async def test_purge_does_not_make_a_failed_source_good(database: Database) -> None:
    """The same for a source that could not be extracted."""
    owner, job = await with_sources(database, 1), await an_extract_job(database)
    claim = uuid.uuid4()
    async with database.transaction() as connection:
        await select_sources(connection, job, ExtractSpec(source_job_id=str(owner.id)))
        await take_lease(connection, job, Lane.EXTRACT, claim)
        (source,) = await claim_tasks(connection, job, claim, limit=1)
        letter = DeadLetter("source", source.id, source.url, "work-lost", "It is lost.", 3, datetime.now(UTC))
        await fail_task(connection, job, EPOCH, claim, letter)
        await purge_dead_letters(connection, job)
    assert (await end_job(database, CloseJob(str(job)))).status is JobStatus.COMPLETED_WITH_ERRORS


async def an_extract_job(database: Database) -> uuid.UUID:
    """A running extract job that has queued nothing yet."""
    return (await seed_job(database, kind=JobKind.EXTRACT, status=JobStatus.RUNNING)).id


@pytest.mark.parametrize("by_ids", [False, True])
async def test_sources_are_queued_in_their_order_across_batches(database: Database, by_ids: bool) -> None:  # noqa: FBT001
    """Batch by batch all sources are queued once, and are claimed in the order in which they were stored."""
    owner, job = await with_sources(database, 8), await an_extract_job(database)
    spec = (
        ExtractSpec(source_ids=tuple(map(str, owner.sources))) if by_ids else ExtractSpec(source_job_id=str(owner.id))
    )
    assert await queue_all(database, job, spec, limit=3) == 3
    async with database.transaction() as connection:
        claims = await claim_tasks(connection, job, uuid.uuid4(), limit=100)
    assert [source.id for source in claims] == list(owner.sources)


async def queue_all(database: Database, job: uuid.UUID, spec: ExtractSpec, *, limit: int) -> int:
    """Queues from where the job is on; returns in how many batches."""
    async with database.transaction() as connection:
        after: int | None = await queued_up_to(connection, job)
    batches = -1
    while after is not None:
        async with database.transaction() as connection:
            after = await select_sources(connection, job, spec, after=after, limit=limit)
        batches += 1
    return batches


async def test_queueing_goes_on_after_the_last_batch(database: Database) -> None:
    """Broken off after a batch, the next attempt begins behind it."""
    owner, job = await with_sources(database, 8), await an_extract_job(database)
    spec = ExtractSpec(source_job_id=str(owner.id))
    async with database.transaction() as connection:
        await select_sources(connection, job, spec, limit=5)
    assert await queue_all(database, job, spec, limit=3) == 1
    assert await states(database, extraction_tasks, job) == {"pending": 8}


async def test_open_sources_are_skipped_in_batches(database: Database) -> None:
    """An extract job that is broken off after a batch of skips ends with all of them counted."""
    owner, job = await with_sources(database, 8), await an_extract_job(database)
    await queue_all(database, job, ExtractSpec(source_job_id=str(owner.id)), limit=100)
    with pytest.raises(CrashError):
        await end_job(database, CloseJob(str(job), cancelled=True), Stepper(crash_at=1), limit=3)
    assert await states(database, extraction_tasks, job) == {"pending": 5, "skipped": 3}
    outcome = await end_job(database, CloseJob(str(job), cancelled=True), limit=3)
    assert (outcome.counters.sources_skipped, outcome.status) == (8, JobStatus.CANCELLED)


async def claimed(database: Database, job: uuid.UUID, claim: uuid.UUID) -> list[FrontierEntry]:
    """The job's due pages, under this claim."""
    async with database.transaction() as connection:
        await take_lease(connection, job, Lane.COLLECT, claim)
        return await claim_pages(connection, job, claim, limit=100)


def fetched(entry: FrontierEntry, n_links: int) -> PageOutcome:
    """A page with so many links, and nothing to keep."""
    links = tuple(f"{entry.url}/link-{number}" for number in range(n_links))
    return PageOutcome(entry, PageState.FETCHED, datetime.now(UTC), links=links)


async def test_many_links_go_before_their_pages(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """No transaction writes more links than it may, and in the end each link is there once, one level deeper."""
    monkeypatch.setattr(collect_batches, "PIECE", 10)
    job, claim, step = await a_crawl(database, 3), uuid.uuid4(), Stepper()
    batch = [fetched(entry, 14) for entry in await claimed(database, job, claim)]
    totals, ended_by = await write_batch(database, job, EPOCH, claim, batch, extract=False, progress=step)
    assert (totals.pages_fetched, ended_by, step.steps) == (3, None, 4)
    links = await claimed(database, job, claim)
    assert {link.url for link in links} == {link for outcome in batch for link in outcome.links}
    assert [link.url for link in links] == [link for outcome in batch for link in outcome.links]
    assert {link.depth for link in links} == {2}


async def test_crash_between_links_and_pages_repeats_both(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a crash the pages are not yet fetched; fetched again, they add no link twice."""
    monkeypatch.setattr(collect_batches, "PIECE", 10)
    job, claim = await a_crawl(database, 1), uuid.uuid4()
    (entry,) = await claimed(database, job, claim)
    with pytest.raises(CrashError):
        await write_batch(
            database, job, EPOCH, claim, [fetched(entry, 25)], extract=False, progress=Stepper(crash_at=1)
        )
    assert await states(database, pages, job) == {"fetching": 1, "pending": 10}
    totals, _ = await write_batch(database, job, EPOCH, claim, [fetched(entry, 25)], extract=False)
    assert totals.pages_fetched == 1
    assert await states(database, pages, job) == {"fetched": 1, "pending": 25}


async def test_links_of_a_fenced_job_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The links that go first are under the fence too."""
    monkeypatch.setattr(collect_batches, "PIECE", 10)
    job, claim = await a_crawl(database, 1), uuid.uuid4()
    (entry,) = await claimed(database, job, claim)
    async with database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job).values(write_epoch=EPOCH + 1))
    with pytest.raises(Fenced):
        await write_batch(database, job, EPOCH, claim, [fetched(entry, 25)], extract=False)
    assert await states(database, pages, job) == {"fetching": 1}


async def test_links_of_a_slice_that_lost_its_lane_are_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice whose lane another has taken over writes no link either."""
    monkeypatch.setattr(collect_batches, "PIECE", 10)
    job, claim = await a_crawl(database, 1), uuid.uuid4()
    (entry,) = await claimed(database, job, claim)
    await claimed(database, job, uuid.uuid4())
    with pytest.raises(WorkLost):
        await write_batch(database, job, EPOCH, claim, [fetched(entry, 25)], extract=False)
    assert await states(database, pages, job) == {"fetching": 1}
