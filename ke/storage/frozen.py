"""Transactions of processes that froze, where Postgres itself does not end them."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import DatabaseUnavailable
from ke.storage.database import GATEWAY, IDLE_TIMEOUT_S, WORKER, WORKER_IDLE_TIMEOUT_S, Database

LOOK_EVERY_S: Final = 2.0
LIMITS_S: Final = {WORKER: WORKER_IDLE_TIMEOUT_S, GATEWAY: IDLE_TIMEOUT_S}
"""Seconds for which a process of this name may leave Postgres waiting within a statement, as between two."""

log = structlog.get_logger("frozen")


class Waiting(NamedTuple):
    """A Postgres backend that waits for its client within a statement."""

    pid: int
    application: str
    since: datetime
    """When that step of the statement began, not the wait: it tells one statement from the next."""


class FrozenWatch:
    """Ends the transactions whose process leaves Postgres waiting in the middle of a statement for too long.

    `idle_in_transaction_session_timeout` counts from the end of a statement. A process that freezes between the
    preparing of a statement and its execution, or while it sends rows, leaves a backend that is `active` and reads
    from its client, and one that freezes before a large answer leaves one that writes to it: neither that timeout nor
    `statement_timeout` ends those (PostgreSQL manual, 19.11.1), and their locks stay for as long as the process.

    Its own database and role alone are looked at, for what the processes of `ke` are called there. One look may meet a
    healthy process in the middle of an answer: a backend is ended when each look since its limit has found it so.
    """

    def __init__(self, limits_s: Mapping[str, float] = LIMITS_S) -> None:
        """Takes the limit of each name."""
        self._limits_s = limits_s
        self._seen: dict[Waiting, float] = {}

    async def look(self, connection: AsyncConnection) -> list[Waiting]:
        """Looks once; returns the backends that it has ended."""
        now = time.monotonic()
        found = await _waiting(connection, list(self._limits_s))
        self._seen = {one: self._seen.get(one, now) for one in found}
        late = [one for one, first in self._seen.items() if now - first >= self._limits_s[one.application]]
        return [one for one in late if await _end(connection, one)]


async def watch_frozen(database: Database, *, every_s: float = LOOK_EVERY_S) -> None:
    """Looks for such transactions until it is cancelled; says which it ended. Without Postgres it waits for it."""
    watch = FrozenWatch()
    while True:
        await asyncio.sleep(every_s)
        try:
            async with database.transaction() as connection:
                ended = await watch.look(connection)
        except DatabaseUnavailable:
            continue
        except Exception:
            log.exception("could not look for transactions of processes that froze")
            continue
        for one in ended:
            log.warning("ended a transaction of a process that froze", pid=one.pid, application=one.application)


async def _waiting(connection: AsyncConnection, names: Sequence[str]) -> list[Waiting]:
    columns = (_ACTIVITY.c.pid, _ACTIVITY.c.application_name, _ACTIVITY.c.state_change)
    statement = sa.select(*columns).where(_OURS, _WAITS, _ACTIVITY.c.application_name.in_(names))
    return [Waiting(*record) for record in await connection.execute(statement)]


async def _end(connection: AsyncConnection, one: Waiting) -> bool:
    """Ends a backend, if it still is at what it was at."""
    statement = sa.select(sa.func.pg_terminate_backend(_ACTIVITY.c.pid)).where(
        _OURS, _WAITS, _ACTIVITY.c.pid == one.pid, _ACTIVITY.c.state_change == one.since
    )
    return bool((await connection.execute(statement)).scalar_one_or_none())


_ACTIVITY: Final = sa.table(
    "pg_stat_activity",
    *(sa.column(name) for name in ("pid", "datname", "usename", "application_name", "state", "wait_event_type")),
    sa.column("state_change", sa.DateTime(timezone=True)),
)
_OURS: Final = sa.and_(_ACTIVITY.c.datname == sa.func.current_database(), _ACTIVITY.c.usename == sa.func.current_user())
_WAITS: Final = sa.and_(_ACTIVITY.c.state == "active", _ACTIVITY.c.wait_event_type == "Client")
