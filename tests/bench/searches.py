"""Searches while a site is ingested, and over an optimised index."""

import asyncio
import itertools
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ke.client import KnowledgeExtractionClient
from ke.storage.vectors.base import MAX_BATCH, Point
from ke.storage.vectors.edge import EdgeVectors
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, remove
from tests.bench.stalls import QUERIES, ingesting
from tests.e2e.stack import eventually
from tests.faults.bulk import Size, seed
from tests.faults.measures import percentile, say
from tests.integration.vectors_process import VectorsProcess

SEARCH_S = (20.0, 2.0)
PAUSE_S = 0.01
"""Between two searches, so that they are spread over the ingest rather than done before it has begun."""
WARM = 10
"""Searches that are not counted: the first one loads the gateway's model."""
SEEDED = (Size(sources=2_000, chunks_each=10), Size(sources=50, chunks_each=4))
"""What is there to be searched before anything is ingested."""
POINTS = (200_000, 4_000)
DIMENSIONS = 256
POINT_SEARCHES = (100, 10)
WARM_SEARCHES = (1_000, 10)
"""Not counted: they read from the disk what was written last, which is all of it after a build."""
QUERY_SEED = 10**6
"""No batch of points has it."""
COLLECTION = "bench-256"
OPTIMISE_TIMEOUT_S = 600.0
HELP_TIMEOUT_S = 60.0
NEVER = ("--optimise-rows", str(10**9))
SOON = ("--optimise-rows", "100", "--optimise-quiet-s", "0.5")
"""For a collection that is too small to be optimised; a large one is by the defaults."""


async def search_ingest(lab: Lab) -> AsyncIterator[Figure]:
    """The p99 of a search while a site is crawled and extracted, against the p99 when nothing else runs."""
    web, stack = await lab.served(), await lab.stack()
    ratios: list[float] = []
    idle: list[float] = []
    busy: list[float] = []
    seconds = SEARCH_S[lab.options.quick]
    vectors = EdgeVectors(Path(stack.endpoints["vectors"]))
    try:
        job = await seed(stack.endpoints["database"], vectors, SEEDED[lab.options.quick])
    finally:
        await vectors.close()
    async with stack.client() as client:
        await _searches(client, 0, WARM)
        for run in range(lab.options.runs):
            idle.append(percentile(await _searches(client, seconds), 0.99))
            async with ingesting(client, web.url):
                busy.append(percentile(await _searches(client, seconds), 0.99))
            ratios.append(busy[-1] / idle[-1])
            say(f"  run {run + 1}: p99 idle {idle[-1] * 1000:.1f} ms, during ingest {busy[-1] * 1000:.1f} ms")
        await remove(client, str(job))
    note = f"p99 {median(busy) * 1000:.1f} against {median(idle) * 1000:.1f} ms"
    yield Figure("search-ingest", Goal.most(3.0), ratios, note)


async def _searches(client: KnowledgeExtractionClient, seconds: float, least: int = 20) -> list[float]:
    """Seconds of each search, one after the other, for so long."""
    ends_at = time.monotonic() + seconds
    taken: list[float] = []
    for query in itertools.cycle(QUERIES):
        began = time.monotonic()
        if began >= ends_at and len(taken) >= least:
            break
        await client.search(query, limit=10)
        taken.append(time.monotonic() - began)
        await asyncio.sleep(PAUSE_S)
    return taken


async def search_optimised(lab: Lab) -> AsyncIterator[Figure]:
    """A search over 200,000 points before the index is optimised, against one after it: how many times faster."""
    goal = Goal.least(30.0)
    if not await asyncio.to_thread(_can_optimise):
        yield Figure("search-optimised", goal, note="the vector process has no optimiser yet")
        return
    ratios: list[float] = []
    slow: list[float] = []
    fast: list[float] = []
    searches, warm = lab.options.size(*POINT_SEARCHES), lab.options.size(*WARM_SEARCHES)
    for run in range(lab.options.runs):
        with TemporaryDirectory(prefix="ke-bench-vectors-") as name:
            async with _vectors(Path(name), NEVER) as vectors:
                await _fill(vectors, lab.options.size(*POINTS))
                slow.append(await _nearest_s(vectors, searches, warm))
            began, filled = time.monotonic(), await _shards(Path(name))
            async with _vectors(Path(name), SOON if lab.options.quick else ()) as vectors:
                await eventually(
                    lambda: _shards(Path(name)),
                    lambda seen: bool(seen) and not seen & filled,  # noqa: B023
                    timeout_s=OPTIMISE_TIMEOUT_S,
                )
                took = time.monotonic() - began
                fast.append(await _nearest_s(vectors, searches, warm))
        ratios.append(slow[-1] / fast[-1])
        say(f"  run {run + 1}: {slow[-1] * 1000:.2f} ms, optimised after {took:.0f} s, then {fast[-1] * 1000:.2f} ms")
    note = f"{median(slow) * 1000:.2f} ms before, {median(fast) * 1000:.2f} ms after, socket and JSON included"
    yield Figure("search-optimised", goal, ratios, note)


def _can_optimise() -> bool:
    command = [sys.executable, "-m", "ke.storage.vectors.edge_server", "--help"]
    return NEVER[0].encode() in subprocess.run(command, capture_output=True, check=True, timeout=HELP_TIMEOUT_S).stdout


@asynccontextmanager
async def _vectors(folder: Path, options: Sequence[str]) -> AsyncIterator[EdgeVectors]:
    """A vector process on a folder, and a client of it."""
    process = VectorsProcess(folder / "data", folder / "s", *([tuple(options)] if options else []))
    await process.start()
    vectors = EdgeVectors(process.socket, timeout_s=OPTIMISE_TIMEOUT_S)
    try:
        yield vectors
    finally:
        await vectors.close()
        await process.stop()


async def _shards(folder: Path) -> set[str]:
    """The folders of the collection's data: an optimised copy is one of its own, which takes the other's place."""
    return {path.name for path in (folder / "data" / "collections" / COLLECTION).iterdir() if path.is_dir()}


async def _fill(vectors: EdgeVectors, number: int) -> None:
    """Writes points in clusters, as embeddings lie; random ones have no neighbours to be found."""
    await vectors.ensure_collection(COLLECTION, DIMENSIONS)
    job, source = uuid.uuid4(), uuid.uuid4()
    for batch in range(0, number, MAX_BATCH):
        points = [Point(uuid.uuid4(), row.tolist(), job, job, source) for row in _rows(batch, MAX_BATCH)]
        await vectors.upsert(COLLECTION, points, epochs={job: 1})


def _rows(seed_: int, number: int) -> Any:
    centres = np.random.default_rng(0).standard_normal((500, DIMENSIONS))
    chance = np.random.default_rng(seed_ + 1)
    rows = centres[chance.integers(0, len(centres), number)] + 0.7 * chance.standard_normal((number, DIMENSIONS))
    return rows.astype(np.float32)


async def _nearest_s(vectors: EdgeVectors, number: int, warm: int) -> float:
    """Seconds of a search, the median of many, after others that are not counted."""
    seconds = []
    for row in _rows(QUERY_SEED, warm + number):
        began = time.monotonic()
        await vectors.search(COLLECTION, row.tolist(), limit=10)
        seconds.append(time.monotonic() - began)
    return median(seconds[warm:])
