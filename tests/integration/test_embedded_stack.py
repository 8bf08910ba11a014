"""The embedded stack from outside: its start, its end, and everything that goes wrong between."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from tests.integration.stack_process import StackProcess, is_alive, passable_folder, running_stack, wait_until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with passable_folder() as folder:
        yield folder / "data"


async def read_marker(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("SELECT name FROM marker")
    finally:
        await connection.close()


async def write_marker(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE marker (name text)")
        await connection.execute("INSERT INTO marker VALUES ('kept')")
    finally:
        await connection.close()


async def test_sigterm_ends_every_process_and_removes_endpoints(data_dir):
    """A stack serves what endpoints.json says; SIGTERM ends it with status 0 and leaves no process and no endpoints."""
    with running_stack(data_dir) as (stack, endpoints):
        connection = await asyncpg.connect(endpoints["database"])
        assert await connection.fetchval("SELECT count(*) FROM jobs") == 0
        await connection.close()
        async with httpx.AsyncClient(follow_redirects=True) as client:
            assert (await client.get(endpoints["temporal_ui"])).status_code == 200
        assert {"ke", "temporal", "postgres", "vectors", "gateway", "workflows", "workers"} == set(endpoints["pids"])
        assert endpoints["pids"]["ke"] == stack.process.pid
        family = stack.children()
        assert {endpoints["pids"][name] for name in ("temporal", "postgres", "vectors")} <= {p.pid for p in family}
        assert stack.stop() == 0
    assert not [process for process in family if is_alive(process)]
    assert not (data_dir / "endpoints.json").exists()
    assert json.loads((data_dir / "processes.json").read_text()) == []


def test_all_sockets_are_loopback_and_secrets_private(data_dir):
    """No process of the stack listens elsewhere than on loopback; endpoints.json and logs are for its owner alone."""
    with running_stack(data_dir) as (stack, _):
        listening = {
            connection.laddr.ip
            for process in stack.children()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
        assert stat.S_IMODE((data_dir / "endpoints.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((data_dir / "logs").stat().st_mode) == 0o700


def test_interrupt_while_starting_leaves_no_process(data_dir):
    """Ctrl-C before the stack is ready ends what was started until then."""
    stack = StackProcess(data_dir)
    wait_until(stack.children, 60)
    stack.process.send_signal(signal.SIGINT)
    family = stack.children()
    assert stack.finish() == 0
    assert not [process for process in family if is_alive(process)]


def test_second_stack_on_the_folder_is_refused(data_dir):
    """A second stack on the same folder ends with status 2 and one line that names the first one's pid."""
    with running_stack(data_dir) as (stack, endpoints):
        second = StackProcess(data_dir)
        assert second.finish() == 2
        assert second.said().splitlines()[-1].endswith(f"`ke up` with pid {stack.process.pid}")
        assert len(second.said().splitlines()) == 1
        assert all(psutil.pid_exists(endpoints["pids"][name]) for name in ("temporal", "postgres", "vectors"))


@pytest.mark.parametrize("setting", ["KE_API_PORT", "KE_UI_PORT", "KE_TEMPORAL_PORT"])
def test_port_in_use_is_refused(data_dir, setting):
    """A port on which somebody listens ends the start with status 2 and one line that names port and setting."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        stack = StackProcess(data_dir, **{setting: str(port)})
        assert stack.finish() == 2
    assert f"Port {port} " in stack.said()
    assert setting in stack.said()
    assert len(stack.said().splitlines()) == 1


def test_data_folder_that_cannot_be_made_is_refused(tmp_path):
    """A data folder that cannot be used ends the start with status 2 and one line that names folder and setting."""
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        stack = StackProcess(folder)
        assert stack.finish() == 2
        assert str(folder) in stack.said()
        assert "KE_DATA_DIR" in stack.said()
        assert len(stack.said().splitlines()) == 1


async def test_start_after_kill_of_everything_recovers(data_dir):
    """After SIGKILL of the supervisor and all its children the next start has all that was committed."""
    with running_stack(data_dir) as (stack, endpoints):
        await write_marker(endpoints["database"])
        family = stack.children()
        stack.process.kill()
        for process in family:
            # On Linux a child dies with the supervisor, perhaps before it is its turn.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert (data_dir / "endpoints.json").exists()
    with running_stack(data_dir) as (_, endpoints):
        assert await read_marker(endpoints["database"]) == "kept"


async def test_start_after_kill_of_the_supervisor_ends_what_it_left(data_dir):
    """After SIGKILL of the supervisor alone nothing of it runs beside the next start, which recovers."""
    with running_stack(data_dir) as (stack, endpoints):
        await write_marker(endpoints["database"])
        family = stack.children()
        stack.process.kill()
    with running_stack(data_dir) as (_, endpoints):
        assert not [process for process in family if is_alive(process)]
        assert await read_marker(endpoints["database"]) == "kept"


@pytest.mark.parametrize("name", ["postgres", "temporal", "vectors"])
async def test_killed_service_is_started_again(data_dir, name):
    """A service that was killed is started again at the same address, and endpoints.json tells its new pid."""
    with running_stack(data_dir) as (stack, before):
        os.kill(before["pids"][name], signal.SIGKILL)
        path = data_dir / "endpoints.json"
        wait_until(lambda: json.loads(path.read_text())["pids"][name] not in {None, before["pids"][name]}, 60)
        after = json.loads(path.read_text())
        assert {key: after[key] for key in ("temporal", "database", "vectors")} == {
            key: before[key] for key in ("temporal", "database", "vectors")
        }
        connection = await asyncpg.connect(after["database"])
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
        assert stack.stop() == 0


def test_temporal_killed_while_making_its_file_starts_again(data_dir):
    """A Temporal server killed while it makes its database does not spoil the folder: the next start makes another."""
    stack = StackProcess(data_dir)
    wait_until(lambda: list(data_dir.glob("temporal/db-*/temporal.db")), 60)
    for process in [*stack.children(), psutil.Process(stack.process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    stack.finish()
    with running_stack(data_dir):
        assert len(list(data_dir.glob("temporal/db-*"))) == 1


def test_process_with_a_recorded_pid_but_another_start_is_left_alone(data_dir):
    """A process that has by chance the pid of a dead child of an earlier run is not ended."""
    data_dir.mkdir()
    bystander = subprocess.Popen(["sleep", "300"])
    try:
        record = {"name": "worker-1", "pid": bystander.pid, "started": "other", "stop_signal": 9, "consumer": True}
        (data_dir / "processes.json").write_text(json.dumps([record]))
        with running_stack(data_dir):
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_long_data_folder_gets_a_short_socket(data_dir):
    """In a folder whose path is too long for a Unix socket the vector store is served from a short private one."""
    folder = data_dir / ("long" * 20) / ("folder" * 10)
    with running_stack(folder) as (_, endpoints):
        short = Path(endpoints["vectors"])
        assert len(str(short)) < 100
        assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
        transport = httpx.HTTPTransport(uds=str(short))
        with httpx.Client(transport=transport) as client:
            assert client.get("http://vectors/healthz").status_code == 200
    assert not short.parent.exists()
