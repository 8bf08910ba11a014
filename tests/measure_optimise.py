"""What optimising a large collection costs those who search and write: `python -m tests.measure_optimise [POINTS]`.

A real vector process, from outside: clustered vectors of 256 dimensions; searches before, while and after the copy is
built, with a small upsert every 100 ms; recall at 10 against numpy over the same vectors; memory of both processes.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from ke.storage.vectors.base import Point
from ke.storage.vectors.edge import EdgeVectors
from tests.integration.vectors_process import VectorsProcess

DIMENSIONS = 256
COLLECTION = "measured-256"
CLUSTERS = 500
JOBS = [uuid.UUID(int=number) for number in range(1, 51)]
WRITER = uuid.UUID(int=999)
EPOCHS = dict.fromkeys([*JOBS, WRITER], 1)
QUERIES = 400


@dataclass
class Data:
    """The points and the queries."""

    ids: list[uuid.UUID]
    vectors: NDArray[np.float32]
    queries: NDArray[np.float32]

    @classmethod
    def make(cls, count: int) -> "Data":
        """Points around centres, as texts are; queries like them."""
        rng = np.random.default_rng(1)
        centres = rng.normal(size=(CLUSTERS, DIMENSIONS))

        def some(number: int) -> NDArray[np.float32]:
            raw = centres[rng.integers(0, CLUSTERS, number)] + 0.7 * rng.normal(size=(number, DIMENSIONS))
            return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)

        return cls([uuid.UUID(bytes=rng.bytes(16)) for _ in range(count)], some(count), some(QUERIES))

    def points(self, first: int, count: int) -> list[Point]:
        """Some of the points; a thousand in a row are of one job."""
        job = JOBS[first // 1000 % len(JOBS)]
        rows = zip(self.ids[first : first + count], self.vectors[first : first + count].tolist(), strict=True)
        return [Point(point, vector, job, job, uuid.uuid4()) for point, vector in rows]


@dataclass
class Watch:
    """What was seen while the copy was built."""

    searches_s: list[float] = field(default_factory=list)
    """Those that no write was beside."""
    amid_writes_s: list[float] = field(default_factory=list)
    upserts_s: list[float] = field(default_factory=list)
    server_mb: list[float] = field(default_factory=list)
    builder_mb: list[float] = field(default_factory=list)


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[tuple[VectorsProcess, EdgeVectors]]:
    """A process and a client of it."""
    process = VectorsProcess(folder / "data", folder / "s", options)
    await process.start()
    store = EdgeVectors(process.socket, timeout_s=120)
    try:
        yield process, store
    finally:
        await store.close()
        await process.stop()


async def search(store: EdgeVectors, data: Data, *, job_ids: list[uuid.UUID] | None = None) -> list[float]:
    """Seconds of each query's search."""
    took: list[float] = []
    for query in data.queries:
        began = time.perf_counter()
        await store.search(COLLECTION, query.tolist(), limit=10, job_ids=job_ids)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.002)
    return took


