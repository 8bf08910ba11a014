"""Optimising beside the calls: nothing is lost or comes back, whenever the process dies; others do not wait for it."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import orjson
import psutil
import pytest

from ke.contracts.errors import Fenced, VectorStoreUnavailable
from ke.storage.vectors import edge_optimise
from ke.storage.vectors.base import Point
from ke.storage.vectors.checks import as_matrix
from ke.storage.vectors.edge import EdgeVectors
from ke.storage.vectors.edge_builder import end_left_builder, lock_of
from ke.storage.vectors.edge_copying import Copying
from ke.storage.vectors.edge_engine import EdgeEngine, Owner
from ke.storage.vectors.edge_files import rows
from ke.storage.vectors.edge_optimise import NoCopy, Tuning, due
from tests.integration.vectors_killed import STAGES
from tests.integration.vectors_process import VectorsProcess

DIMENSIONS = 16
COLLECTION = "test-16"
JOB = uuid.uuid4()
EPOCHS = {JOB: 1}

WAIT_S = 240.0
"""For what takes a second on a machine with nothing else to do."""

NEVER = ("--optimise-rows", "1000000000")
AT_ONCE = ("--optimise-rows", "1", "--optimise-quiet-s", "0.02", "--full-scan-kb", "1")
WHEN_BUSY = ("--optimise-rows", "1", "--optimise-quiet-s", "0.001", "--full-scan-kb", "1")


def some_points(count: int, job: uuid.UUID = JOB, dimensions: int = DIMENSIONS) -> list[Point]:
    vectors = np.random.default_rng().normal(size=(count, dimensions)).tolist()
    return [Point(uuid.uuid4(), vector, job, job, uuid.uuid4()) for vector in vectors]


class Ledger:
    """What the store has answered for, and writes to it that go on meanwhile."""

    def __init__(self, store: EdgeVectors) -> None:
        self.store = store
        self.there: dict[uuid.UUID, list[float]] = {}
        self.gone: set[uuid.UUID] = set()

    async def upsert(self, points: list[Point]) -> None:
        # Until it is answered it may be there or not, with the old vector or the new one.
        for point in points:
            self.there.pop(point.id, None)
            self.gone.discard(point.id)
        await self.store.upsert(COLLECTION, points, epochs=EPOCHS)
        self.there |= {point.id: list(point.vector) for point in points}

    async def delete(self, ids: list[uuid.UUID]) -> None:
        for point in ids:
            self.there.pop(point, None)
        await self.store.delete(COLLECTION, ids)
        self.gone.update(ids)

    async def churn(self) -> None:
        """New points, other vectors for old ones, deletes, and deleted ones that come again, until it is ended."""
        while True:
            known = random.sample(sorted(self.there), 30)
            vectors = np.random.default_rng().normal(size=(20, DIMENSIONS)).tolist()
            again = [Point(known[i], vectors[i], JOB, JOB, uuid.uuid4()) for i in range(10)]
            await self.upsert([*again, *some_points(20)])
            await self.delete(known[5:20])
            back = [Point(known[i], vectors[i], JOB, JOB, uuid.uuid4()) for i in range(10, 15)]
            await self.upsert(back)

    async def check(self) -> None:
        """Holds the store against what it has answered for, point by point."""
        found: list[uuid.UUID] = []
        while page := await self.store.scroll_all(COLLECTION, limit=1000, after=found[-1] if found else None):
            found += page
        assert found == sorted(found)
        assert len(set(found)) == len(found) == await self.store.count_all(COLLECTION)
        assert not self.there.keys() - set(found)
        assert not self.gone & set(found)
        assert await self.store.count_job(COLLECTION, JOB) == len(found)
        missed = 0
        for point in random.sample(sorted(self.there), 40):
            wanted = (point, 1.0)
            hits = await self.store.search(COLLECTION, self.there[point], limit=1, ids=[point])
            assert (hits[0].id, round(hits[0].score, 3)) == wanted
            hits = await self.store.search(COLLECTION, self.there[point], limit=1)
            missed += (hits[0].id, round(hits[0].score, 3)) != wanted
        # A graph over points at random has one here and there that no other leads to.
        assert missed <= 4


class Place:
    """A folder of a store, the process on it and a client."""

    def __init__(self, folder: Path) -> None:
        self.process = VectorsProcess(folder / "data", folder / "s")
        self.store = EdgeVectors(self.process.socket, timeout_s=60)
        self.collection = self.process.folder / "collections" / COLLECTION
        self.hold = folder / "hold"
        """As long as it exists, the builds of a process that was started with `start_held` stand still."""

    async def start(self, options: tuple[str, ...], *module: str) -> None:
        await self.process.stop()
        self.process.options = options
        self.process.module = module or ("ke.storage.vectors.edge_server",)
        await self.process.start()

    async def start_held(self, options: tuple[str, ...]) -> None:
        """Starts a process whose first build is still under way, whatever the machine does, when a test looks."""
        self.hold.touch()
        await self.start(options, "tests.integration.vectors_held", "build", str(self.hold))

    def shard(self) -> str:
        return str(orjson.loads((self.collection / "collection.json").read_bytes())["shard"])

    def content(self) -> set[str]:
        return {path.name for path in self.collection.iterdir()}

    def builder(self) -> psutil.Process | None:
        assert self.process.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return next(iter(psutil.Process(self.process.process.pid).children()), None)
        return None

    async def until(self, holds: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not holds():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)

    async def optimised(self, old: str) -> None:
        """Waits until another shard has the place of this one, and nothing else is left."""
        await self.until(lambda: self.shard() != old and self.content() == {"collection.json", "journal", self.shard()})


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(tmp_path)
    yield made
    await made.store.close()
    await made.process.stop(signal.SIGKILL)


@pytest.fixture
async def ledger(place: Place) -> Ledger:
    """1,700 points that are not optimised, and 300 deleted ones; the process runs."""
    await place.start(NEVER)
    await place.store.ensure_collection(COLLECTION, DIMENSIONS)
    made = Ledger(place.store)
    for _ in range(2):
        await made.upsert(some_points(1000))
    await made.delete(sorted(made.there)[:300])
    return made


@pytest.fixture
def engine(tmp_path: Path) -> EdgeEngine:
    made = EdgeEngine.open(tmp_path / "data")
    made.ensure_collection(COLLECTION, DIMENSIONS)
    return made


def fill(engine: EdgeEngine, count: int) -> list[uuid.UUID]:
    owners = [Owner(uuid.uuid4(), JOB, JOB, uuid.uuid4()) for _ in range(count)]
    vectors = as_matrix(np.random.default_rng().normal(size=(count, DIMENSIONS)).tolist())
    engine.upsert(COLLECTION, owners, vectors, EPOCHS)
    engine.flush(COLLECTION)
    return [owner.id for owner in owners]


async def test_writes_meanwhile_are_in_the_optimised_shard(place: Place, ledger: Ledger) -> None:
    """New, changed, deleted and deleted-and-new points from the time of the build are in its result, as answered."""
    await place.start_held(AT_ONCE)
    for _ in range(2):
        place.hold.touch()
        old = place.shard()
        await ledger.upsert(some_points(1000))  # enough for another build, however little was written meanwhile
        await place.until(place.builder)
        churning = asyncio.create_task(ledger.churn())
        place.hold.unlink()
        await place.until(lambda old=old: place.shard() != old)
        churning.cancel()
        await asyncio.gather(churning, return_exceptions=True)
        await ledger.check()
    await place.start(NEVER)
    await ledger.check()


async def test_calls_are_answered_while_a_build_runs(place: Place, ledger: Ledger) -> None:
    """With the builder stopped in the middle every kind of call is answered, and the build ends when it goes on."""
    await place.start_held(AT_ONCE)
    old = place.shard()
    await place.until(place.builder)
    builder = place.builder()
    assert builder is not None
    builder.suspend()
    place.hold.unlink()
    fresh = some_points(1000)
    await ledger.upsert(fresh)
    await ledger.delete([point.id for point in fresh[:500]])
    await ledger.check()
    assert await place.store.count_source(COLLECTION, fresh[700].source_id) == 1
    assert builder.is_running()
    assert place.shard() == old
    builder.resume()
    await place.optimised(old)
    await ledger.check()


@pytest.mark.parametrize("stage", STAGES)
async def test_death_at_any_stage_leaves_one_whole_shard(place: Place, ledger: Ledger, stage: str) -> None:
    """Killed at a stage of the build, the next start has all that was answered, fences too, and nothing else."""
    fenced = uuid.uuid4()
    await place.store.fence(fenced, 2)
    await place.process.stop()
    await place.start(AT_ONCE, "tests.integration.vectors_killed", stage)
    process = place.process.process
    assert process is not None
    with pytest.raises(VectorStoreUnavailable):
        async with asyncio.timeout(WAIT_S):
            await ledger.churn()
    _, errors = await asyncio.to_thread(process.communicate)
    assert process.returncode == (3 if stage == "unsynced" else -signal.SIGKILL), errors.decode()
    place.process.process = None
    await place.start(NEVER)
    await ledger.check()
    assert place.content() == {"collection.json", "journal", place.shard()}
    with pytest.raises(Fenced):
        await place.store.upsert(COLLECTION, some_points(1, fenced), epochs={fenced: 1})


async def test_kill_9_at_any_time_loses_nothing(place: Place, ledger: Ledger) -> None:
    """Killed again and again amid writes and builds, it has all that was answered."""
    for _ in range(3):
        await place.start(WHEN_BUSY)
        churning = asyncio.create_task(ledger.churn())
        await asyncio.sleep(random.uniform(0.2, 2.0))
        await place.process.stop(signal.SIGKILL)
        with pytest.raises(VectorStoreUnavailable):
            await churning
        await place.start(NEVER)
        await ledger.check()
        assert place.content() == {"collection.json", "journal", place.shard()}


async def test_a_dead_builder_harms_nothing(place: Place, ledger: Ledger) -> None:
    """A builder that is killed leaves the collection as it is, and no folder."""
    await place.start_held(AT_ONCE)
    old = place.shard()
    await place.until(lambda: len(place.content()) > 3)
    builder = place.builder()
    assert builder is not None
    builder.kill()
    place.hold.unlink()
    await place.until(lambda: len(place.content()) == 3)
    assert place.shard() == old
    await ledger.check()


async def test_sigterm_ends_a_build(place: Place, ledger: Ledger) -> None:
    """A process that is asked to end in the middle of a build ends with 0, its builder with it."""
    await place.start_held(AT_ONCE)
    await place.until(lambda: len(place.content()) > 3)
    builder = place.builder()
    assert builder is not None
    assert await place.process.stop() == 0
    assert not builder.is_running()
    assert place.content() == {"collection.json", "journal", place.shard()}
    await place.start(NEVER)
    await ledger.check()


async def test_a_left_builder_is_ended(tmp_path: Path) -> None:
    """A builder that outlived its vector process is ended by the next owner of the folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    lock_of(folder).touch()
    arguments = ["--folder", str(folder / "copy"), "--lock", str(lock_of(folder)), "--dimensions", "8"]
    command = [sys.executable, "-m", "ke.storage.vectors.edge_builder", *arguments, "--parent", str(os.getpid())]
    builder = await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.PIPE)
    try:
        async with asyncio.timeout(WAIT_S):
            while not (folder / "copy" / "edge_config.json").exists():  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)
        await asyncio.to_thread(end_left_builder, folder)
        assert builder.wait(10) == -signal.SIGKILL
    finally:
        builder.kill()
        builder.communicate()


