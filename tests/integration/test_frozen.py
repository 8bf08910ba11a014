"""Processes that froze in the middle of a statement lose their transactions, and nobody else does."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psutil
import pytest
import sqlalchemy as sa

from ke.storage.database import GATEWAY, WORKER, WORKER_IDLE_TIMEOUT_S, Database
from ke.storage.frozen import LIMITS_S, FrozenWatch, watch_frozen
from tests.e2e.stack import eventually

STAGES = ("preparing", "sending", "reading")


@contextmanager
def frozen(database: Database, cases: Sequence[tuple[str, str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """A process for each name and stage, frozen; the lock of each is its place in the list."""
    url = database._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    command = (sys.executable, "-m", "tests.integration.frozen_process", url)
    processes = [subprocess.Popen([*command, *case, str(key)]) for key, case in enumerate(cases)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait(10)


async def stopped(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Waits until all of them have frozen."""
    for process in processes:
        status = psutil.Process(process.pid).status
        await eventually(lambda look=status: asyncio.to_thread(look), lambda seen: seen == psutil.STATUS_STOPPED)


async def locked(database: Database, keys: int) -> list[bool]:
    """Which of the first advisory locks somebody holds."""
    async with database.transaction() as connection:
        tries = [await connection.scalar(sa.select(sa.func.pg_try_advisory_xact_lock(key))) for key in range(keys)]
    return [not taken for taken in tries]


async def test_transaction_of_a_process_that_froze_within_a_statement_is_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in a statement it stands: its locks are free some seconds later; those of others stay."""
    monkeypatch.setitem(LIMITS_S, GATEWAY, 600.0)
    cases = [*((WORKER, stage) for stage in STAGES), (GATEWAY, "preparing"), ("somebody-else", "sending")]
    with frozen(database, cases) as processes:
        await stopped(processes)
        assert await locked(database, len(cases)) == [True] * len(cases)
        watch = asyncio.create_task(watch_frozen(database, every_s=0.2))
        try:
            async with database.transaction() as busy:
                await busy.execute(sa.text(f"SET LOCAL application_name = '{WORKER}'"))
                await busy.execute(sa.select(sa.func.pg_sleep(WORKER_IDLE_TIMEOUT_S + 2)))
            await eventually(
                lambda: locked(database, len(cases)), lambda held: held == [False, False, False, True, True]
            )
        finally:
            watch.cancel()
        processes[0].send_signal(signal.SIGCONT)
        assert await asyncio.to_thread(processes[0].wait, 20) != 0


async def test_without_the_watch_it_holds_its_lock(database: Database) -> None:
    """No timeout of Postgres ends such a transaction; were it otherwise, the watch could go."""
    with frozen(database, [(WORKER, stage) for stage in STAGES]) as processes:
        await stopped(processes)
        await asyncio.sleep(WORKER_IDLE_TIMEOUT_S + 2)
        assert await locked(database, len(STAGES)) == [True] * len(STAGES)


async def test_one_look_ends_nothing(database: Database) -> None:
    """It may meet a healthy process in the middle of an answer: only what was so in each look since its limit ends."""
    with frozen(database, [(WORKER, "reading")]) as processes:
        await stopped(processes)
        await eventually(lambda: waiting(database), lambda number: number == 1)
        for _ in range(3):
            assert await look(database, FrozenWatch({WORKER: 0.5})) == 0
        assert await locked(database, 1) == [True]
        watch = FrozenWatch({WORKER: 0.5})
        assert await look(database, watch) == 0
        await asyncio.sleep(0.6)
        assert await look(database, watch) == 1
        await eventually(lambda: locked(database, 1), lambda held: held == [False])


async def waiting(database: Database) -> int:
    """How many backends wait for their client by now: one that writes an answer has to fill a socket first."""
    watch = FrozenWatch({WORKER: 3600})
    await look(database, watch)
    return len(watch._seen)


async def look(database: Database, watch: FrozenWatch) -> int:
    """How many a look has ended."""
    async with database.transaction() as connection:
        return len(await watch.look(connection))
