"""Postgres for the embedded stack, from the binaries in a wheel: one cluster, on loopback, with a password."""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from signal import SIGINT, SIGQUIT
from typing import Final

import asyncpg
import psutil

from ke.contracts.errors import Unavailable
from ke.runtime.embedded.accounts import ORIGIN_FILE, POINTER_FILE, binaries, cluster_folder, server_account
from ke.runtime.embedded.ports import LOOPBACK, free_port, is_free
from ke.runtime.embedded.processes import Account, Child, ChildSpec, ProcessLedger, Report, end_family

DATABASE: Final = "ke"
ROLE: Final = "ke"
INITDB_TIMEOUT_S: Final = 120.0
READY_TIMEOUT_S: Final = 120.0
"""Recovery after a crash replays the log, which can take this long."""
CONNECT_TIMEOUT_S: Final = 2.0
SERVER_SETTINGS: Final = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Short statements only: compiling them costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] %a ",
}


def _silent(_: str) -> None:
    """Reports to nobody."""


class EmbeddedPostgres:
    """The Postgres server of one data folder.

    Usable alone: `start` gives a URL, `stop` ends it. One owner at a time: `ke up` holds a lock on the data folder.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        ledger: ProcessLedger | None = None,
        log_dir: Path | None = None,
        report: Report = _silent,
    ) -> None:
        """Starts nothing yet.

        Args:
            data_dir: The data folder of the stack; it exists.
            ledger: Where the server process is written down; `processes.json` in the data folder by default.
            log_dir: Where `postgres.log` goes; `logs` in the data folder by default.
            report: Takes progress.
        """
        self._data_dir = data_dir.absolute()
        self._ledger = ledger or ProcessLedger(self._data_dir / "processes.json")
        self._log_dir = log_dir or self._data_dir / "logs"
        self._report = report
        self._url = ""
        self.child: Child | None = None

    @property
    def url(self) -> str:
        """postgresql://... of our database, with its password; empty before the first start."""
        return self._url

    async def start(self) -> str:
        """Makes the cluster when there is none, starts the server and makes our database.

        Returns:
            The URL of the database; port and password are valid until the server stops.

        Raises:
            Unavailable: It cannot be started; the message says why.
        """
        account = server_account()
        programs = binaries(account)
        cluster = cluster_folder(self._data_dir, account)
        if not (cluster / "data").exists():
            self._report("creating the Postgres cluster")
            await self._create(cluster, programs, account)
        port = free_port()
        password = (cluster / "password").read_text(encoding="utf-8").strip()
        self._url = f"postgresql://{ROLE}:{password}@{LOOPBACK}:{port}/{DATABASE}"
        spec = self._spec(cluster / "data", programs / "postgres", account, port, password)
        self.child = Child(spec, ledger=self._ledger, log_dir=self._log_dir, report=self._report)
        try:
            await self.child.start()
        except BaseException:
            await self.child.stop()
            raise
        await self._create_database()
        return self._url

    async def stop(self) -> None:
        """Ends the server: its clients are disconnected, what was committed is on disk."""
        if self.child is not None:
            await self.child.stop()

    async def _recover(self) -> None:
        """Ends server processes that a killed postmaster of this cluster left, and its lock file.

        They keep the cluster's shared memory in use, and a server that finds it so does not start. Whoever starts the
        server owns the data folder, so a process that still works in it can only be left over.
        """
        data = cluster_folder(self._data_dir, server_account()) / "data"
        left = [process for process in psutil.process_iter() if _works_in(process, data)]
        for process in left:
            self._report(f"ending a Postgres process (pid {process.pid}), left by an earlier run")
            with contextlib.suppress(psutil.Error):
                process.send_signal(SIGQUIT)
        await end_family(left, grace_s=5.0)
        # Its pid may be another process's by now, which Postgres would take for a running server.
        _remove(data / "postmaster.pid")

    async def _create(self, cluster: Path, programs: Path, account: Account | None) -> None:
        """Creates the cluster under a temporary name, so that a killed initdb leaves nothing that looks whole."""
        fresh = self._fresh_folder(cluster, account)
        try:
            await _run_initdb(programs / "initdb", fresh, account)
            _rename(fresh, cluster)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _fresh_folder(self, cluster: Path, account: Account | None) -> Path:
        prefix = f".{cluster.name}."
        for interrupted in cluster.parent.glob(f"{prefix}*"):
            shutil.rmtree(interrupted, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(dir=cluster.parent, prefix=prefix))
        password = fresh / "password"
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24), encoding="utf-8")
        if cluster.parent != self._data_dir:
            (fresh / ORIGIN_FILE).write_text(f"{self._data_dir / POINTER_FILE}\n", encoding="utf-8")
        if account is not None:
            for path in (password, fresh):
                os.chown(path, account.uid, account.gid)
        return fresh

    def _spec(self, data: Path, server: Path, account: Account | None, port: int, password: str) -> ChildSpec:
        settings = {**SERVER_SETTINGS, "port": str(port)}

        async def ready(_pid: int) -> bool:
            return await _answers(port, password)

        return ChildSpec(
            name="postgres",
            command=(str(server), "-D", str(data), *(f"--{name}={value}" for name, value in settings.items())),
            ready=ready,
            ready_timeout_s=READY_TIMEOUT_S,
            # "Fast" disconnects clients and writes a checkpoint, "immediate" leaves recovery to the next start.
            stops=((SIGINT, 10.0), (SIGQUIT, 3.0)),
            death_signal=SIGINT,
            env=_environment(),
            cwd=data,
            account=account,
            before=self._recover,
        )

    async def _create_database(self) -> None:
        connection = await asyncpg.connect(_maintenance_url(self._url), timeout=CONNECT_TIMEOUT_S * 5)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)


