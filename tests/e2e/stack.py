"""A whole `ke up` in processes of its own, as a person runs it, and what a test may do to it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

from ke.client import KnowledgeExtractionClient

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 90.0
ENDED_TIMEOUT_S = 20.0
"""For a process that was killed, or whose parent has ended."""
T = TypeVar("T")
KE = (str(Path(sys.executable).with_name("ke")),)


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What a command with `--json` printed."""
        return json.loads(self.out)


class Stack:
    """One embedded stack on one data folder; it can be killed and started again."""

    def __init__(
        self,
        data_dir: Path,
        *,
        fetch_allow: str,
        workers: int = 1,
        queues: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self._env = {
            **os.environ,
            "KE_DATA_DIR": str(data_dir),
            "KE_API_PORT": "0",
            "KE_UI_PORT": "0",
            "KE_TEMPORAL_PORT": "0",
            "KE_WORKERS": str(workers),
            "KE_FETCH_ALLOW": fetch_allow,
            **({} if queues is None else {"KE_TASK_QUEUES": queues}),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoints(self) -> dict[str, Any]:
        """What endpoints.json says now."""
        return json.loads((self.data_dir / "endpoints.json").read_text())

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The supervisor."""
        assert self._process is not None
        return self._process

    def start(self) -> None:
        """Runs `ke up` and waits until it is ready."""
        log = (self.data_dir.parent / f"{self.data_dir.name}.up.log").open("ab")
        self._process = subprocess.Popen([*KE, "up"], env=self._env, stdout=subprocess.PIPE, stderr=log)
        log.close()
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        os.set_blocking(self._process.stdout.fileno(), False)
        line = b""
        while b"ready " not in line:
            assert time.monotonic() < deadline, "ke up was not ready in time"
            assert self._process.poll() is None, f"ke up ended with {self._process.returncode}"
            line += self._process.stdout.read() or b""
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it with SIGTERM, for sure."""
        if self._process is None:
            return
        family = self.family()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            _, left = psutil.wait_procs(family, timeout=ENDED_TIMEOUT_S)
            alive = [process for process in left if runs(process)]
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._process = None
        assert not alive, f"left behind: {alive}"

    def kill_everything(self) -> None:
        """SIGKILL to the supervisor and all its descendants, at once."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(ENDED_TIMEOUT_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._process = None

    def family(self) -> list[psutil.Process]:
        """The supervisor and all that runs under it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def kill_worker(self) -> int:
        """SIGKILL to one worker and to that of the workflows; returns the process id of the first."""
        pids = self.endpoints["pids"]
        os.kill(pids["workflows"], signal.SIGKILL)
        pid = int(pids["workers"][0])
        os.kill(pid, signal.SIGKILL)
        return pid

    async def ke(self, *args: str, timeout_s: float = 180.0) -> Finished:
        """Runs the CLI against this stack."""
        process = await asyncio.create_subprocess_exec(
            *KE, *args, env=self._env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
        return Finished(process.returncode or 0, out.decode(), err.decode())

    def client(self) -> KnowledgeExtractionClient:
        """A client of the gateway."""
        return KnowledgeExtractionClient(self.endpoints["api"])

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Asks Postgres itself."""
        connection = await asyncpg.connect(self.endpoints["database"])
        try:
            return await connection.fetch(query, *args)
        finally:
            await connection.close()


def runs(process: psutil.Process) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def eventually(
    look: Callable[[], Awaitable[T]], until: Callable[[T], bool], *, timeout_s: float = 180.0, every_s: float = 0.2
) -> T:
    """Looks again and again until what is seen is as wanted; fails with what was seen last."""
    deadline = time.monotonic() + timeout_s
    while True:
        seen = await look()
        if until(seen):
            return seen
        assert time.monotonic() < deadline, f"did not come true in {timeout_s} s; last seen: {seen}"
        await asyncio.sleep(every_s)
