"""`ke up` itself, with gateway and workers: consumers come back, others may join, and nothing is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.integration.stack_process import StackProcess, is_alive, passable_folder, running_stack, wait_until

KE = Path(sys.executable).with_name("ke")


@pytest.fixture(scope="module")
def stack() -> Iterator[StackProcess]:
    with passable_folder() as folder, running_stack(folder / "data", whole=True, KE_WORKERS="1") as (process, _):
        yield process


def endpoints(stack: StackProcess) -> dict:
    return json.loads((stack.data_dir / "endpoints.json").read_text())


def temporal(stack: StackProcess, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KE_DATA_DIR": str(stack.data_dir)}
    return subprocess.run([KE, "temporal", *args], env=env, capture_output=True, text=True, timeout=60, check=False)


def test_temporal_command_talks_to_the_running_stack(stack):
    """`ke temporal` passes arguments through, and the search attributes are there."""
    assert temporal(stack, "workflow", "list").returncode == 0
    listed = temporal(stack, "operator", "search-attribute", "list").stdout
    assert all(name in listed for name in ("JobKind", "JobStatus", "Project"))


def test_temporal_command_hands_on_the_exit_status(stack):
    """`ke temporal` ends with the status of the command that it ran."""
    assert temporal(stack, "workflow", "describe", "-w", "no-such-workflow").returncode == 1


def test_worker_joins_by_the_data_folder_alone(stack):
    """A worker that knows only the data folder joins the running stack, and drains on SIGTERM."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    log = stack.data_dir / "joined.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker"], env={**kept, "KE_DATA_DIR": str(stack.data_dir)}, stderr=output
        )
    try:
        queue = ("--task-queue", "ke-jobs", "--output", "json")
        wait_until(lambda: f'"{worker.pid}@' in temporal(stack, "task-queue", "describe", *queue).stdout, 120)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 0, log.read_text()[-2000:]
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_killed_consumer_is_started_again(stack, name):
    """A gateway or worker that was killed is replaced, and endpoints.json names the new one when it serves."""

    def pid() -> int | None:
        pids = endpoints(stack)["pids"]
        return pids["gateway"] if name == "gateway" else next(iter(pids["workers"]), None)

    before = pid()
    assert before is not None
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pid() not in {None, before}, 180)
    assert psutil.pid_exists(pid())


def test_drained_stack_leaves_no_process(stack):
    """SIGTERM drains the workers, ends everything with status 0 within a minute, and leaves no process."""
    family = stack.children()
    assert len(family) > 5
    assert stack.stop() == 0
    assert not [process for process in family if is_alive(process)]
    assert not (stack.data_dir / "endpoints.json").exists()
