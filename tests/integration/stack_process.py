"""An embedded stack in a process of its own: `ke up`, or the same without gateway and workers."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from ke.cli.up import serve
from ke.runtime.settings import Settings

START_TIMEOUT_S = 240.0
STOP_TIMEOUT_S = 60.0


class StackProcess:
    """One run of the stack's services on a data folder."""

    def __init__(self, data_dir: Path, *, whole: bool = False, **env: str) -> None:
        """Starts the process: `ke up` itself where `whole`; ports are free ones unless `env` says otherwise."""
        own = (sys.executable, "-P", "-m", "tests.integration.stack_process", str(data_dir))
        command = (str(Path(sys.executable).with_name("ke")), "up", "--data-dir", str(data_dir)) if whole else own
        ports = {"KE_API_PORT": "0", "KE_UI_PORT": "0", "KE_TEMPORAL_PORT": "0"}
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **ports, **env, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.progress: list[str] = []
        self._lines: list[str] = []
        self._readers = [
            threading.Thread(target=target.extend, args=(source,), daemon=True)
            for source, target in ((self.process.stdout, self._lines), (self.process.stderr, self.progress))
        ]
        for reader in self._readers:
            reader.start()

    def wait_ready(self) -> dict[str, Any]:
        """Waits for the ready line, and returns what endpoints.json says."""
        wait_until(lambda: self._lines or self.process.poll() is not None, START_TIMEOUT_S)
        assert self._lines, self.said()
        assert self._lines[0].startswith("ready api=http://127.0.0.1:")
        return json.loads((self.data_dir / "endpoints.json").read_text())

    def said(self) -> str:
        """What went to standard error until now; all of it once the process has ended."""
        if self.process.poll() is not None:
            for reader in self._readers:
                reader.join(5)
        return "".join(self.progress)

    def children(self) -> list[psutil.Process]:
        """All processes below it."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.finish()

    def finish(self) -> int:
        """Waits for its end; the exit status."""
        status = self.process.wait(STOP_TIMEOUT_S)
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status


@contextlib.contextmanager
def running_stack(data_dir: Path, *, whole: bool = False, **env: str) -> Iterator[tuple[StackProcess, dict[str, Any]]]:
    """A stack that is ready, and its endpoints; it has ended after the block, whatever happened in it."""
    stack = StackProcess(data_dir, whole=whole, **env)
    try:
        yield stack, stack.wait_ready()
    finally:
        if stack.process.poll() is None:
            stack.stop()
        else:
            stack.finish()


@contextlib.contextmanager
def passable_folder() -> Iterator[Path]:
    """A new folder that is removed after use; as root the stack's Postgres, which runs as `nobody`, may pass it."""
    folder = Path(tempfile.mkdtemp(prefix="ke-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: Any, timeout_s: float) -> None:
    """Waits for a fact; fails when it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs; a process that has ended but was not waited for does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(serve(Settings(data_dir=Path(sys.argv[1])), consumers=lambda _settings, _services: []))
