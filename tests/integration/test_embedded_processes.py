"""Children of the stack: on record before they run, ended without mistaking another."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from ke.contracts.errors import Conflict, Unavailable
from ke.runtime.embedded.files import LOG_MAX_BYTES, open_log, sole_owner, write_atomically
from ke.runtime.embedded.processes import LAUNCHER, Child, ChildSpec, ProcessLedger, ProcessRecord, start_mark
from tests.integration.stack_process import is_alive


async def always(_pid) -> bool:
    return True


async def has_children(process: psutil.Process) -> None:
    while True:
        if process.children():
            return
        await asyncio.sleep(0.02)


def make_child(folder: Path, *command: str, **fields: object) -> Child:
    spec = ChildSpec(**{"name": "child", "command": command, "ready": always, **fields})
    return Child(spec, ledger=ProcessLedger(folder / "processes.json"), log_dir=folder / "logs", report=lambda _: None)


async def test_child_is_on_record_while_it_runs(tmp_path):
    """A child is written down with its pid and start from before it runs until it has ended."""
    child = make_child(tmp_path, "sleep", "300")
    await child.start()
    (record,) = ProcessLedger(tmp_path / "processes.json").records()
    assert (record.name, record.pid, record.started) == ("child", child.pid, start_mark(child.pid))
    await child.stop()
    assert ProcessLedger(tmp_path / "processes.json").records() == []
    assert child.pid is None


async def test_launcher_that_is_not_released_runs_nothing(tmp_path):
    """A launcher whose parent dies before the child is on record ends without running the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", LAUNCHER, "15", "-1", "-1", str(os.getpid()), "touch", tmp_path / "ran"),
        stdin=asyncio.subprocess.DEVNULL,
    )
    assert await process.wait() == 0
    assert not (tmp_path / "ran").exists()


async def test_words_of_an_earlier_run_are_not_quoted(tmp_path):
    """A child that ends without a word is not explained by what an earlier run left in its log."""

    async def never(_pid) -> bool:
        return False

    with open_log(tmp_path / "logs", "child") as log:
        log.write(b"old words\n")
    with pytest.raises(Unavailable, match="it wrote nothing to") as caught:
        await make_child(tmp_path, "true", ready=never).start()
    assert "old words" not in str(caught.value)


async def test_child_that_ends_at_once_says_why(tmp_path):
    """A child that ends before it is ready makes the start fail with its status and the last line of its log."""

    async def never(_pid) -> bool:
        return False

    child = make_child(tmp_path, "sh", "-c", "echo it is broken; exit 7", ready=never)
    with pytest.raises(Unavailable, match=r"child ended with exit status 7; .*child\.log ends with: it is broken"):
        await child.start()


async def test_child_that_is_not_ready_in_time_fails(tmp_path):
    """A child that does not get ready within its time makes the start fail, and can still be stopped."""

    async def never(_pid) -> bool:
        return False

    child = make_child(tmp_path, "sleep", "300", ready=never, ready_timeout_s=0.2)
    with pytest.raises(Unavailable, match="child was not ready after 0 s"):
        await child.start()
    await child.stop()
    assert child.pid is None


async def test_stop_kills_a_child_that_ignores_its_signals_and_its_children(tmp_path):
    """A child that ignores every signal is killed after its time, and so is what it started."""
    script = "trap '' TERM INT; sleep 300 & wait; sleep 300"
    child = make_child(tmp_path, "sh", "-c", script, stops=((signal.SIGTERM, 0.2), (signal.SIGINT, 0.2)))
    await child.start()
    process = psutil.Process(child.pid)
    async with asyncio.timeout(10):
        await has_children(process)
    family = process.children(recursive=True)
    await child.stop()
    assert not [each for each in (process, *family) if is_alive(each)]


async def test_leftover_is_ended_and_a_namesake_is_not(tmp_path):
    """What an earlier run left is ended by pid and start; a process that only has the pid is not touched."""
    left = await asyncio.create_subprocess_exec("sleep", "300")
    await asyncio.sleep(0.1)  # the mark of a start is as fine as the kernel's clock tick
    other = await asyncio.create_subprocess_exec("sleep", "300")
    ledger, told = ProcessLedger(tmp_path / "processes.json"), []
    mark = start_mark(left.pid)
    assert mark is not None
    ledger.add(ProcessRecord("worker-1", left.pid, mark, int(signal.SIGTERM), consumer=True))
    ledger.add(ProcessRecord("worker-2", other.pid, mark, int(signal.SIGTERM), consumer=True))
    await ledger.end_leftovers(told.append)
    assert await left.wait() == -signal.SIGTERM
    assert other.returncode is None
    assert told == [f"ending worker-1 (pid {left.pid}), left by an earlier run"]
    assert ledger.records() == []
    other.kill()
    await other.wait()


def test_ledger_that_is_not_readable_counts_as_empty(tmp_path):
    """A ledger that is cut short or of another shape names no process."""
    path = tmp_path / "processes.json"
    for text in ("", "[{", json.dumps({"a": 1}), json.dumps([{"pid": 1}])):
        path.write_text(text)
        assert ProcessLedger(path).records() == []


def test_folder_has_one_owner(tmp_path):
    """A second owner of a folder is refused while the first holds it, and taken after."""
    with sole_owner(tmp_path), pytest.raises(Conflict, match=f"pid {os.getpid()}"), sole_owner(tmp_path):
        pass
    with sole_owner(tmp_path):
        pass


def test_long_log_is_put_aside(tmp_path):
    """A log that has grown long is kept under a number when it is opened again."""
    with open_log(tmp_path, "child") as log:
        log.truncate(LOG_MAX_BYTES + 1)
    with open_log(tmp_path, "child") as log:
        log.write(b"new")
    assert (tmp_path / "child.log").read_bytes() == b"new"
    assert (tmp_path / "child.log.1").stat().st_size > LOG_MAX_BYTES


def test_file_is_replaced_whole_and_private(tmp_path):
    """A file is replaced in one step, for its owner's eyes alone, and leaves no other file behind."""
    path = tmp_path / "file"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
