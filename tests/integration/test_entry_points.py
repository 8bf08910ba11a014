"""How the worker and the gateway end when they cannot work: soon, with a status, and with one line."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

import worker
from ke.contracts.errors import TemporalUnavailable
from ke.runtime.settings import Settings

WORKER = (sys.executable, "-P", "-m", "worker")
GATEWAY = (sys.executable, "-P", "-m", "uvicorn", "api.app:create_app", "--factory", "--port", "0")
TIME_LIMIT_S = 60


@pytest.fixture
def silent_address() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def environment(temporal: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    return kept | {
        "KE_TEMPORAL_ADDRESS": temporal,
        "KE_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/ke",
        "KE_QDRANT_URL": "http://127.0.0.1:1",
    }


@pytest.mark.parametrize("command", [WORKER, GATEWAY], ids=["worker", "gateway"])
@pytest.mark.parametrize(
    ("name", "value"), [("KE_LOG_LEVEL", "LOUD"), ("KE_DATABASE_URL", "mysql://u:secret@h/x"), ("KE_TASK_QUEUES", "")]
)
def test_wrong_setting_ends_the_process_with_one_line(command, name, value):
    """A setting that cannot work ends worker and gateway at once, with status 2 and without a traceback."""
    env = environment("127.0.0.1:1") | {name: value}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: ")
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr


def test_waiting_worker_obeys_sigterm():
    """A worker that still waits for Temporal ends on SIGTERM, with status 0."""
    env = environment("127.0.0.1:1")
    with subprocess.Popen(WORKER, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert "Temporal is not there yet" in process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
        finally:
            process.kill()


async def test_absent_temporal_is_named(monkeypatch, silent_address):
    """When the wait is over, the error names the address."""
    monkeypatch.setattr(worker, "START_TIMEOUT_S", 0.2)
    settings = Settings.model_validate({"temporal_address": silent_address})
    with pytest.raises(TemporalUnavailable, match=f"Temporal at {silent_address} was not there"):
        await worker._wait_for_temporal(silent_address, settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data-dir", ""), "an empty name is no folder"),
        (("--port", "18080", "--ui-port", "18080"), "port 18080 is given twice"),
        (("--ui-port", "18080", "--temporal-port", "18080"), "port 18080 is given twice"),
    ],
)
def test_up_refuses_before_anything_is_made(tmp_path, options, words):
    """A folder without a name, or a port for two servers, ends `ke up` with status 2, and nothing is written."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    command = (sys.executable, "-m", "ke", "up", *options)
    done = subprocess.run(
        command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
