"""The faults: each breaks something of a running stack, holds it broken for a while, and heals it."""

import asyncio
import contextlib
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import psutil

from tests.faults.proxy import TcpProxy, VectorsProxy
from tests.faults.scenes import Scene
from tests.faults.stack import FaultStack

During = Callable[[], Awaitable[None]]
"""What is done to the job while it is broken: a cancel, a cleanup; it goes on trying until it is answered."""
CLEANED_TIMEOUT_S: Final = 90.0


@dataclass(frozen=True)
class Fault(ABC):
    """A fault of a run; two with the same fields do the same."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its class, as the table has it."""

    @abstractmethod
    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        """Breaks, does what is to be done meanwhile, and heals; returns when it has been healed."""

    def __str__(self) -> str:
        """With its numbers."""
        return self.name


@dataclass(frozen=True)
class Kill(Fault):
    """SIGKILL to one process, or to all workers, or to the whole `ke up`."""

    role: str

    @property
    def name(self) -> str:
        return f"kill {self.role}"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        if self.role == "stack":
            await stack.kill_all()
            await stack.start()
        else:
            for process in await victims(stack, scene, self.role):
                _send(process, signal.SIGKILL)
        await during()


@dataclass(frozen=True)
class Freeze(Fault):
    """SIGSTOP to a process and its children, and SIGCONT after a while."""

    role: str
    seconds: float

    @property
    def name(self) -> str:
        return f"freeze {self.role}" + (" past its heartbeat" if self.seconds > 10 else "")

    def __str__(self) -> str:
        return f"{self.name} {self.seconds:.1f} s"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        with frozen(await victims(stack, scene, self.role)):
            doing = asyncio.create_task(_call(during))
            await asyncio.sleep(self.seconds)
        await doing


@dataclass(frozen=True)
class FreezePastCleanup(Fault):
    """A worker is frozen in its job's slice, and goes on when the job has been cancelled and cleaned."""

    @property
    def name(self) -> str:
        return "freeze worker past its job's cleanup"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        with frozen(await victims(stack, scene, "worker")):
            await scene.cancel(cleanup=True)
            await scene.until_cleaned(CLEANED_TIMEOUT_S)
        await during()


@dataclass(frozen=True)
class LateWrite(Fault):
    """A batch of points is on its way, its worker is frozen, and both arrive when the job has been cleaned."""

    @property
    def name(self) -> str:
        return "points arrive after their job's cleanup"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        proxy = stack.slices.vectors
        proxy.hold(upserts_only=True)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(15):
                    await proxy.holding.wait()
            with frozen(await victims(stack, scene, "worker")):
                await scene.cancel(cleanup=True)
                await scene.until_cleaned(CLEANED_TIMEOUT_S)
                proxy.heal()
                await asyncio.sleep(1.0)
        finally:
            proxy.heal()
        await during()


@dataclass(frozen=True)
class Network(Fault):
    """The way from the gateway, or from the workers, to what they depend on misbehaves."""

    dependency: str
    side: str
    how: str
    seconds: float
    amount: float

    @property
    def name(self) -> str:
        return f"{self.how} {self.dependency}"

    def __str__(self) -> str:
        return f"{self.name} for the {self.side} {self.seconds:.1f} s"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        side = stack.sides[self.side]
        proxy = {"postgres": side.postgres, "temporal": side.temporal}.get(self.dependency)
        if proxy is None:
            self._vectors(stack)
        elif self.how == "delay":
            proxy.delay_s = self.amount
        elif self.how == "hold":
            proxy.hold()
        elif self.how == "drop replies of":
            proxy.drop_when = b"COMMIT" if self.dependency == "postgres" else b""
            proxy.drop_replies = self._replies
        else:
            proxy.refuse = self.how == "refuse"
            proxy.reset()
        doing = asyncio.create_task(_call(during))
        try:
            await asyncio.sleep(self.seconds)
            await self._dropped(proxy or side.vectors)
        finally:
            side.heal()
        await doing

    async def _dropped(self, proxy: TcpProxy | VectorsProxy) -> None:
        """Gives the workers, who are never quiet for long, time to lose an answer."""
        if self.how != "drop replies of" or self.side != "worker":
            return
        for _ in range(50):
            if proxy.drop_replies < self._replies:
                return
            await asyncio.sleep(0.2)

    @property
    def _replies(self) -> int:
        """How many answers are to be lost."""
        return max(1, round(self.amount * 4))

    def _vectors(self, stack: FaultStack) -> None:
        proxy = stack.sides[self.side].vectors
        if self.how == "delay":
            proxy.delay_s = self.amount
        elif self.how == "hold":
            proxy.hold()
        elif self.how == "drop replies of":
            proxy.drop_replies = self._replies
        else:
            proxy.refuse = True