async def test_a_builder_without_its_parent_does_nothing(tmp_path: Path) -> None:
    """A builder whose vector process died before it came to itself makes no folder."""
    (tmp_path / "build.lock").touch()
    arguments = ["--folder", str(tmp_path / "copy"), "--lock", str(tmp_path / "build.lock"), "--dimensions", "8"]
    command = [sys.executable, "-m", "ke.storage.vectors.edge_builder", *arguments, "--parent", "1"]
    done = await asyncio.to_thread(subprocess.run, command, stdin=subprocess.DEVNULL, timeout=60, check=False)
    assert done.returncode == 1
    assert not (tmp_path / "copy").exists()


async def test_space_of_deleted_points_is_given_back(place: Place) -> None:
    """After a large deletion the rows that nobody can see are gone from the disk."""
    await place.start(("--optimise-rows", "3000", "--optimise-quiet-s", "0.02"))
    await place.store.ensure_collection(COLLECTION, 1024)
    points = some_points(2500, dimensions=1024)
    for first in range(0, len(points), 100):
        await place.store.upsert(COLLECTION, points[first : first + 100], epochs=EPOCHS)
    old, full_bytes = place.shard(), vector_bytes(place.collection)
    await place.store.delete(COLLECTION, [point.id for point in points[:900]])
    await place.store.delete(COLLECTION, [point.id for point in points[900:1800]])
    await place.optimised(old)
    count = rows(place.collection / place.shard())
    assert count.growing + count.settled == 700
    assert vector_bytes(place.collection) < full_bytes / 2
    assert await place.store.scroll_all(COLLECTION, limit=1000) == sorted(point.id for point in points[1800:])


