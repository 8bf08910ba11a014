"""Child processes that are on record before they do anything, and that can be ended without mistaking another."""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Final

import psutil

from ke.contracts.errors import Unavailable
from ke.runtime.embedded.files import open_log, write_atomically

LAUNCHER: Final = Path(__file__).with_name("launch.py")
POLL_INTERVAL_S: Final = 0.05
PROGRESS_INTERVAL_S: Final = 10.0
LEFTOVER_GRACE_S: Final = 10.0
KILL_GRACE_S: Final = 3.0

Report = Callable[[str], None]
"""Takes one line of progress for people."""


@dataclass(frozen=True, slots=True)
class Account:
    """The system account a child runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How one child process is started, known to be ready, and stopped."""

    name: str
    """Also the name of its log file."""
    command: tuple[str, ...]
    ready: Callable[[int], Awaitable[bool]]
    """Whether the process of this pid serves; asked again and again, must answer within a second or so."""
    ready_timeout_s: float = 60.0
    stops: tuple[tuple[Signals, float], ...] = ((SIGTERM, 15.0),)
    """Signals in turn, each with the seconds it is given; SIGKILL comes after the last."""
    death_signal: Signals = SIGTERM
    """What Linux sends it when its parent dies."""
    consumer: bool = False
    """Whether it uses the others, and so ends before them."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Its whole environment; empty: that of this process."""
    cwd: Path | None = None
    account: Account | None = None
    before: Callable[[], Awaitable[None]] | None = None
    """Puts right what an earlier run of it left; called before each start."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """One process as it is written down, so that a later start can find and end it."""

    name: str
    pid: int
    started: str
    stop_signal: int
    consumer: bool


def start_mark(pid: int) -> str | None:
    """What tells a process from any other that ever has its pid, or None when there is none.

    On Linux the boot and the clock tick of its start: unlike a time of day it does not move when the clock is set.
    """
    try:
        if sys.platform == "linux":
            stat = Path(f"/proc/{pid}/stat").read_text()
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            # The name in parentheses may hold spaces; the start is field 22 of proc(5), 20th after it.
            fields = stat.rpartition(")")[2].split()
            return None if fields[0] == "Z" else f"{boot}:{fields[19]}"
        return f"{psutil.Process(pid).create_time():.2f}"
    except (OSError, psutil.Error):
        return None


class ProcessLedger:
    """The file in the data folder that names each child of the stack."""

    def __init__(self, path: Path) -> None:
        """Reads nothing yet."""
        self._path = path

    def records(self) -> list[ProcessRecord]:
        """All that is written down; nothing when the file is not there or not ours."""
        try:
            return [ProcessRecord(**entry) for entry in json.loads(self._path.read_text())]
        except (OSError, ValueError, TypeError):
            return []

    def add(self, record: ProcessRecord) -> None:
        """Writes one more down."""
        self._write([*self.records(), record])

    def remove(self, pid: int) -> None:
        """Strikes out the process that has ended."""
        self._write([record for record in self.records() if record.pid != pid])

    def _write(self, records: list[ProcessRecord]) -> None:
        write_atomically(self._path, json.dumps([asdict(record) for record in records], indent=1))

    async def end_leftovers(self, report: Report) -> None:
        """Ends what a dead supervisor left: consumers first, and only where pid and start both agree."""
        records = [record for record in self.records() if start_mark(record.pid) == record.started]
        for consumer in (True, False):
            group = [record for record in records if record.consumer is consumer]
            for record in group:
                report(f"ending {record.name} (pid {record.pid}), left by an earlier run")
            await asyncio.gather(*(end_process(record.pid, Signals(record.stop_signal)) for record in group))
        self._write([])


async def end_process(pid: int, stop_signal: Signals) -> None:
    """Ends a process that is not our child, and its descendants with it."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        process.send_signal(stop_signal)
    except psutil.Error:
        return
    await end_family(family, grace_s=LEFTOVER_GRACE_S)