@contextlib.asynccontextmanager
async def temporary_postgres() -> AsyncIterator[str]:
    """A Postgres server in a folder of its own, removed with all its data in the end.

    Yields:
        The URL of an empty database; its role may create others.
    """
    folder = _passable_folder()
    server = EmbeddedPostgres(folder)
    try:
        yield await server.start()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _passable_folder() -> Path:
    """A new folder of ours that `nobody`, whom the server runs as under root, may pass."""
    folder = Path(tempfile.mkdtemp(prefix="ke-postgres-"))
    folder.chmod(0o711)
    return folder


def _rename(fresh: Path, path: Path) -> None:
    fresh.rename(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _maintenance_url(url: str) -> str:
    return f"{url.removesuffix(f'/{DATABASE}')}/postgres"


def _environment() -> dict[str, str]:
    """Ours without what libpq and initdb would take from it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


async def _run_initdb(initdb: Path, folder: Path, account: Account | None) -> None:
    command = (
        *(str(initdb), "-D", str(folder / "data"), f"--username={ROLE}", f"--pwfile={folder / 'password'}"),
        *("--auth-host=scram-sha-256", "--auth-local=reject", "--encoding=UTF8"),
        # The built-in provider: the same order of texts on every system, whatever its C library.
        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", "--no-instructions"),
    )
    user, group = (account.uid, account.gid) if account else (None, None)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_environment(),
        cwd=folder,
        user=user,
        group=group,
        extra_groups=[] if account else None,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), INITDB_TIMEOUT_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        raise Unavailable(
            f"initdb ended with exit status {process.returncode}: {lines[-1] if lines else 'it said nothing'}"
        )


async def _answers(port: int, password: str) -> bool:
    if is_free(port):
        return False  # Nobody listens yet: spares the log a refused connection.
    try:
        connection = await asyncpg.connect(
            host=LOOPBACK, port=port, user=ROLE, password=password, database="postgres", timeout=CONNECT_TIMEOUT_S
        )
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    return True


def _works_in(process: psutil.Process, data: Path) -> bool:
    """Whether this is a Postgres process of the cluster: they all work in its data folder."""
    try:
        return "postgres" in process.name() and Path(process.cwd()) == data.resolve()
    except (psutil.Error, OSError):
        return False