def vector_bytes(folder: Path) -> int:
    """Blocks of a collection's vectors; other files are made large from the start."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("shard*/segments/*/vector_storage/**/*"))


async def test_an_emptied_collection_is_empty(place: Place, ledger: Ledger) -> None:
    """A collection without a point left is optimised too, and takes points again."""
    ids = sorted(ledger.there)
    for first in range(0, len(ids), 1000):
        await ledger.delete(ids[first : first + 1000])
    old = place.shard()
    await place.start(AT_ONCE)
    await place.optimised(old)
    assert await place.store.scroll_all(COLLECTION, limit=10) == []
    await ledger.upsert(some_points(100))
    await ledger.check()


async def test_graph_finds_what_is_nearest(place: Place) -> None:
    """Through a graph, with a filter or without, 98 % of the ten nearest of clustered vectors are found."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(60, DIMENSIONS))
    raw = centres[rng.integers(0, 60, 6000)] + 0.4 * rng.normal(size=(6000, DIMENSIONS))
    vectors = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    jobs = [uuid.uuid4() for _ in range(3)]
    points = [
        Point(uuid.uuid4(), vector, jobs[row % 3], JOB, uuid.uuid4()) for row, vector in enumerate(vectors.tolist())
    ]
    await place.start(NEVER)
    await place.store.ensure_collection(COLLECTION, DIMENSIONS)
    for first in range(0, 6000, 1000):
        batch = points[first : first + 1000]
        await place.store.upsert(COLLECTION, batch, epochs=EPOCHS | dict.fromkeys(jobs, 1))
    old = place.shard()
    await place.start(AT_ONCE)
    await place.optimised(old)
    assert rows(place.collection / place.shard()).settled == 6000
    for wanted in (None, jobs[:1], jobs[:2]):
        found = 0
        among = [row for row in range(6000) if wanted is None or points[row].job_id in wanted]
        for query in raw[rng.integers(0, 6000, 100)] + 0.2 * rng.normal(size=(100, DIMENSIONS)):
            nearest = {points[among[i]].id for i in np.argsort(-(vectors[among] @ query))[:10]}
            hits = await place.store.search(COLLECTION, query.tolist(), limit=10, job_ids=wanted)
            found += len(nearest & {hit.id for hit in hits})
        assert found >= 980, wanted