@dataclass(frozen=True)
class FailBatch(Fault):
    """The vector store fails the k-th batch of points from now on, and the one after it."""

    k: int

    @property
    def name(self) -> str:
        return "fail a batch of vectors"

    def __str__(self) -> str:
        return f"{self.name}, the {self.k}th"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        proxy = stack.sides["worker"].vectors
        proxy.heal()
        proxy.fail_upserts = {self.k, self.k + 1}
        await during()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                await proxy.failing.wait()
        proxy.heal()


@dataclass(frozen=True)
class FailVectors(Fault):
    """The vector store answers nothing but errors for a while."""

    seconds: float

    @property
    def name(self) -> str:
        return "fail all of vectors" + (" for a minute" if self.seconds >= 60 else "")

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        sides = [side.vectors for side in stack.sides.values()]
        for proxy in sides:
            proxy.fail = True
        doing = asyncio.create_task(_call(during))
        await asyncio.sleep(self.seconds)
        for proxy in sides:
            proxy.heal()
        await doing


@dataclass(frozen=True)
class Exhaust(Fault):
    """Every connection that Postgres has is taken, and everybody else must connect anew."""

    seconds: float

    @property
    def name(self) -> str:
        return "take all connections of postgres"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        for side in stack.sides.values():
            side.postgres.reset()
        url = stack.endpoints["database"]
        taken: list[asyncpg.Connection] = []
        doing = asyncio.create_task(_call(during))
        try:
            async with asyncio.timeout(self.seconds + 20):
                await _take_all(url, taken, self.seconds)
        except TimeoutError:
            pass
        finally:
            for connection in taken:
                connection.terminate()
        await doing


async def _take_all(url: str, taken: list[asyncpg.Connection], seconds: float) -> None:
    """Takes connections until there are none, and for so many seconds each one that becomes free."""
    ends = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < ends:
        try:
            taken.append(await asyncpg.connect(url, timeout=2))
        except (asyncpg.TooManyConnectionsError, OSError, TimeoutError, asyncpg.PostgresConnectionError):
            await asyncio.sleep(0.2)


@dataclass(frozen=True)
class FillDisk(Fault):
    """The small disk that Postgres's data is on is full for a while."""

    seconds: float

    @property
    def name(self) -> str:
        return "fill the disk of postgres"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        assert stack.disk is not None
        ballast = stack.disk / "ballast"
        doing = asyncio.create_task(_call(during))
        ends = asyncio.get_running_loop().time() + self.seconds
        try:
            while asyncio.get_running_loop().time() < ends:
                await asyncio.to_thread(_fill, ballast)
                await asyncio.sleep(0.5)
        finally:
            ballast.unlink(missing_ok=True)
        await doing


def _fill(ballast: Path) -> None:
    """Takes what is free, to the last page."""
    free = os.statvfs(ballast.parent).f_bavail * os.statvfs(ballast.parent).f_frsize
    with ballast.open("ab") as file, contextlib.suppress(OSError):
        if free:
            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free)


@dataclass(frozen=True)
class SubmitStorm(Fault):
    """One key is submitted by a hundred at once."""

    @property
    def name(self) -> str:
        return "100 submits of one key at once"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        await scene.submit_at_once(100)
        await during()


@dataclass(frozen=True)
class CancelStorm(Fault):
    """A hundred jobs are cancelled by ten each, all at once."""

    jobs: int = 100
    times: int = 10

    @property
    def name(self) -> str:
        return f"{self.jobs * self.times:,} cancels at once"

    async def inject(self, stack: FaultStack, scene: Scene, during: During) -> None:
        await scene.cancel_at_once(self.jobs, self.times)
        await during()


@contextlib.contextmanager
def frozen(processes: Sequence[psutil.Process]):
    """Stops processes and their children for as long as the block runs."""
    family = [member for process in processes for member in (process, *_children(process))]
    for member in family:
        _send(member, signal.SIGSTOP)
    try:
        yield
    finally:
        for member in reversed(family):
            _send(member, signal.SIGCONT)


async def victims(stack: FaultStack, scene: Scene, role: str) -> list[psutil.Process]:
    """Who is hit: of the workers the one that has the job's slice, or all of them for `workers`."""
    processes = stack.processes()
    if role not in {"worker", "workers"}:
        return processes[role]
    found = [*processes["worker"], *processes["workflows"]]
    if role == "workers":
        return found
    busy = await scene.busy_workers()
    return [process for process in found if process.pid in busy][:1] or found[:1]


async def _call(during: During) -> None:
    await during()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)
