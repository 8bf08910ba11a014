"""A process that freezes in a transaction: `python -m tests.integration.frozen_process URL NAME STAGE KEY`.

It holds the advisory lock KEY, has NAME as its application, and stops itself like SIGSTOP from outside at STAGE:
`preparing` has a statement parsed and not executed, `sending` is in the middle of a COPY, `reading` has not read an
answer that fills every buffer on its way.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import asyncpg

from ke.storage.database import WORKER_IDLE_TIMEOUT_S


def freeze() -> None:
    """Stops this process until somebody sends SIGCONT."""
    os.kill(os.getpid(), signal.SIGSTOP)


async def _rows() -> AsyncIterator[bytes]:
    yield b"1\n"
    freeze()


async def main(url: str, name: str, stage: str, key: str) -> None:
    """Takes the lock and freezes; when it wakes up it commits."""
    settings = {
        "application_name": name,
        "idle_in_transaction_session_timeout": str(int(WORKER_IDLE_TIMEOUT_S * 1000)),
        "statement_timeout": "5000",
    }
    connection = await asyncpg.connect(url, server_settings=settings)
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({int(key)})")
        if stage == "preparing":
            await connection.prepare("SELECT 1")
            freeze()
        elif stage == "sending":
            await connection.execute("CREATE TEMPORARY TABLE kept (n int) ON COMMIT DROP")
            await connection.copy_to_table("kept", source=_rows())
        else:
            # The answer begins when the statement gets a lock that another connection has until then.
            backend = connection.get_server_pid()
            holder = await asyncpg.connect(url)
            await holder.execute(f"SELECT pg_advisory_lock(0, {backend})")
            long = f"SELECT pg_advisory_xact_lock(0, {backend}), repeat('x', 50_000_000)"
            answer = asyncio.create_task(connection.fetch(long))
            event = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"
            while await holder.fetchval(event, backend) != "advisory":  # noqa: ASYNC110  Postgres can only be asked
                await asyncio.sleep(0.01)
            await holder.close()
            freeze()
            await answer


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