async def test_a_folder_from_before_is_opened(place: Place, ledger: Ledger) -> None:
    """A collection whose file names no shard has the one that all had once, and is optimised like others."""
    await place.process.stop()
    (place.collection / "collection.json").write_bytes(orjson.dumps({"dimensions": DIMENSIONS}))
    await place.start(NEVER)
    await ledger.check()
    await place.start(AT_ONCE)
    await place.until(lambda: place.content() & {"shard"} == set())
    await ledger.check()


def test_only_points_behind_the_reader_are_noted() -> None:
    """A write ahead of the reader will be read; one behind it is noted, and so is each when all was read."""
    low, passed, high = (uuid.UUID(int=number) for number in (1, 5, 9))
    copying = Copying()
    copying.note([low])
    assert not copying.noted
    copying.passed = passed
    copying.note([low, passed, high])
    assert copying.noted == {low, passed}
    copying.whole = True
    copying.note([high])
    assert sorted(copying.take(2) + copying.take(2)) == [low, passed, high]


def test_growth_makes_a_collection_due(engine: EdgeEngine) -> None:
    """It is due with enough rows under no graph, when it is quiet; looked at once, not again before a write."""
    tuning = Tuning(growing_rows=500, quiet_s=0.0)
    fill(engine, 499)
    assert due(engine, tuning) is None
    assert not engine.collection(COLLECTION).changed
    fill(engine, 1)
    assert due(engine, Tuning(growing_rows=500, quiet_s=3600.0)) is None
    assert due(engine, tuning) == COLLECTION
    assert due(engine, Tuning(growing_rows=500, quiet_s=3600.0, urgent_rows=500)) == COLLECTION
    engine.close()


