"""The connection to Postgres: transactions with deadlines, one translation of its errors, migrations."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import sqlalchemy as sa
from sqlalchemy import event, exc, pool
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ke.contracts.errors import DatabaseUnavailable, InvalidInput, RowLocked

if TYPE_CHECKING:
    from alembic.config import Config

CONNECT_TIMEOUT_S: Final = 5.0
POOL_TIMEOUT_S: Final = 10.0
IDLE_CHECK_S: Final = 1.0
"""Seconds of rest after which a connection is asked whether it still is one."""
STATEMENT_TIMEOUT_S: Final = 60.0
WORKER: Final = "ke-worker"
"""The name of a worker's connections in pg_stat_activity."""
GATEWAY: Final = "ke-gateway"
IDLE_TIMEOUT_S: Final = 20.0
"""Seconds for which a transaction may do nothing: the gateway's wait for calls to Temporal, which have deadlines."""
WORKER_IDLE_TIMEOUT_S: Final = 5.0
"""The same for a worker, whose transactions wait for nothing but Postgres: what it holds when it freezes is free
again after this."""
MIGRATION_LOCK: Final = 0x6B65  # "ke": any fixed number; only migrations take it
MIGRATION_LOCK_TIMEOUT_S: Final = 5.0
"""Seconds for which a migration waits for a table that a transaction holds: while it waits, every other query on that
table waits behind it."""
MIGRATION_QUEUE_TIMEOUT_S: Final = 60.0
"""Seconds for which it waits for another migration, which holds up nobody else."""

_UNAVAILABLE_STATES: Final = ("08", "53", "57P", "40001", "40P01", "55P03", "57014", "25P03")
"""SQLSTATE prefixes after which the same transaction may well succeed: connection errors, resources exhausted,
shutdown and recovery, serialization failure, deadlock, lock or statement timeout (PostgreSQL manual, appendix A)."""
_LOCK_NOT_AVAILABLE: Final = "55P03"
_MIGRATION_BLOCKED: Final = (
    "The tables were not brought to the newest schema: another transaction holds one of them, or another migration "
    "is at work. Nothing was changed: run it again, once that has ended"
)


def _async_url(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as error:
        raise InvalidInput("KE_DATABASE_URL is not a database URL") from error
    if parsed.get_backend_name() not in {"postgresql", "postgres"}:
        raise InvalidInput(f"KE_DATABASE_URL must be postgresql://..., not {parsed.drivername}://...")
    return parsed.set(drivername="postgresql+asyncpg")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))


