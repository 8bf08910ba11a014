"""Two lanes that work on one job's tasks lock them in one order, so that neither waits for the other in a circle."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import dead_letter_id
from ke.contracts.jobs import JobStatus, Lane
from ke.storage.database import Database
from ke.storage.extract_queue import skip_open_tasks
from ke.storage.extracting import ClaimedSource, StoredPiece, finish_pieces, release_tasks
from ke.storage.jobs import take_lease
from ke.storage.record_queue import skip_open_records
from ke.storage.requeueing import bury_records
from ke.storage.tables import dead_letters, extraction_tasks, sources
from tests.seeding import seed_job

TASKS = 12
CLAIM = uuid.UUID(int=7)
WAIT_S = 60.0
Step = Callable[[AsyncConnection, uuid.UUID, list[uuid.UUID]], Awaitable[object]]


async def a_job(database: Database) -> tuple[uuid.UUID, list[uuid.UUID]]:
    """A job with claimed tasks, of which Postgres has the last ones first, and a dead letter of each record."""
    job = (await seed_job(database, status=JobStatus.RUNNING)).id
    keys = [uuid.uuid4() for _ in range(TASKS)]
    async with database.transaction() as connection:
        await take_lease(connection, job, Lane.EXTRACT, CLAIM)
        for key in keys:
            values = {"id": key, "job_id": job, "url": f"https://site.example/{key}", "text": "A text."}
            facts = {"content_type": "text/html", "content_hash": key.bytes, "bytes": 7, "fetched_at": sa.func.now()}
            await connection.execute(sa.insert(sources).values(**values, **facts))
            task = {"job_id": job, "source_id": key, "state": "claimed", "claim": CLAIM, "record_state": "pending"}
            await connection.execute(sa.insert(extraction_tasks).values(task))
        for key in reversed(keys):
            moved = sa.update(extraction_tasks).where(extraction_tasks.c.source_id == key)
            await connection.execute(moved.values(attempts=1))
    return job, keys


async def skip(connection: AsyncConnection, job: uuid.UUID, keys: list[uuid.UUID]) -> None:
    await skip_open_records(connection, job, "the job has ended")


async def skip_tasks(connection: AsyncConnection, job: uuid.UUID, keys: list[uuid.UUID]) -> None:
    await skip_open_tasks(connection, job)


async def bury(connection: AsyncConnection, job: uuid.UUID, keys: list[uuid.UUID]) -> None:
    same = {"job_id": job, "subject": "record", "error_type": "x", "error_message": "", "attempts": 1}
    times = {"first_failed_at": sa.func.now(), "last_failed_at": sa.func.now()}
    for key in keys:
        letter = {"id": dead_letter_id(job, "record", key), "subject_id": key, "url": f"https://site.example/{key}"}
        await connection.execute(sa.insert(dead_letters).values(**letter, **same, **times))
    await bury_records(connection, job)


async def finish(connection: AsyncConnection, job: uuid.UUID, keys: list[uuid.UUID]) -> None:
    claimed = [ClaimedSource(key, job, 1, "", None, "", b"") for key in reversed(keys)]
    pieces = [StoredPiece(source, [], is_last=True) for source in claimed]
    await finish_pieces(connection, job, 1, CLAIM, pieces, find_entities=False)


async def release(connection: AsyncConnection, job: uuid.UUID, keys: list[uuid.UUID]) -> None:
    await release_tasks(connection, job)


@pytest.mark.parametrize("step", [skip, skip_tasks, bury, finish, release])
async def test_who_waits_for_a_task_holds_none_that_comes_after_it(database: Database, step: Step) -> None:
    """While another transaction has the first task, all the others are still free."""
    job, keys = await a_job(database)
    mine = extraction_tasks.c.job_id == job
    first = sa.select(extraction_tasks.c.source_id).where(mine).order_by(extraction_tasks.c.seq).limit(1)

    async def work() -> None:
        async with database.transaction() as connection:
            for way in ("indexscan", "indexonlyscan", "bitmapscan"):  # which Postgres need not take
                await connection.execute(sa.text(f"SET LOCAL enable_{way} = off"))
            await step(connection, job, keys)

    async with database.transaction() as holder:
        assert (await holder.execute(first.with_for_update())).scalar_one() == keys[0]
        working = asyncio.create_task(work())
        await waits_for_a_lock(database, working)
        async with database.transaction() as looker:
            free = sa.select(extraction_tasks.c.source_id).where(mine).with_for_update(skip_locked=True)
            assert set((await looker.execute(free)).scalars()) == set(keys[1:])
    async with asyncio.timeout(WAIT_S):
        await working
    async with database.transaction() as connection:
        untouched = sa.select(sa.func.count()).where(
            mine, extraction_tasks.c.state == "claimed", extraction_tasks.c.record_state == "pending"
        )
        assert (await connection.execute(untouched)).scalar_one() == 0


async def waits_for_a_lock(database: Database, working: "asyncio.Task[None]") -> None:
    """Until somebody waits for a lock."""
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
    async with asyncio.timeout(WAIT_S):
        while True:
            assert not working.done(), "it did not wait"
            async with database.transaction() as connection:
                if (await connection.execute(waiting)).scalar_one():
                    return
            await asyncio.sleep(0.02)
