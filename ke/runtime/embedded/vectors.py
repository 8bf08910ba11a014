"""The vector store's process for the embedded stack: Qdrant's engine behind a Unix socket."""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from signal import SIGTERM
from typing import Final

import httpx

from ke.runtime.embedded.files import write_atomically
from ke.runtime.embedded.processes import Child, ChildSpec, ProcessLedger, Report

SOCKET_PATH_MAX_BYTES: Final = 100
"""sun_path of a Unix socket's address holds 108 bytes on Linux and 104 on macOS, with the final zero."""
READY_TIMEOUT_S: Final = 120.0
REQUEST_TIMEOUT_S: Final = 1.0


def _silent(_: str) -> None:
    """Reports to nobody."""


class EmbeddedVectors:
    """The vector process of one data folder; usable alone: `start` gives the socket's path, `stop` ends it."""

    def __init__(
        self,
        data_dir: Path,
        *,
        ledger: ProcessLedger | None = None,
        log_dir: Path | None = None,
        report: Report = _silent,
    ) -> None:
        """Starts nothing yet.

        Args:
            data_dir: The data folder of the stack; it exists.
            ledger: Where the process is written down; `processes.json` in the data folder by default.
            log_dir: Where `vectors.log` goes; `logs` in the data folder by default.
            report: Takes progress.
        """
        self._data_dir = data_dir.absolute()
        self._ledger = ledger or ProcessLedger(self._data_dir / "processes.json")
        self._log_dir = log_dir or self._data_dir / "logs"
        self._report = report
        self._pointer = self._data_dir / "vectors.location"
        self._socket: Path | None = None
        self.child: Child | None = None

    @property
    def socket(self) -> Path | None:
        """The path of the socket; None before the first start."""
        return self._socket

    async def start(self) -> Path:
        """Starts the process and waits until it answers.

        Returns:
            The path of its socket.

        Raises:
            Unavailable: It cannot be started; the message says why.
        """
        self._remove_socket()
        self._socket = self._choose_socket()
        spec = self._spec(self._socket)
        self.child = Child(spec, ledger=self._ledger, log_dir=self._log_dir, report=self._report)
        try:
            await self.child.start()
        except BaseException:
            await self.stop()
            raise
        return self._socket

    async def stop(self) -> None:
        """Ends the process; what it has acknowledged is on disk."""
        if self.child is not None:
            await self.child.stop()
        self._remove_socket()

    async def _clear_socket(self) -> None:
        """Removes the socket that a killed process left."""
        if self._socket is not None:
            _remove(self._socket)

    def _choose_socket(self) -> Path:
        inside = self._data_dir / "vectors.sock"
        if len(os.fsencode(inside)) <= SOCKET_PATH_MAX_BYTES:
            return inside
        folder = Path(tempfile.mkdtemp(prefix="ke-"))
        # Found again and removed by the next start when this process is killed.
        write_atomically(self._pointer, f"{folder}\n")
        return folder / "vectors.sock"

    def _remove_socket(self) -> None:
        (self._data_dir / "vectors.sock").unlink(missing_ok=True)
        if self._pointer.exists():
            shutil.rmtree(self._pointer.read_text(encoding="utf-8").strip(), ignore_errors=True)
            self._pointer.unlink()

    def _spec(self, socket: Path) -> ChildSpec:
        async def ready(_pid: int) -> bool:
            return await is_healthy(socket)

        module = ("-P", "-m", "ke.runtime.embedded.vector_process")
        return ChildSpec(
            name="vectors",
            command=(sys.executable, *module, "--dir", str(self._data_dir / "vectors"), "--socket", str(socket)),
            ready=ready,
            ready_timeout_s=READY_TIMEOUT_S,
            # A flush of a large store takes seconds.
            stops=((SIGTERM, 12.0),),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            before=self._clear_socket,
        )


async def is_healthy(socket: Path) -> bool:
    """Whether the process behind the socket answers its health check."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    try:
        async with httpx.AsyncClient(transport=transport, timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
            return (await client.get("http://vectors/healthz")).is_success
    except httpx.HTTPError:
        return False


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
