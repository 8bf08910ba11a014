"""A whole stack for one demo: `ke up` in a folder of its own, ended for sure."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ke.runtime.embedded.processes import ProcessLedger, ProcessRecord, start_mark

READY_TIMEOUT_S: Final = 900.0
"""Seconds until everything answers: the first start on a machine may build the Temporal CLI."""
STOP_TIMEOUT_S: Final = 75.0
"""Seconds an orderly end may take; `ke up` promises 60."""
KILL_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.2
KEPT_SETTINGS: Final = frozenset({"KE_TEMPORAL_CLI", "KE_LOG_LEVEL"})
"""The only settings a demo takes over from the shell: the rest would point it at another system."""


def fresh_folder() -> Path:
    """A new folder for one stack."""
    folder = Path(tempfile.mkdtemp(prefix="ke-demo-"))
    # Postgres refuses root: started by root it runs as another account, which has to get to its own data in here.
    folder.chmod(0o711)
    return folder


class StackFailed(Exception):
    """The stack did not start, or ended before it was told to."""


class DemoStack:
    """`ke up` as a child process, on free ports and in a fresh folder.

    Attributes:
        folder: All its data and logs.
        endpoints: What its `endpoints.json` says, once it is ready.
    """

    def __init__(self, folder: Path, fetch_allow: str, say: Callable[[str], None]) -> None:
        """Start nothing yet.

        Args:
            folder: Where all its data and logs go.
            fetch_allow: The value of `KE_FETCH_ALLOW`.
            say: Takes a line of progress.
        """
        self.folder = folder
        self.endpoints: dict[str, str] = {}
        self._fetch_allow = fetch_allow
        self._say = say
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: dict[int, ProcessRecord] = {}
        self._told = 0

    @property
    def data_dir(self) -> Path:
        """The data folder of the stack."""
        return self.folder / "data"

    @property
    def logs(self) -> Path:
        """Where its processes write their logs."""
        return self.data_dir / "logs"

    @property
    def output(self) -> Path:
        """What `ke up` itself prints."""
        return self.folder / "ke-up.txt"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _start(self) -> None:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("KE_") or name in KEPT_SETTINGS
        }
        command = [sys.executable, "-P", "-m", "ke", "up", "--data-dir", str(self.data_dir)]
        ports = ["--port", "0", "--ui-port", "0", "--temporal-port", "0", "--workers", "1"]
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603  (a moment; our own command)
                [*command, *ports],
                env=kept | {"KE_FETCH_ALLOW": self._fetch_allow},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal reaches the demo alone, which then ends the stack in good order.
                start_new_session=True,
            )
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while not self._is_ready():
            if self._process.poll() is not None:
                raise StackFailed(f"`ke up` ended with status {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline_s:
                raise StackFailed(f"the stack was not ready within {READY_TIMEOUT_S:.0f} s: {self._last_words()}")
            await asyncio.sleep(POLL_S)
        self.endpoints = json.loads((self.data_dir / "endpoints.json").read_text(encoding="utf-8"))

    def _is_ready(self) -> bool:
        """Whether the `ready` line was printed; what was printed before it is passed on."""
        self._note_processes()
        lines = self.output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for line in lines[self._told :]:
            if not line.endswith("\n"):
                break
            self._told += 1
            if line.startswith("ready "):
                return True
            self._say(line.strip())
        return False

    def _last_words(self) -> str:
        lines = self.output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _note_processes(self) -> None:
        for record in ProcessLedger(self.data_dir / "processes.json").records():
            self._seen[record.pid] = record

    def alive(self) -> list[str]:
        """The names of the stack's processes that still run."""
        names = [record.name for record in self._seen.values() if start_mark(record.pid) == record.started]
        if self._process is not None and self._process.poll() is None:
            names.append("ke up")
        return names

    async def stop(self) -> None:
        """End the stack: in good order first, by force what is left after that. May be called again."""
        process = self._process
        if process is None:
            return
        self._note_processes()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        await self._gone_within(STOP_TIMEOUT_S)
        self.kill()
        await self._gone_within(KILL_TIMEOUT_S)

    async def _gone_within(self, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while self.alive() and time.monotonic() < deadline_s:  # noqa: ASYNC110  (other processes' ends)
            await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        """End by force whatever of the stack still runs: only processes it wrote down itself, by pid and start."""
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILL_TIMEOUT_S)
        self._note_processes()
        for record in self._seen.values():
            if start_mark(record.pid) == record.started:
                with suppress(ProcessLookupError):
                    os.kill(record.pid, signal.SIGKILL)
