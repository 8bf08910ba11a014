"""Transactions of processes that froze, where Postgres itself does not end them."""

import asyncio
from typing import Final, NamedTuple

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import DatabaseUnavailable
from ke.storage.database import GATEWAY, IDLE_TIMEOUT_S, WORKER, WORKER_IDLE_TIMEOUT_S, Database

LOOK_EVERY_S: Final = 2.0

log = structlog.get_logger("frozen")


class Ended(NamedTuple):
    """A transaction that was ended."""

    pid: int
    """Of the Postgres backend."""
    application: str


async def end_frozen(connection: AsyncConnection) -> list[Ended]:
    """Ends the transactions whose process has left Postgres in the middle of a statement for too long.

    `idle_in_transaction_session_timeout` counts from the end of a statement. A process that freezes between the
    preparing of a statement and its execution, or while it sends rows, leaves a backend that is `active` and reads
    from its client, and one that freezes before a large answer leaves one that writes to it: neither that timeout nor
    `statement_timeout` ends those (PostgreSQL manual, 19.11.1), and their locks stay for as long as the process.

    Its own database and role alone are looked at, for what the processes of `ke` are called there.
    """
    activity = sa.table(
        "pg_stat_activity",
        *(sa.column(name) for name in ("pid", "datname", "usename", "application_name", "state", "state_change")),
        *(sa.column(name) for name in ("wait_event_type", "xact_start")),
    )
    limit_s = sa.case({WORKER: WORKER_IDLE_TIMEOUT_S, GATEWAY: IDLE_TIMEOUT_S}, value=activity.c.application_name)
    since_s = sa.func.extract("epoch", sa.func.clock_timestamp() - activity.c.state_change)
    frozen = (
        sa.select(activity.c.pid, activity.c.application_name)
        .where(activity.c.datname == sa.func.current_database(), activity.c.usename == sa.func.current_user())
        .where(activity.c.state == "active", activity.c.wait_event_type == "Client", since_s > limit_s)
        .where(activity.c.pid != sa.func.pg_backend_pid())
    )
    found = (await connection.execute(frozen)).all()
    return [Ended(row.pid, row.application_name) for row in found if await _terminated(connection, row.pid)]


async def _terminated(connection: AsyncConnection, pid: int) -> bool:
    return bool(await connection.scalar(sa.select(sa.func.pg_terminate_backend(pid))))


async def watch_frozen(database: Database, *, every_s: float = LOOK_EVERY_S) -> None:
    """Looks for such transactions until it is cancelled; says which it ended. Without Postgres it waits for it."""
    while True:
        await asyncio.sleep(every_s)
        try:
            async with database.transaction() as connection:
                ended = await end_frozen(connection)
        except DatabaseUnavailable:
            continue
        for one in ended:
            log.warning("ended a transaction of a process that froze", pid=one.pid, application=one.application)