def _state_of(error: exc.DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""


def _is_transient(error: exc.DBAPIError) -> bool:
    if error.connection_invalidated or isinstance(error, exc.InterfaceError):
        return True
    return _state_of(error).startswith(_UNAVAILABLE_STATES)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turns every sign of an absent or overloaded server into `DatabaseUnavailable`; other errors are bugs and pass."""
    try:
        yield
    except exc.DBAPIError as error:
        if not _is_transient(error):
            raise
        kind = RowLocked if _state_of(error) == _LOCK_NOT_AVAILABLE else DatabaseUnavailable
        raise kind(f"The database did not answer: {error.orig}") from error
    except (exc.TimeoutError, TimeoutError, OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable(f"The database did not answer: {type(error).__name__}") from error
    except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError) as error:
        raise DatabaseUnavailable(f"The database did not answer: {error}") from error


class Database:
    """A pool of connections to one Postgres database."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        application_name: str = "ke",
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        lock_timeout_s: float = STATEMENT_TIMEOUT_S,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        """Opens nothing yet.

        Args:
            url: postgresql://user:password@host:port/name
            pool_size: Connections at most.
            application_name: Shown in pg_stat_activity.
            statement_timeout_s: Seconds for one statement.
            lock_timeout_s: Seconds that a statement waits for a lock: a row may be held by a worker that froze.
            idle_timeout_s: Seconds for which a transaction may do nothing before Postgres ends it.

        Raises:
            InvalidInput: The URL is not one of Postgres.
        """
        self._engine: AsyncEngine = create_async_engine(
            _async_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            # The one that was used last: it has the statements prepared, and need not be asked whether it lives.
            pool_use_lifo=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": statement_timeout_s,
                "server_settings": {
                    "application_name": application_name,
                    "timezone": "UTC",
                    "jit": "off",
                    "statement_timeout": _milliseconds(statement_timeout_s),
                    "lock_timeout": _milliseconds(lock_timeout_s),
                    # What a frozen process holds is free again after this.
                    "idle_in_transaction_session_timeout": _milliseconds(idle_timeout_s),
                },
            },
        )
        event.listen(self._engine.sync_engine, "checkin", _note_time)
        event.listen(self._engine.sync_engine, "checkout", _check_idle)

    @asynccontextmanager
    async def transaction(self, *, lock_timeout_s: float | None = None) -> AsyncIterator[AsyncConnection]:
        """The unit of work: commits when its block ends well, rolls back when it does not.

        Args:
            lock_timeout_s: Seconds that a statement waits for a lock, where that is less than usual.

        Raises:
            RowLocked: Another transaction held a row for longer than that; nothing was written.
            DatabaseUnavailable: Postgres is not there, or too busy; nothing was written, or, when it was lost at
                the commit itself, it is unknown whether it was. Writes are idempotent for that reason.
        """
        with translated_errors():
            async with self._engine.begin() as connection:
                if lock_timeout_s is not None:
                    await connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_milliseconds(lock_timeout_s)}")
                yield connection

    async def is_up(self, *, timeout_s: float = 1.0) -> bool:
        """Whether a query comes back in time; never raises."""
        try:
            async with asyncio.timeout(timeout_s), self.transaction() as connection:
                await connection.execute(sa.text("SELECT 1"))
        except (DatabaseUnavailable, TimeoutError):
            return False
        return True

    async def close(self) -> None:
        """Closes all connections."""
        await self._engine.dispose()


def _note_time(_connection: object, record: pool.ConnectionPoolEntry) -> None:
    record.info["checked_in"] = time.monotonic()


def _check_idle(connection: Any, record: pool.ConnectionPoolEntry, _proxy: object) -> None:
    """Replaces a connection that was lost in the pool.

    `pool_pre_ping` asks every connection at every checkout, three round trips with this driver: half of the time of a
    short transaction. One that is in use all the time tells itself that it is lost.

    Raises:
        DisconnectionError: It is lost; the pool opens another one, or looks at the next.
    """
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError
    if time.monotonic() - record.info.get("checked_in", math.inf) < IDLE_CHECK_S:
        return
    try:
        connection.ping()
    except Exception as error:  # the driver's own, of many kinds; the pool's recipe takes any
        raise exc.DisconnectionError from error


def alembic_config(url: str) -> "Config":
    """Alembic's configuration for the migrations inside this package."""
    from alembic.config import Config  # noqa: PLC0415  a tenth of a worker's start, and no worker migrates

    config = Config()
    config.set_main_option("script_location", str(files("ke.storage").joinpath("migrations")))
    config.attributes["url"] = _async_url(url)
    return config


def _upgrade(connection: sa.Connection, config: "Config") -> None:
    from alembic import command  # noqa: PLC0415  as above

    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_milliseconds(MIGRATION_QUEUE_TIMEOUT_S)}")
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_milliseconds(MIGRATION_LOCK_TIMEOUT_S)}")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


async def migrate(url: str) -> None:
    """Brings the database to the newest schema, in one transaction; two at once wait for each other.

    Raises:
        RowLocked: A transaction held a table that is to be changed, or another migration was at work, for longer than
            is waited for; nothing was changed.
        DatabaseUnavailable: Postgres is not there.
    """
    engine = create_async_engine(_async_url(url), poolclass=sa.NullPool, connect_args={"timeout": CONNECT_TIMEOUT_S})
    try:
        with translated_errors():
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade, alembic_config(url))
    except RowLocked as error:
        raise RowLocked(_MIGRATION_BLOCKED) from error
    finally:
        await engine.dispose()
