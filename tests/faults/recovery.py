"""Kills the worker with SIGKILL at random moments of running jobs, and prints how long each job took to go on.

`python -m tests.faults recovery [--kills 20] [--seed 1]` ends with status 1 when a job does not end well, or the p99 of
the recovery is over 30 s.
"""

import argparse
import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import asyncpg

from examples.serve import SiteServer
from ke.client import KnowledgeExtractionClient
from ke.contracts.jobs import COUNTER_NAMES
from tests.e2e.stack import Stack, eventually
from tests.faults.measures import machine, open_folder, percentile, say, summary, verdict
from tests.faults.prose import write_site

Kind = Literal["crawl", "crawl and extract", "extract"]

KINDS: tuple[Kind, ...] = ("crawl", "crawl and extract", "extract")
PAGES = 150
PAGE_CHARACTERS = 3_000
SITE_DELAY_S = 0.4
UNDISTURBED = 1
LOOK_S = 0.05
SETTLE_S = 0.1
"""What a killed worker had sent to Postgres is committed by then."""
GOAL_S = 30.0
END_S = 180.0
_DONE = " + ".join(COUNTER_NAMES)


@dataclass
class Figures:
    """Seconds, one value for each job that was at work when its worker was killed."""

    restart: list[float] = field(default_factory=list)
    progress: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    undisturbed: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    disturbed: dict[Kind, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    broken: list[str] = field(default_factory=list)


class Recovery:
    """The measurement on one stack: one job of each kind at a time."""

    def __init__(self, stack: Stack, sites: dict[Kind, SiteServer], library: str, chance: random.Random) -> None:
        self._stack = stack
        self._sites = sites
        self._library = library
        self._chance = chance
        self.figures = Figures()

    async def run(self, kills: int) -> None:
        """Some rounds undisturbed, then one round for each kill."""
        connection = await asyncpg.connect(self._stack.endpoints["database"])
        try:
            async with self._stack.client() as client:
                for _ in range(UNDISTURBED):
                    await self._round(client, connection, None)
                longest = max(max(values) for values in self.figures.undisturbed.values())
                for _ in range(kills):
                    await self._round(client, connection, self._chance.uniform(0.0, longest))
        finally:
            await connection.close()

    async def _round(
        self, client: KnowledgeExtractionClient, connection: asyncpg.Connection, kill_after_s: float | None
    ) -> None:
        """One job of each kind side by side, and perhaps a kill in the middle."""
        ids = {kind: await self._submit(client, kind) for kind in KINDS}
        began = time.monotonic()
        moved: dict[uuid.UUID, float] = {}
        if kill_after_s is not None:
            await asyncio.sleep(kill_after_s)
            before = await self._open(connection, list(ids.values()))
            killed = time.monotonic()
            watch = asyncio.create_task(self._kill())
            await asyncio.sleep(SETTLE_S)
            moved = await self._moved(connection, set(before), killed)
            self.figures.restart.append(await watch - killed)
        for kind, job_id in ids.items():
            job = await eventually(
                lambda job_id=job_id: client.get_job(str(job_id), wait_s=30),  # type: ignore[misc]
                lambda j: j["completed_at"] is not None,
                timeout_s=END_S,
            )
            if job["status"] != "completed":
                self.figures.broken.append(f"{kind} {job_id} ended as {job['status']}: {job['error']}")
            took = datetime.fromisoformat(job["completed_at"] or "") - datetime.fromisoformat(job["created_at"])
            if kill_after_s is None:
                self.figures.undisturbed[kind].append(took.total_seconds())
            elif job_id in moved:
                self.figures.disturbed[kind].append(took.total_seconds())
                self.figures.progress[kind].append(moved[job_id])
        on = ", ".join(f"{seconds:.1f} s" for seconds in moved.values()) or "no job was left"
        what = "undisturbed" if kill_after_s is None else f"killed after {kill_after_s:.1f} s, jobs went on after {on}"
        say(f"round of {time.monotonic() - began:.1f} s, {what}")

    async def _submit(self, client: KnowledgeExtractionClient, kind: Kind) -> uuid.UUID:
        if kind == "extract":
            job = await client.submit_extract(source_job_id=self._library)
        else:
            seeds = [f"{self._sites[kind].url}/index.html"]
            job = await client.submit_crawl(seeds, extract=None if kind == "crawl" else {})
        return uuid.UUID(job["id"])

    async def _open(self, connection: asyncpg.Connection, ids: Sequence[uuid.UUID]) -> list[uuid.UUID]:
        """Those that have not ended."""
        rows = await connection.fetch("SELECT id FROM jobs WHERE id = ANY($1) AND completed_at IS NULL", ids)
        return [row["id"] for row in rows]

    async def _kill(self) -> float:
        """Kills the worker, that of the workflows too; returns when others are ready."""
        killed = await self._workers()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        await eventually(
            self._workers,
            lambda pids: len(pids) == len(killed) and not {*pids} & {*killed},
            timeout_s=END_S,
            every_s=LOOK_S,
        )
        return time.monotonic()

    async def _workers(self) -> list[int]:
        pids = self._stack.endpoints["pids"]
        return [pid for pid in (pids["workflows"], *pids["workers"]) if pid is not None]

    async def _moved(
        self, connection: asyncpg.Connection, ids: set[uuid.UUID], killed: float
    ) -> dict[uuid.UUID, float]:
        """For each job, seconds from the kill until it has committed more than it had, or has ended."""
        first: dict[uuid.UUID, int] = {}
        moved: dict[uuid.UUID, float] = {}
        while len(moved) < len(ids):
            rows = await connection.fetch(
                f"SELECT id, completed_at, (SELECT coalesce(sum({_DONE}), 0) FROM job_progress"
                " WHERE job_id = jobs.id) AS done FROM jobs WHERE id = ANY($1)",
                list(ids),
            )
            for row in rows:
                before = first.setdefault(row["id"], row["done"])
                if row["id"] not in moved and (row["done"] > before or row["completed_at"] is not None):
                    moved[row["id"]] = time.monotonic() - killed
            if time.monotonic() - killed > END_S:
                self.figures.broken.append(f"jobs did not go on in {END_S:.0f} s: {ids - set(moved)}")
                return moved
            await asyncio.sleep(LOOK_S)
        return moved


def report(figures: Figures) -> list[str]:
    """Prints the figures; returns what does not hold."""
    say(summary("restart of the worker until ready", figures.restart))
    for kind in KINDS:
        say(summary(f"goes on, {kind}", figures.progress[kind]))
        say(summary(f"  took undisturbed, {kind}", figures.undisturbed[kind]))
        say(summary(f"  took with a kill, {kind}", figures.disturbed[kind]))
    everything = [value for values in figures.progress.values() for value in values]
    say(summary("goes on, all", everything))
    broken = list(figures.broken)
    if everything and percentile(everything, 0.99) > GOAL_S:
        broken.append(f"recovery: p99 is over {GOAL_S:g} s")
    return broken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this program."""
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(datetime.now(UTC).timestamp()))


async def run(options: argparse.Namespace) -> int:
    """Runs it all on a stack of its own; returns the exit status."""
    say(f"{options.kills} kills, seed {options.seed}; {machine()}")
    folder = open_folder("ke-recovery-")
    write_site(folder, pages=PAGES, characters=PAGE_CHARACTERS, seed=options.seed)
    async with AsyncExitStack() as opened:
        sites: dict[Kind, SiteServer] = {
            kind: await opened.enter_async_context(SiteServer(folder, delay_s=SITE_DELAY_S)) for kind in KINDS[:2]
        }
        stack = Stack(folder / "data", fetch_allow=",".join(site.host_port for site in sites.values()))
        try:
            await asyncio.to_thread(stack.start)
            async with stack.client() as client:
                library = await client.submit_crawl([f"{sites['crawl'].url}/index.html"])
                await eventually(
                    lambda: client.get_job(library["id"], wait_s=30),
                    lambda j: j["status"] == "completed",
                    timeout_s=180,
                )
            chance = random.Random(options.seed)
            recovery = Recovery(stack, sites, library["id"], chance)
            await recovery.run(options.kills)
            broken = report(recovery.figures)
        finally:
            await asyncio.to_thread(stack.stop)
    return verdict(broken, "the promises hold", folder)