async def recall(store: EdgeVectors, data: Data, *, job_ids: list[uuid.UUID] | None = None) -> float:
    """The part of the ten nearest that a search finds."""
    rows = np.arange(len(data.ids))
    if job_ids is not None:
        wanted = [JOBS.index(job) for job in job_ids]
        rows = rows[np.isin(rows // 1000 % len(JOBS), wanted)]
    found = 0
    for query in data.queries:
        nearest = rows[np.argsort(-(data.vectors[rows] @ query))[:10]]
        hits = await store.search(COLLECTION, query.tolist(), limit=10, job_ids=job_ids)
        found += len({data.ids[row] for row in nearest} & {hit.id for hit in hits})
    return found / (10 * len(data.queries))


def memory_mb(pid: int) -> float:
    """Memory of a process that is not a page of a file, megabytes."""
    used = psutil.Process(pid).memory_info()
    return (used.rss - used.shared) / 2**20


async def write(store: EdgeVectors, took: list[float]) -> None:
    """A small upsert every 100 ms until it is cancelled; notes the seconds of each."""
    rng = np.random.default_rng()
    while True:
        rows = rng.normal(size=(20, DIMENSIONS)).tolist()
        points = [Point(uuid.uuid4(), row, WRITER, WRITER, uuid.uuid4()) for row in rows]
        began = time.perf_counter()
        await store.upsert(COLLECTION, points, epochs=EPOCHS)
        took.append(time.perf_counter() - began)
        await asyncio.sleep(0.1)


async def amid_writes(store: EdgeVectors, data: Data) -> tuple[list[float], list[float]]:
    """Seconds of each query's search and of each upsert, together."""
    upserts: list[float] = []
    writer = asyncio.create_task(write(store, upserts))
    searches = await search(store, data)
    writer.cancel()
    return searches, upserts


async def weigh(pid: int, seen: Watch) -> None:
    """Notes the memory of a vector process and of its builder until it is cancelled."""
    while True:
        seen.server_mb.append(memory_mb(pid))
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error):
                seen.builder_mb.append(memory_mb(child.pid))
        await asyncio.sleep(0.2)


def shards(folder: Path) -> set[str]:
    """The folders of a collection: two while a copy is made."""
    return {path.name for path in (folder / "collections" / COLLECTION).iterdir() if path.is_dir()}


async def watch(process: VectorsProcess, store: EdgeVectors, data: Data) -> Watch:
    """Searches, half of the time amid writes, until another shard has taken the place of the first one."""
    seen = Watch()
    assert process.process is not None
    scales = asyncio.create_task(weigh(process.process.pid, seen))
    old = shards(process.folder)
    while shards(process.folder) == old:  # noqa: ASYNC110 - another process's folder
        await asyncio.sleep(0.1)
    while old & shards(process.folder):
        seen.searches_s += await search(store, data)
        searches, upserts = await amid_writes(store, data)
        seen.amid_writes_s += searches
        seen.upserts_s += upserts
    scales.cancel()
    return seen


def told(label: str, took_s: list[float]) -> None:
    """One line about some calls."""
    ms = np.array(took_s) * 1e3
    line = f"p50 {np.median(ms):7.2f}  p99 {np.quantile(ms, 0.99):7.2f}  longest {ms.max():7.1f} ms"
    sys.stdout.write(f"{label:<28} {line}  ({len(ms)} calls)\n")
    sys.stdout.flush()


def disk_mb(folder: Path) -> int:
    """Blocks that files take, megabytes."""
    return sum(path.stat().st_blocks for path in folder.rglob("*") if path.is_file()) * 512 >> 20


async def tell_searches(store: EdgeVectors, data: Data, when: str) -> None:
    """Lines about searches at rest and amid writes."""
    told(f"search {when}", await search(store, data))
    told(f"search of one job {when}", await search(store, data, job_ids=JOBS[:1]))
    searches, upserts = await amid_writes(store, data)
    told(f"search amid writes {when}", searches)
    told(f"upsert of 20 {when}", upserts)


async def before(folder: Path, data: Data) -> None:
    """Fills a collection that is not optimised, and searches it."""
    async with serving(folder, "--optimise-rows", str(10**9)) as (_, store):
        await store.ensure_collection(COLLECTION, DIMENSIONS)
        took: list[float] = []
        for first in range(0, len(data.ids), 1000):
            began = time.perf_counter()
            await store.upsert(COLLECTION, data.points(first, 1000), epochs=EPOCHS)
            took.append(time.perf_counter() - began)
        told("upsert of 1,000 before", took)
        await tell_searches(store, data, "before")


async def while_and_after(folder: Path, data: Data) -> None:
    """Has the collection optimised and searches it, then has nearly all of it deleted and optimised again."""
    say = sys.stdout.write
    async with serving(folder) as (process, store):
        began = time.perf_counter()
        seen = await watch(process, store, data)
        say(f"in place {time.perf_counter() - began:.0f} s after the start, 5 s of quiet included\n")
        told("search meanwhile", seen.searches_s)
        told("search amid writes meanwhile", seen.amid_writes_s)
        told("upsert of 20 meanwhile", seen.upserts_s)
        say(f"memory: server {seen.server_mb[0]:.0f} MB, at most {max(seen.server_mb):.0f} MB; ")
        say(f"builder at most {max(seen.builder_mb):.0f} MB\n")
        await tell_searches(store, data, "after")
        for jobs in (None, JOBS[:1], JOBS[:15]):
            say(f"recall at 10, {len(jobs) if jobs else 'all'} jobs: {await recall(store, data, job_ids=jobs):.4f}\n")
        full_mb = disk_mb(process.folder)
        old = shards(process.folder)
        for first in range(0, len(data.ids) - 5000, 1000):
            await store.delete(COLLECTION, data.ids[first : first + 1000])
        while old & shards(process.folder):  # noqa: ASYNC110 - another process's folder
            await asyncio.sleep(0.1)
        say(f"disk: {full_mb} MB; with all but 5,000 points deleted {disk_mb(process.folder)} MB\n")


async def main(count: int) -> None:
    """Measures and prints."""
    data = Data.make(count)
    with tempfile.TemporaryDirectory() as name:
        await before(Path(name), data)
        await while_and_after(Path(name), data)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
