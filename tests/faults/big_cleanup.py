"""Cleans up a very large job on a running stack: the time, the memory, and whether the receipt is exact.

Undisturbed, and with a process killed in the middle. `python -m tests.faults cleanup [--sources 10000] [--chunks 10]`
ends with status 1 when a promise does not hold.
"""

import argparse
import asyncio
import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

from ke.client import KnowledgeExtractionClient
from ke.storage.vectors import edge_builder
from ke.storage.vectors.edge import EdgeVectors
from ke.storage.vectors.edge_optimise import Tuning
from tests.e2e.stack import Stack, eventually
from tests.faults.bulk import Size, seed
from tests.faults.measures import MB, machine, open_folder, roles, say, verdict, watching

MOST_GROWTH_MB = 50
CLEANUP_TIMEOUT_S = 300.0
AT_REST_S = 2 * Tuning().quiet_s
"""Seconds without a build after which none is to come: one begins when nothing was written for half of that."""
INDEX_TIMEOUT_S = 900.0
BUILDER = edge_builder.__name__
SHAPES = ("undisturbed", "worker killed", "vectors killed")


class BigCleanup:
    """The measurement on one stack."""

    def __init__(self, stack: Stack, size: Size) -> None:
        self._stack = stack
        self._size = size
        self.broken: list[str] = []

    async def run(self, shape: str) -> None:
        """Seeds a job, counts it by a dry run, cleans it, and checks the receipt and what is left."""
        vectors = EdgeVectors(Path(self._stack.endpoints["vectors"]))
        try:
            began = time.monotonic()
            job = await seed(self._stack.endpoints["database"], vectors, self._size)
            say(f"{shape}: seeded in {time.monotonic() - began:.1f} s")
            await self._indexed()
            async with self._stack.client() as client, watching(self._processes) as memory:
                await self._dry_run(client, job)
                began = time.monotonic()
                receipt = await self._clean(client, job, shape)
                say(f"  cleanup {time.monotonic() - began:.2f} s, {receipt['status']}")
            say("\n".join(memory.lines()))
            say(f"  shared memory of Postgres, counted apart: {self._shared_mb():.0f} MB")
            self._check(shape, "deleted", receipt["deleted"], self._size.counts)
            self._check(shape, "planned", receipt["planned"], self._size.counts)
            self._check(shape, "remaining", receipt["remaining"], dict.fromkeys(self._size.counts, 0))
            self._check(shape, "left in the stores", await self._left(vectors, job), {})
            if shape == "undisturbed" and memory.largest_growth_mb > MOST_GROWTH_MB:
                self.broken.append(f"{shape}: a process grew by {memory.largest_growth_mb:.0f} MB")
        finally:
            await vectors.close()

    async def _indexed(self) -> None:
        """Waits until the store builds no index any more: that is the work of the seed, and takes memory of its own."""
        began = busy_at = time.monotonic()
        while time.monotonic() - busy_at < AT_REST_S:
            if self._builders():
                busy_at = time.monotonic()
            if busy_at - began > INDEX_TIMEOUT_S:
                raise TimeoutError(f"the store still builds an index after {INDEX_TIMEOUT_S:g} s")
            await asyncio.sleep(0.2)
        say(f"  indexed {busy_at - began:.1f} s later")

    def _builders(self) -> list[psutil.Process]:
        return [p for p in self._processes().get("vectors, children", []) if _is_builder(p)]

    async def _dry_run(self, client: KnowledgeExtractionClient, job: uuid.UUID) -> None:
        began = time.monotonic()
        planned = await client.cleanup_job(str(job), dry_run=True)
        say(f"  dry run {time.monotonic() - began:.2f} s")
        self._check("dry run", "planned", planned["planned"], self._size.counts)
        self._check("dry run", "job", (await client.get_job(str(job)))["artifacts"], "present")

    async def _clean(self, client: KnowledgeExtractionClient, job: uuid.UUID, shape: str) -> Any:
        await client.cleanup_job(str(job))
        if shape != "undisturbed":
            await self._midway(job)
            victim = "workflows" if shape.startswith("worker") else "vectors"
            os.kill(self._stack.endpoints["pids"][victim], signal.SIGKILL)
        return await eventually(
            lambda: client.get_cleanup(f"cleanup-{job}"),
            lambda receipt: receipt["completed_at"] is not None,
            timeout_s=CLEANUP_TIMEOUT_S,
        )

    async def _midway(self, job: uuid.UUID) -> None:
        """Waits until about half of the points are deleted."""
        half = self._size.counts["vectors"] // 2
        await eventually(
            lambda: self._stack.sql(
                "SELECT coalesce(sum((counts->>'vectors')::int), 0) AS n FROM cleanup_batches"
                " WHERE cleanup_id = $1 AND done",
                f"cleanup-{job}",
            ),
            lambda rows: rows[0]["n"] >= half,
            timeout_s=CLEANUP_TIMEOUT_S,
            every_s=0.02,
        )

    async def _left(self, vectors: EdgeVectors, job: uuid.UUID) -> dict[str, int]:
        """What the stores themselves still have of the job, by name."""
        found = {name: await vectors.count_job(name, job) for name in await vectors.collections()}
        for table in ("sources", "extractions", "entities", "dead_letters", "pages", "records", "extraction_tasks"):
            rows = await self._stack.sql(f"SELECT count(*) AS n FROM {table} WHERE job_id = $1", job)
            found[table] = rows[0]["n"]
        return {name: number for name, number in found.items() if number}

    def _check(self, shape: str, what: str, seen: Any, expected: Any) -> None:
        if seen != expected:
            self.broken.append(f"{shape}: {what} is {seen}, not {expected}")

    def _processes(self) -> dict[str, list[psutil.Process]]:
        return roles(self._stack.family(), self._stack.endpoints["pids"])

    def _shared_mb(self) -> float:
        """What Postgres's processes share, at most once: its shared buffers."""
        postgres = psutil.Process(self._stack.endpoints["pids"]["postgres"])
        shared = [process.memory_info().shared for process in (postgres, *postgres.children(recursive=True))]
        return max(shared) / MB


def _is_builder(process: psutil.Process) -> bool:
    try:
        return BUILDER in process.cmdline()
    except psutil.Error:  # it has just ended
        return False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this program."""
    parser.add_argument("--sources", type=int, default=10_000)
    parser.add_argument("--chunks", type=int, default=10, help="of each source")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))


async def run(options: argparse.Namespace) -> int:
    """Runs all shapes on one stack; returns the exit status."""
    say(machine())
    folder = open_folder("ke-big-cleanup-")
    stack = Stack(folder / "data", fetch_allow="127.0.0.1:1")
    try:
        stack.start()
        measured = BigCleanup(stack, Size(sources=options.sources, chunks_each=options.chunks))
        for shape in options.shapes:
            await measured.run(shape)
    finally:
        stack.stop()
    return verdict(measured.broken, "the receipts are exact", folder)
