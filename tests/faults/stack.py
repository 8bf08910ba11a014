"""A whole `ke up` with proxies between it and itself, and what a fault may do to it."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit

import asyncpg
import psutil
from temporalio.client import Client

from ke.client import ApiError, GatewayUnreachable, KnowledgeExtractionClient
from ke.contracts.naming import TaskQueue
from ke.storage.vectors.edge import EdgeVectors
from tests.faults.proxy import TcpProxy, VectorsProxy
from tests.faults.site import FaultSite

REPOSITORY: Final = Path(__file__).parents[2]
START_TIMEOUT_S: Final = 240.0
STOP_TIMEOUT_S: Final = 90.0
KILLED_TIMEOUT_S: Final = 60.0
FIRST_PAUSE_S: Final = 0.3
LONGEST_PAUSE_S: Final = 5.0
SIDES: Final = ("gateway", "worker", "slices")
"""Who has proxies of its own; `slices` are the workers but that of the workflows, where they are split."""
ROLES: Final = ("workflows", "worker", "gateway", "vectors", "postgres", "temporal")
_COMMANDS: Final = {
    "gateway": "uvicorn",
    "vectors": "ke.runtime.embedded.vector_process",
    "postgres": "/bin/postgres",
    "temporal": "start-dev",
}
T = TypeVar("T")


@dataclass
class Side:
    """The proxies between the gateway, or the workers, and what they depend on."""

    postgres: TcpProxy
    temporal: TcpProxy
    vectors: VectorsProxy

    def heal(self) -> None:
        """All of them forward again."""
        for proxy in (self.postgres, self.temporal, self.vectors):
            proxy.heal()


@dataclass
class FaultStack:
    """One stack on a folder of its own, and a site that it may crawl; use it as an async context manager.

    Attributes:
        workers: How many worker processes, beside that of the workflows.
        split: They reach what they depend on by other ways than the worker of the workflows.
        worker: The command of a worker, after the interpreter; empty: the real one.
        disk_mb: Size of a tmpfs for Postgres's data; 0: an ordinary folder. Needs root.
        env: More settings.
        site: What jobs crawl.
        sides: The proxies, by `SIDES`.
        folder: Holds all; removed at the end unless `keep` was set.
    """

    workers: int = 2
    split: bool = False
    worker: Sequence[str] = ()
    disk_mb: int = 0
    env: dict[str, str] = field(default_factory=dict)
    site: FaultSite = field(default_factory=FaultSite)
    sides: dict[str, Side] = field(default_factory=dict)
    keep: bool = False

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ke-faults-"))
        # Postgres runs as `nobody` under root, who must pass.
        self.folder.chmod(0o711)
        self.data_dir = self.folder / "data"
        self.disk: Path | None = None
        self._upstreams = self.folder / "upstreams.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: tuple[str, KnowledgeExtractionClient] | None = None
        self._vectors: tuple[str, EdgeVectors] | None = None
        self._temporal: tuple[str, Client] | None = None
        self._database: tuple[str, asyncpg.Connection] | None = None
        self._sql = asyncio.Lock()

    # Life

    async def __aenter__(self) -> Self:
        try:
            self._mount()
            await self.site.__aenter__()
            for side in SIDES:
                await self._lead(side)
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._forget()
        for side in self.sides.values():
            side.heal()
        await self.stop()
        for side in self.sides.values():
            await asyncio.gather(side.postgres.stop(), side.temporal.stop(), side.vectors.stop())
        await self.site.__aexit__()
        if self.disk is not None:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _mount(self) -> None:
        """Gives Postgres a small disk of its own, where that can be done."""
        if not self.disk_mb:
            return
        disk = self.folder / "disk"
        disk.mkdir(mode=0o711)
        options = f"size={self.disk_mb}m,mode=711"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=False, capture_output=True
        )
        if mounted.returncode:
            return
        self.disk = disk
        self.data_dir.mkdir(mode=0o711)
        (self.data_dir / "postgres.location").write_text(f"{disk / 'cluster'}\n")

    async def _lead(self, name: str) -> None:
        side = Side(
            postgres=TcpProxy(lambda: self._address("database")),
            temporal=TcpProxy(lambda: self._address("temporal")),
            vectors=VectorsProxy(self.folder / f"{name}.sock", self._socket),
        )
        await asyncio.gather(side.postgres.start(), side.temporal.start(), side.vectors.start())
        self.sides[name] = side

    def _upstream(self, name: str) -> str | None:
        try:
            return str(json.loads(self._upstreams.read_text())[name])
        except FileNotFoundError:
            return None

    def _address(self, name: str) -> tuple[str, int] | None:
        named = self._upstream(name)
        if named is None:
            return None
        parts = urlsplit(named if "//" in named else f"//{named}")
        return str(parts.hostname), int(parts.port or 0)

    def _socket(self) -> Path | None:
        named = self._upstream("vectors")
        return None if named is None else Path(named)

    async def start(self) -> None:
        """Runs `ke up` and waits until it is ready."""
        log = (self.folder / "up.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.up"], env=self._environment(), stdout=subprocess.PIPE, stderr=log
        )
        log.close()
        output = self._process.stdout
        assert output is not None
        os.set_blocking(output.fileno(), False)
        deadline, line = time.monotonic() + START_TIMEOUT_S, b""
        while b"ready " not in line:
            assert time.monotonic() < deadline, f"ke up was not ready in time, see {self.folder}/up.log"
            code = self._process.poll()
            assert code is None, f"ke up ended with {code}: {(self.folder / 'up.log').read_text()[-2000:]}"
            line += output.read() or b""
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Ends it with SIGTERM, for sure."""
        process, self._process = self._process, None
        if process is None:
            return
        family = self._family(process.pid)
        for member in family:
            # What a fault has frozen must be able to end.
            _signal(member, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_TIMEOUT_S)
        finally:
            for member in family:
                _signal(member, signal.SIGKILL)
            process.wait(KILLED_TIMEOUT_S)
            if process.stdout is not None:
                process.stdout.close()

    async def kill_all(self) -> None:
        """SIGKILL to the supervisor and all its descendants, at once."""
        process, self._process = self._process, None
        assert process is not None
        for member in self._family(process.pid):
            _signal(member, signal.SIGKILL)
        await asyncio.to_thread(process.wait, KILLED_TIMEOUT_S)
        if process.stdout is not None:
            process.stdout.close()
        await self._forget()

    def _environment(self) -> dict[str, str]:
        routes = {
            name: {
                "postgres": s.postgres.port,
                "temporal": s.temporal.port,
                "vectors": str(self.folder / f"{name}.sock"),
            }
            for name, s in self.sides.items()
        }
        given = {"routes": routes, "worker": list(self.worker), "split": self.split, "upstreams": str(self._upstreams)}
        return {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FAULTS_UP": json.dumps(given),
            "KE_DATA_DIR": str(self.data_dir),
            "KE_API_PORT": "0",
            "KE_UI_PORT": "0",
            "KE_TEMPORAL_PORT": "0",
            "KE_WORKERS": str(self.workers),
            "KE_CPU_PROCESSES": "1",
            "KE_FETCH_ALLOW": self.site.host_port,
            **self.env,
        }

    # Its processes

    def processes(self) -> dict[str, list[psutil.Process]]:
        """The processes of each role that run now; not their own children."""
        found: dict[str, list[psutil.Process]] = {role: [] for role in ROLES}
        if self._process is None:
            return found
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self._process.pid).children():
                role = _role(child)
                if role:
                    found[role].append(child)
        return found

    def family(self) -> list[psutil.Process]:
        """The supervisor and all that runs under it."""
        return [] if self._process is None else self._family(self._process.pid)

    @staticmethod
    def _family(pid: int) -> list[psutil.Process]:
        try:
            top = psutil.Process(pid)
            return [top, *top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def strays(self) -> list[psutil.Process]:
        """Processes of this stack that no supervisor has in its care any more."""
        mine = {process.pid for process in self.family()}
        return [p for p in psutil.process_iter() if p.pid not in mine and _works_for(p, self.data_dir)]

    # Ways in, past the proxies

    @property
    def slices(self) -> Side:
        """The proxies of whoever fetches and extracts."""
        return self.sides["slices" if self.split else "worker"]

    @property
    def endpoints(self) -> dict[str, Any]:
        """What endpoints.json says now."""
        return dict(json.loads((self.data_dir / "endpoints.json").read_text()))

    @property
    def client(self) -> KnowledgeExtractionClient:
        """A client of the gateway, one for all calls: making one holds the event loop for tens of milliseconds."""
        address = self.endpoints["api"]
        if self._client is None or self._client[0] != address:
            self._client = (address, KnowledgeExtractionClient(address))
        return self._client[1]

    async def sql(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Asks Postgres itself, on one connection of the run; raises one of `UNREACHABLE` when it is away."""
        async with self._sql, asyncio.timeout(20):
            url = self.endpoints["database"]
            if self._database is None or self._database[0] != url or self._database[1].is_closed():
                self._database = (url, await asyncpg.connect(url, timeout=5))
            try:
                return list(await self._database[1].fetch(query, *args))
            except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError, TimeoutError):
                self._database[1].terminate()
                self._database = None
                raise

    @property
    def vectors(self) -> EdgeVectors:
        """A client of the vector process itself."""
        socket = self.endpoints["vectors"]
        if self._vectors is None or self._vectors[0] != socket:
            self._vectors = (socket, EdgeVectors(Path(socket)))
        return self._vectors[1]

    async def temporal(self) -> Client:
        """A client of Temporal itself."""
        address = self.endpoints["temporal"]
        if self._temporal is None or self._temporal[0] != address:
            async with asyncio.timeout(20):
                self._temporal = (address, await Client.connect(address))
        return self._temporal[1]

    async def _forget(self) -> None:
        """Lets go of the run's own connections."""
        if self._client is not None:
            await self._client[1].__aexit__(None, None, None)
        if self._vectors is not None:
            await self._vectors[1].close()
        if self._database is not None:
            self._database[1].terminate()
        self._client = self._vectors = self._database = self._temporal = None

    def heal(self) -> None:
        """All proxies forward again."""
        for side in self.sides.values():
            side.heal()


def _role(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
        queues = process.environ().get("KE_TASK_QUEUES", "").split(",")
    except psutil.Error:
        return ""
    for role, word in _COMMANDS.items():
        if word in command:
            return role
    if " -m worker" in command or "tests.faults.broken" in command:
        return "workflows" if TaskQueue.JOBS in queues else "worker"
    return ""


def _works_for(process: psutil.Process, data_dir: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get("KE_DATA_DIR") == str(data_dir) or str(data_dir) in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


UNREACHABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
)
"""What asking a store that is down raises."""


async def patiently(call: Callable[[], Awaitable[T]], *, timeout_s: float = 120.0) -> T:
    """Calls the gateway until it answers, after the pause that it asks for; what it refuses for good is raised.

    Raises:
        ApiError: It refused, with less than 500.
        AssertionError: It did not answer in time.
    """
    deadline, pause_s = time.monotonic() + timeout_s, FIRST_PAUSE_S
    while True:
        try:
            return await call()
        except (ApiError, GatewayUnreachable, FileNotFoundError) as error:
            if isinstance(error, ApiError) and error.status < 500:
                raise
            assert time.monotonic() < deadline, f"the gateway did not do it in {timeout_s:g} s: {error!r}"
            asked_s = (error.retry_after_s or 0.0) if isinstance(error, ApiError) else 0.0
        # Not all at once: a thousand callers that are told to come back would meet again.
        await asyncio.sleep(max(asked_s, pause_s) * random.uniform(0.5, 1.5))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