async def end_family(family: list[psutil.Process], *, grace_s: float) -> None:
    """Gives processes some seconds to end, then kills those that have not.

    Raises:
        Unavailable: One is still there.
    """
    deadline = time.monotonic() + grace_s
    await _wait_gone(family, deadline)
    for process in family:
        if _is_alive(process):
            with contextlib.suppress(psutil.Error):
                process.kill()
    await _wait_gone(family, time.monotonic() + KILL_GRACE_S)
    for process in family:
        if _is_alive(process):
            raise Unavailable(f"Process {process.pid} cannot be ended")


async def _wait_gone(family: list[psutil.Process], deadline: float) -> None:
    while any(_is_alive(process) for process in family):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(POLL_INTERVAL_S)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class Child:
    """One child process; it may be started again after it has ended."""

    def __init__(self, spec: ChildSpec, *, ledger: ProcessLedger, log_dir: Path, report: Report) -> None:
        """Starts nothing yet."""
        self.spec = spec
        self._ledger = ledger
        self._log_dir = log_dir
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def start(self) -> None:
        """Starts it and waits until it is ready.

        Raises:
            Unavailable: It ended at once, or was not ready in time; the message names its log and the last line there.
        """
        if self.spec.before is not None:
            await self.spec.before()
        process = await self._spawn()
        started_at = reported_at = time.monotonic()
        while not await self.spec.ready(process.pid):
            now = time.monotonic()
            if process.returncode is not None:
                raise Unavailable(await self._obituary())
            if now - started_at > self.spec.ready_timeout_s:
                raise Unavailable(
                    f"{self.spec.name} was not ready after {now - started_at:.0f} s; {self._last_words()}"
                )
            if now - reported_at > PROGRESS_INTERVAL_S:
                self._report(f"{self.spec.name}: still starting after {now - started_at:.0f} s")
                reported_at = now
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _spawn(self) -> asyncio.subprocess.Process:
        spec = self.spec
        uid, gid = (spec.account.uid, spec.account.gid) if spec.account else (-1, -1)
        launcher = (
            sys.executable,
            "-I",
            "-S",
            str(LAUNCHER),
            *map(str, (int(spec.death_signal), uid, gid, os.getpid())),
        )
        held, release = os.pipe()
        try:
            with open_log(self._log_dir, spec.name) as log:
                self._log_start = log.tell()
                process = await asyncio.create_subprocess_exec(
                    *launcher,
                    *spec.command,
                    stdin=held,
                    stdout=log,
                    stderr=log,
                    env=spec.env or None,
                    cwd=spec.cwd,
                    # A session of its own: Ctrl-C in a terminal reaches the supervisor alone, which ends all in order.
                    start_new_session=True,
                )
            mark = start_mark(process.pid)
            if mark is not None:
                stop_signal = SIGKILL if spec.consumer else spec.stops[0][0]
                self._ledger.add(ProcessRecord(spec.name, process.pid, mark, int(stop_signal), spec.consumer))
            self._process = process
            with contextlib.suppress(BrokenPipeError):
                os.write(release, b"\n")
        finally:
            os.close(held)
            os.close(release)
        return process

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def exited(self) -> int | None:
        """Waits for its end.

        Returns:
            The exit status, negative for a signal; None when it was never started.
        """
        if self._process is None:
            return None
        status = await self._process.wait()
        self._ledger.remove(self._process.pid)
        return status

    async def stop(self) -> None:
        """Ends it and its descendants, by each signal of its kind in turn and at last by SIGKILL."""
        process = self._process
        if process is None:
            return
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            descendants = psutil.Process(process.pid).children(recursive=True)
        for number, seconds in (*self.spec.stops, (SIGKILL, KILL_GRACE_S)):
            if process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), seconds)
        await self.exited()
        await end_family(descendants, grace_s=1.0)

    async def _obituary(self) -> str:
        status = await self.exited()
        ended = f"was ended by {Signals(-status).name}" if status and status < 0 else f"ended with exit status {status}"
        return f"{self.spec.name} {ended}; {self._last_words()}"

    def _last_words(self) -> str:
        path = self._log_dir / f"{self.spec.name}.log"
        try:
            # What an earlier run wrote says nothing about this one.
            lines = path.read_bytes()[self._log_start :][-4000:].decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"{path} ends with: {lines[-1].strip()[:300]}" if lines else f"it wrote nothing to {path}"
