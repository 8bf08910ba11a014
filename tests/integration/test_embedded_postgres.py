"""The embedded Postgres alone."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest

from ke.contracts.errors import Unavailable
from ke.runtime.embedded import accounts, postgres
from ke.runtime.embedded.postgres import EmbeddedPostgres, temporary_postgres


async def test_temporary_server_is_empty_and_gone_after_use():
    """A temporary server gives an empty database with a password, and takes no other password."""
    async with temporary_postgres() as url:
        connection = await asyncpg.connect(url)
        assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert await connection.fetchval("SHOW fsync") == "on"
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(url, password="wrong")
    with pytest.raises(OSError):
        await asyncpg.connect(url)


async def test_folder_nobody_can_reach_is_served_from_elsewhere(tmp_path):
    """A data folder below one that is closed to others works all the same; no folder's mode is changed for it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed)
    try:
        url = await server.start()
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept (id int)")
        await connection.close()
        await server.stop()
        connection = await asyncpg.connect(await EmbeddedPostgres.start(server))
        assert await connection.fetchval("SELECT count(*) FROM kept") == 0
        await connection.close()
    finally:
        await server.stop()
        shutil.rmtree(accounts.cluster_folder(closed, accounts.server_account()), ignore_errors=True)
    assert closed.stat().st_mode & 0o777 == 0o700


async def test_binaries_nobody_can_reach_are_copied(tmp_path, monkeypatch):
    """Where root's Postgres may not be run by `nobody`, a copy of it is, and it works."""
    account = accounts.server_account()
    if account is None:
        assert accounts.binaries(None).joinpath("postgres").exists()
        return
    shared = tmp_path.parent.parent / f"ke-shared-{os.getpid()}"
    monkeypatch.setattr(accounts, "SHARED_FOLDERS", (shared,))
    monkeypatch.setattr(accounts, "can_reach", lambda _account, path: shared in (path, *path.parents))
    try:
        programs = accounts.binaries(account)
        assert shared in programs.parents
        assert accounts.binaries(account) == programs
        process = await asyncio.create_subprocess_exec(programs / "initdb", "--version", stdout=-1)
        output, _ = await process.communicate()
        assert output.startswith(b"initdb (PostgreSQL) 18")
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def test_cluster_of_a_deleted_data_folder_is_removed(tmp_path, monkeypatch):
    """A cluster that lives elsewhere goes when its data folder is gone and another cluster is made there."""
    account = accounts.Account(65534, 65534)
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(accounts, "SHARED_FOLDERS", (shared,))
    monkeypatch.setattr(accounts, "can_reach", lambda _account, path: path == shared)
    folders = {}
    for name in ("deleted", "kept", "new"):
        data_dir = tmp_path / name
        data_dir.mkdir()
        folders[name] = accounts.cluster_folder(data_dir, account)
        folders[name].mkdir()
        (folders[name] / accounts.ORIGIN_FILE).write_text(f"{data_dir / accounts.POINTER_FILE}\n")
        shutil.rmtree(tmp_path / "deleted", ignore_errors=True)
    assert [name for name, folder in folders.items() if folder.exists()] == ["kept", "new"]


async def test_backends_of_a_killed_postmaster_do_not_block_the_next(tmp_path):
    """A postmaster killed while a client's statement runs can be started again, with what was committed."""
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path)
    busy: asyncio.Task[None] | None = None
    try:
        url = await server.start()
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE kept (id int)")
        # A loop that never looks up: it does not notice that its postmaster has died.
        loop = "DO $$ BEGIN LOOP PERFORM 1; END LOOP; END $$"
        busy = asyncio.create_task(connection.execute(loop, timeout=120))
        await until_active(url, connection.get_server_pid())
        assert server.child is not None
        os.kill(server.child.pid, signal.SIGKILL)
        await server.child.exited()
        assert [p for p in psutil.process_iter() if postgres._works_in(p, cluster_data(tmp_path))]
        await server.child.start()
        again = await asyncpg.connect(url)
        assert await again.fetchval("SELECT count(*) FROM kept") == 0
        await again.close()
        with pytest.raises((asyncpg.PostgresError, OSError)):
            await busy
        connection.terminate()
    finally:
        await server.stop()
        shutil.rmtree(accounts.cluster_folder(tmp_path, accounts.server_account()), ignore_errors=True)


async def test_start_that_fails_says_why(tmp_path):
    """A cluster that cannot be served makes the start fail with the server's own last words."""
    tmp_path.chmod(0o700)
    server = EmbeddedPostgres(tmp_path)
    try:
        await server.start()
        await server.stop()
        (cluster_data(tmp_path) / "global" / "pg_control").unlink()
        with pytest.raises(Unavailable, match=r"postgres\.log ends with: .*"):
            await server.start()
    finally:
        shutil.rmtree(accounts.cluster_folder(tmp_path, accounts.server_account()), ignore_errors=True)


async def until_active(url: str, backend: int) -> None:
    """Waits until this backend is at work on a statement."""
    other = await asyncpg.connect(url)
    async with asyncio.timeout(60):
        state = "SELECT state FROM pg_stat_activity WHERE pid = $1"
        while await other.fetchval(state, backend) != "active":  # noqa: ASYNC110  Postgres can only be asked
            await asyncio.sleep(0.02)
    await other.close()


def cluster_data(data_dir: Path) -> Path:
    return accounts.cluster_folder(data_dir, accounts.server_account()) / "data"
