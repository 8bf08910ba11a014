"""What the programs of this folder measure, and how they print it."""

import asyncio
import contextlib
import math
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

MB = 1024 * 1024
SAMPLE_S = 0.1


def say(line: str) -> None:
    """Prints a line at once, also into a file."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def machine() -> str:
    """The cores, and how much else they do: figures of a machine that is busy with other things say little."""
    minute, *_ = os.getloadavg()
    return f"{os.cpu_count()} cores, load {minute:.1f} before the start"


def open_folder(prefix: str) -> Path:
    """A new folder for a stack, which other accounts may enter: under root Postgres runs as one."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o755)
    return folder


def verdict(broken: Sequence[str], held: str, folder: Path) -> int:
    """Prints what did not hold, or that all did; returns the exit status. A folder whose logs nobody wants goes."""
    for line in broken:
        say(f"BROKEN: {line}")
    if broken:
        say(f"{len(broken)} promises broken; what the run left is in {folder}")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    say(held)
    return 0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(name: str, values: Sequence[float]) -> str:
    """One line: how many, p50, p99 and the maximum, in seconds."""
    if not values:
        return f"{name:<34} none"
    p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
    return f"{name:<34} n={len(values):<4} p50={p50:7.3f} s  p99={p99:7.3f} s  max={max(values):7.3f} s"


@dataclass
class Memory:
    """One process's memory, in bytes."""

    first: int
    most: int
    last: int

    @property
    def growth(self) -> int:
        """How far it went above its start."""
        return self.most - self.first


@dataclass
class MemoryWatch:
    """The memory of a stack's processes while something happens, by role, sampled ten times a second.

    A role's memory is that of its largest process, so one that was killed is compared with the one that took its
    place. What is counted is `RssAnon + RssFile`, the resident set without shared memory: Postgres's shared buffers
    are mapped by each of its processes and fill up once, whoever reads, so they would count as the growth of whichever
    backend happens to read.
    """

    seen: dict[str, Memory] = field(default_factory=dict)

    def note(self, name: str, used: int) -> None:
        """Takes one sample."""
        known = self.seen.setdefault(name, Memory(used, used, used))
        known.most, known.last = max(known.most, used), used

    def lines(self) -> list[str]:
        """A table, the largest growth first."""
        ranked = sorted(self.seen.items(), key=lambda item: -item[1].growth)
        return [
            f"  {name:<20} start {m.first / MB:7.1f} MB  peak {m.most / MB:7.1f} MB  growth {m.growth / MB:+6.1f} MB"
            for name, m in ranked
        ]

    @property
    def largest_growth_mb(self) -> float:
        """Of all processes."""
        return max((m.growth for m in self.seen.values()), default=0) / MB


def private_bytes(process: psutil.Process) -> int:
    """The resident set without shared memory, in bytes; 0 of a process that is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile") if name in fields)


Roles = Callable[[], Mapping[str, Sequence[psutil.Process]]]


@asynccontextmanager
async def watching(processes: Roles) -> AsyncIterator[MemoryWatch]:
    """Samples the memory of these processes until the block ends."""
    watch = MemoryWatch()

    async def sample() -> None:
        while True:
            for role, members in processes().items():
                watch.note(role, max((private_bytes(process) for process in members), default=0))
            await asyncio.sleep(SAMPLE_S)

    task = asyncio.create_task(sample())
    await asyncio.sleep(SAMPLE_S)
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def roles(family: Iterable[psutil.Process], pids: Mapping[str, Any]) -> dict[str, list[psutil.Process]]:
    """A stack's processes by what they are: each that `endpoints.json` names, and together the children of each."""
    names = {pid: name for name, value in pids.items() for pid in (value if isinstance(value, list) else [value])}
    found: dict[str, list[psutil.Process]] = {}
    for process in family:
        with contextlib.suppress(psutil.Error):
            own = names.get(process.pid)
            parent = names.get(process.ppid())
            if own or (parent and parent != "ke"):  # what the supervisor has only just started is in no list yet
                found.setdefault(own or f"{parent}, children", []).append(process)
    return found
