"""The embedded vector store as a process of a test."""

import asyncio
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ke.storage.vectors.edge import EdgeVectors

START_S = 120.0


@dataclass
class VectorsProcess:
    """One folder and socket; the process behind them can be killed and started again."""

    folder: Path
    socket: Path
    options: tuple[str, ...] = ()
    module: tuple[str, ...] = ("ke.storage.vectors.edge_server",)
    process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> "subprocess.Popen[bytes]":
        """Starts a process, without waiting for it."""
        command = [sys.executable, "-m", *self.module]
        arguments = ["--dir", str(self.folder), "--socket", str(self.socket), *self.options]
        return subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE)

    async def start(self) -> None:
        """Starts the process and waits until it answers."""
        self.process = await asyncio.to_thread(self.spawn)
        store = EdgeVectors(self.socket)
        try:
            async with asyncio.timeout(START_S):
                while not await store.healthy():
                    assert self.process.poll() is None, self.process.stderr.read().decode()
                    await asyncio.sleep(0.02)
        finally:
            await store.close()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends the process with a signal and returns its exit status."""
        process, self.process = self.process, None
        if process is None:
            return 0
        os.kill(process.pid, number)
        _, status = await asyncio.to_thread(process.communicate), process.returncode
        return status