def test_a_write_is_looked_at_when_it_is_flushed(engine: EdgeEngine) -> None:
    """Asked between a write and its flush, a collection is not done with; when it is quiet, the asking flushes it."""
    owners = [Owner(uuid.uuid4(), JOB, JOB, uuid.uuid4())]
    engine.upsert(COLLECTION, owners, as_matrix([[1.0] * DIMENSIONS]), EPOCHS)
    engine.sync(COLLECTION)
    assert due(engine, Tuning(growing_rows=1, quiet_s=3600.0)) is None
    assert engine.collection(COLLECTION).dirty
    assert due(engine, Tuning(growing_rows=1, quiet_s=0.0)) == COLLECTION
    assert not engine.collection(COLLECTION).dirty
    engine.close()


def test_a_collection_that_cannot_be_flushed_keeps_no_other_waiting(
    engine: EdgeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are tried again when it has been quiet as long again; one after it is due meanwhile."""
    other = "test-17"
    engine.ensure_collection(other, DIMENSIONS)
    for name in (COLLECTION, other):
        owners = [Owner(uuid.uuid4(), JOB, JOB, uuid.uuid4())]
        engine.upsert(name, owners, as_matrix([[1.0] * DIMENSIONS]), EPOCHS)
    flush = engine.flush

    def failing(name: str) -> None:
        if name == COLLECTION:
            raise OSError("no space left on device")
        flush(name)

    with monkeypatch.context() as broken:
        broken.setattr(engine, "flush", failing)
        assert due(engine, Tuning(growing_rows=1, quiet_s=0.0)) == other
        assert engine.collection(COLLECTION).dirty
    engine.close()


def test_deletion_makes_a_collection_due(engine: EdgeEngine) -> None:
    """It is due when enough rows, and a large enough part of all, are of deleted points."""
    tuning = Tuning(removed_rows=100, removed_share=0.5, quiet_s=0.0)
    ids = fill(engine, 400)
    engine.delete(COLLECTION, ids[:199])
    engine.flush(COLLECTION)
    assert due(engine, tuning) is None
    engine.delete(COLLECTION, ids[199:200])
    engine.flush(COLLECTION)
    assert due(engine, tuning) == COLLECTION
    engine.close()


def test_no_copy_is_begun_on_a_full_disk(engine: EdgeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little room for a copy none is begun, and the message says how much is needed."""
    usage = type("usage", (), {"free": 10 * 2**20})
    monkeypatch.setattr(edge_optimise.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(NoCopy, match=r"10 MB are free in .*, 512 MB are needed"):
        edge_optimise.begin(engine.collection(COLLECTION))
    assert engine.collection(COLLECTION).copying is None
    engine.close()
