"""The embedded vector store as a process: fences, crashes, restarts, its folder and its socket."""

import asyncio
import os
import random
import signal
import socket
import stat
import subprocess
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from ke.contracts.errors import Fenced, InvalidInput, VectorStoreUnavailable
from ke.storage.vectors.base import Point
from ke.storage.vectors.edge import CALLS, EdgeVectors
from ke.storage.vectors.edge_engine import EdgeEngine, FolderInUse
from ke.storage.vectors.edge_searches import CONNECTIONS
from tests.integration.vectors_held import reached
from tests.integration.vectors_process import VectorsProcess

DIMENSIONS = 16
COLLECTION = "test-16"


@pytest.fixture(params=[(), ("--optimise-rows", "1", "--optimise-quiet-s", "0.01")], ids=["plain", "optimising"])
async def process(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[VectorsProcess]:
    """One that never optimises so few points, and one that does so all the time."""
    made = VectorsProcess(tmp_path / "data", tmp_path / "s", request.param)
    await made.start()
    yield made
    await made.stop(signal.SIGKILL)


@pytest.fixture
async def store(process: VectorsProcess) -> AsyncIterator[EdgeVectors]:
    made = EdgeVectors(process.socket, timeout_s=60)
    await made.ensure_collection(COLLECTION, DIMENSIONS)
    yield made
    await made.close()


@pytest.fixture(scope="module")
async def lasting(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VectorsProcess]:
    """A process for the tests that leave it alive."""
    folder = tmp_path_factory.mktemp("lasting")
    made = VectorsProcess(folder / "data", folder / "s")
    await made.start()
    yield made
    assert await made.stop() == 0


@pytest.fixture
async def lasting_store(lasting: VectorsProcess) -> AsyncIterator[EdgeVectors]:
    made = EdgeVectors(lasting.socket, timeout_s=60)
    await made.ensure_collection(COLLECTION, DIMENSIONS)
    yield made
    await made.close()


def some_points(job: uuid.UUID, count: int, *, owner: uuid.UUID | None = None) -> list[Point]:
    return [
        Point(uuid.uuid4(), [random.uniform(-1, 1) for _ in range(DIMENSIONS)], job, owner or job, uuid.uuid4())
        for _ in range(count)
    ]


async def finish(process: "subprocess.Popen[bytes]") -> tuple[int, str]:
    """Waits for a process that should end by itself; its status and what it wrote to stderr."""
    _, errors = await asyncio.to_thread(process.communicate, timeout=30)
    return process.returncode, errors.decode()


async def test_fence_refuses_older_epochs(lasting_store: EdgeVectors) -> None:
    """After a fence, an older epoch of the maker or of the owner writes nothing; the fence's own epoch writes."""
    job, owner, other = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    points = some_points(job, 5, owner=owner)
    assert await lasting_store.fence(job, 3)
    with pytest.raises(Fenced, match="epoch 3; epoch 2"):
        await lasting_store.upsert(COLLECTION, points, epochs={job: 2, owner: 9})
    await lasting_store.fence(owner, 5)
    with pytest.raises(Fenced):
        await lasting_store.upsert(COLLECTION, points, epochs={job: 3, owner: 4})
    assert await lasting_store.count_job(COLLECTION, job) == 0
    await lasting_store.upsert(COLLECTION, points, epochs={job: 3, owner: 5})
    await lasting_store.upsert(COLLECTION, some_points(other, 1), epochs={other: 1})
    assert await lasting_store.count_job(COLLECTION, job) == 5


async def test_fence_is_never_lowered(lasting_store: EdgeVectors) -> None:
    """A late, lower fence changes nothing."""
    job = uuid.uuid4()
    await lasting_store.fence(job, 5)
    await lasting_store.fence(job, 2)
    with pytest.raises(Fenced):
        await lasting_store.upsert(COLLECTION, some_points(job, 1), epochs={job: 4})


async def test_fences_and_points_survive_kill_9(process: VectorsProcess, store: EdgeVectors) -> None:
    """What a call has answered for is there after `kill -9`: points, deletes and fences; the same client goes on."""
    job, fenced = uuid.uuid4(), uuid.uuid4()
    points = some_points(job, 300)
    await store.upsert(COLLECTION, points, epochs={job: 1})
    await store.delete(COLLECTION, [point.id for point in points[:100]])
    await store.fence(fenced, 2)
    await process.stop(signal.SIGKILL)
    await process.start()
    assert await store.collections() == [COLLECTION]
    assert await store.count_job(COLLECTION, job) == 200
    hits = await store.search(COLLECTION, points[150].vector, limit=1)
    assert hits[0].id == points[150].id
    with pytest.raises(Fenced):
        await store.upsert(COLLECTION, some_points(fenced, 1), epochs={fenced: 1})


async def test_kill_9_while_writing_loses_nothing_answered(process: VectorsProcess, store: EdgeVectors) -> None:
    """Killed again and again amid writes, deletes and new collections, it always opens, with all that was answered."""
    job = uuid.uuid4()
    kept: set[uuid.UUID] = set()

    async def write(number: int) -> None:
        while True:
            points = some_points(job, 50)
            await store.upsert(COLLECTION, points, epochs={job: 1})
            kept.update(point.id for point in points)
            await store.ensure_collection(f"more-{number}-{len(kept)}", DIMENSIONS)

    for _ in range(6):
        writers = [asyncio.create_task(write(number)) for number in range(4)]
        await asyncio.sleep(random.uniform(0.05, 0.5))
        await process.stop(signal.SIGKILL)
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(result, VectorStoreUnavailable) for result in results), results
        await process.start()
        ids = list(kept)
        counts = [await store.count_ids(COLLECTION, ids[first : first + 1000]) for first in range(0, len(ids), 1000)]
        assert sum(counts) == len(ids)
    assert not list((process.folder / "collections").glob(".new-*"))


async def test_left_over_drafts_are_removed(process: VectorsProcess, store: EdgeVectors) -> None:
    """A collection that was half made when the process died is gone, and can be made again."""
    await process.stop(signal.SIGKILL)
    draft = process.folder / "collections" / ".new-torn"
    draft.mkdir()
    (draft / "collection.json").write_text("{")
    await process.start()
    assert not draft.exists()
    assert await store.collections() == [COLLECTION]


async def test_dead_process_is_unavailable_at_once(process: VectorsProcess, store: EdgeVectors) -> None:
    """With the process dead a call fails at once, and works when it is back, through the same client."""
    await process.stop(signal.SIGKILL)
    patient = EdgeVectors(process.socket, timeout_s=600)
    async with asyncio.timeout(60):
        with pytest.raises(VectorStoreUnavailable):
            await patient.count_job(COLLECTION, uuid.uuid4())
    await patient.close()
    assert not await store.healthy()
    await process.start()
    assert await store.count_job(COLLECTION, uuid.uuid4()) == 0


async def test_stuck_process_meets_the_deadline(process: VectorsProcess) -> None:
    """A process that is stopped does not hang its callers: the deadline ends the call, and health is false."""
    store = EdgeVectors(process.socket, timeout_s=0.3)
    os.kill(process.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(VectorStoreUnavailable):
            await store.collections()
        assert not await store.healthy()
    finally:
        os.kill(process.process.pid, signal.SIGCONT)
    await store.close()


async def test_sigterm_flushes_and_leaves_no_socket(process: VectorsProcess, store: EdgeVectors) -> None:
    """SIGTERM in the middle of many calls ends them properly: each is done or refused, exit 0, all answered is kept."""
    job = uuid.uuid4()
    batches: list[Sequence[Point]] = [some_points(job, 200) for _ in range(30)]
    calls = [asyncio.create_task(store.upsert(COLLECTION, batch, epochs={job: 1})) for batch in batches]
    await asyncio.sleep(0.02)
    assert await process.stop(signal.SIGTERM) == 0
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert not process.socket.exists()
    await process.start()
    answered = [point.id for batch, result in zip(batches, done, strict=True) if result is None for point in batch]
    for first in range(0, len(answered), 1000):
        ids = answered[first : first + 1000]
        assert await store.count_ids(COLLECTION, ids) == len(ids)


async def test_second_process_on_a_folder_is_refused(lasting: VectorsProcess, tmp_path: Path) -> None:
    """The folder has one owner: another process says so and exits with 2, and the first goes on."""
    second = VectorsProcess(lasting.folder, tmp_path / "other")
    status, errors = await finish(second.spawn())
    assert status == 2
    assert "in use" in errors
    assert "Traceback" not in errors
    with pytest.raises(FolderInUse):
        EdgeEngine.open(lasting.folder)
    client = EdgeVectors(lasting.socket, timeout_s=60)
    await client.collections()
    await client.close()


async def test_socket_of_a_living_process_is_not_taken(lasting: VectorsProcess, tmp_path: Path) -> None:
    """Another folder's process does not take over a socket that is served."""
    status, errors = await finish(VectorsProcess(tmp_path / "other", lasting.socket).spawn())
    assert status == 2
    assert "served by another process" in errors


async def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket file that nobody serves is in nobody's way."""
    left = VectorsProcess(tmp_path / "data", tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(left.socket))
    await left.start()
    assert stat.S_IMODE(left.socket.stat().st_mode) & 0o077 == 0
    assert await left.stop() == 0


@pytest.mark.parametrize(
    ("folder", "path", "message"),
    [("data", "x" * 120, "longer than"), ("file/data", "s", "Not a directory"), ("data", "file", "no socket")],
)
async def test_impossible_start_is_explained(tmp_path: Path, folder: str, path: str, message: str) -> None:
    """A start that cannot be is one line on stderr and status 2."""
    (tmp_path / "file").touch()
    status, errors = await finish(VectorsProcess(tmp_path / folder, tmp_path / path).spawn())
    assert status == 2
    assert message in errors
    assert errors.startswith("vectors: cannot start: ")


async def test_empty_log_file_is_no_obstacle(process: VectorsProcess, store: EdgeVectors) -> None:
    """Killed between creating a log file and filling it, the process starts again with all its points."""
    job = uuid.uuid4()
    await store.upsert(COLLECTION, some_points(job, 10), epochs={job: 1})
    await process.stop(signal.SIGKILL)
    folder = process.folder / "collections" / COLLECTION
    shard = orjson.loads((folder / "collection.json").read_bytes())["shard"]
    (folder / shard / "wal" / "open-9").touch()
    await process.start()
    assert await store.count_job(COLLECTION, job) == 10


@pytest.mark.parametrize("name", ["collection.json", "status.dat", "segment.json"])
async def test_damaged_collection_is_named(process: VectorsProcess, store: EdgeVectors, name: str) -> None:
    """A collection with a destroyed file, even one the engine panics about, stops the start by name; all is kept."""
    await process.stop(signal.SIGKILL)
    damaged = next((process.folder / "collections" / COLLECTION).rglob(name))
    damaged.write_bytes(b"")
    status, errors = await finish(process.spawn())
    assert status == 2
    assert f"{COLLECTION} cannot be opened" in errors
    assert damaged.exists()


async def test_health_answers_amid_writes(tmp_path: Path) -> None:
    """Health does not wait in the engine's queue: it is answered while a batch is written and others wait."""
    hold = tmp_path / "hold"
    module = ("tests.integration.vectors_held", "upsert", str(hold))
    process = VectorsProcess(tmp_path / "data", tmp_path / "s", module=module)
    await process.start()
    store = EdgeVectors(process.socket, timeout_s=60)
    await store.ensure_collection(COLLECTION, DIMENSIONS)
    job = uuid.uuid4()
    batch = some_points(job, 1000)
    hold.touch()
    writes = [asyncio.create_task(store.upsert(COLLECTION, batch, epochs={job: 1})) for _ in range(20)]
    async with asyncio.timeout(60):
        while not reached(hold).exists():  # noqa: ASYNC110  another process's file
            await asyncio.sleep(0.01)
    answer = await store._call("GET", "/healthz", timeout_s=60)
    assert answer["status"] == "ok"
    assert not any(write.done() for write in writes)
    hold.unlink()
    await asyncio.gather(*writes)
    assert await store.count_job(COLLECTION, job) == 1000
    await store.close()
    assert await process.stop() == 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", f"/collections/{COLLECTION}/upsert", b"{", 422),
        ("POST", f"/collections/{COLLECTION}/upsert", b"[]", 422),
        ("POST", f"/collections/{COLLECTION}/upsert", b"{}", 422),
        ("POST", f"/collections/{COLLECTION}/count", b'{"ids": ["x"]}', 422),
        ("POST", "/collections/nowhere/count", b'{"ids": ["00000000-0000-0000-0000-000000000000"]}', 404),
        ("PUT", "/fences/x", b'{"epoch": 1}', 422),
        ("PUT", f"/fences/{uuid.UUID(int=1)}", b'{"epoch": 99999999999999999999}', 422),
        ("GET", "/nothing", b"", 404),
        ("POST", "/healthz", b"", 405),
    ],
)
async def test_malformed_calls_are_problems(
    lasting: VectorsProcess, lasting_store: EdgeVectors, method: str, path: str, body: bytes, status: int
) -> None:
    """Whatever is sent, the answer is a problem that says what is wrong, and the process goes on."""
    connector = aiohttp.UnixConnector(path=str(lasting.socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.request(method, f"http://vectors{path}", data=body) as response,
    ):
        content = await response.json(content_type="application/problem+json")
        assert response.status == status
        assert content["code"]
        assert content["detail"]
    assert COLLECTION in await lasting_store.collections()


@pytest.mark.parametrize(
    ("content", "vector", "status"),
    [
        ({"collection": COLLECTION, "limit": 1}, b"odd", 422),
        ({"collection": COLLECTION, "limit": 1}, b"", 422),
        ({"collection": COLLECTION}, bytes(64), 422),
        ({"collection": COLLECTION, "limit": "many"}, bytes(64), 422),
        ({"collection": COLLECTION, "limit": 1, "job_ids": ["x"]}, bytes(64), 422),
        ({"collection": "nowhere", "limit": 1}, bytes(64), 404),
    ],
)
async def test_malformed_searches_are_problems(
    lasting_store: EdgeVectors, content: dict[str, Any], vector: bytes, status: int
) -> None:
    """A search that cannot be answered is told why, and its connection serves the next one."""
    for _ in range(2):
        answer = await lasting_store._searches.ask(lasting_store._open_session(), content, vector)
        assert (answer[0], set(answer[1])) == (status, {"code", "detail"})


async def test_many_searches_at_once_leave_room_for_other_calls(process: VectorsProcess) -> None:
    """They wait for each other; their connections stay open and are in nobody's way, also when the store was gone."""
    store = EdgeVectors(process.socket, timeout_s=10)
    await store.ensure_collection(COLLECTION, DIMENSIONS)
    job = uuid.uuid4()
    points = some_points(job, 3)
    await store.upsert(COLLECTION, points, epochs={job: 1})
    for _ in range(2):
        searches = (store.search(COLLECTION, points[0].vector, limit=1) for _ in range(3 * CONNECTIONS))
        assert {hits[0].id for hits in await asyncio.gather(*searches)} == {points[0].id}
        assert await asyncio.gather(*(store.collections() for _ in range(2 * CALLS))) == [[COLLECTION]] * 2 * CALLS
        await process.stop(signal.SIGKILL)
        await process.start()
    await store.close()


async def test_search_that_is_given_up_leaves_no_answer_behind(lasting_store: EdgeVectors) -> None:
    """A search that was cancelled is not answered to the next one on its connection."""
    job = uuid.uuid4()
    points = some_points(job, 20)
    await lasting_store.upsert(COLLECTION, points, epochs={job: 1})
    for point in points:
        task = asyncio.create_task(lasting_store.search(COLLECTION, points[0].vector, limit=5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        [hit] = await lasting_store.search(COLLECTION, point.vector, limit=1, ids=[point.id])
        assert hit.id == point.id
    await lasting_store.delete(COLLECTION, [point.id for point in points])


async def test_hanging_up_does_not_undo_a_write(lasting: VectorsProcess, lasting_store: EdgeVectors) -> None:
    """A caller that goes away while its batch is written leaves a whole batch or none, and a process that goes on."""
    job = uuid.uuid4()
    call = asyncio.create_task(lasting_store.upsert(COLLECTION, some_points(job, 1000), epochs={job: 1}))
    await asyncio.sleep(0.03)
    call.cancel()
    # It may have been answered by then.
    (answer,) = await asyncio.gather(call, return_exceptions=True)
    await lasting_store.upsert(COLLECTION, some_points(job, 1), epochs={job: 1})
    assert isinstance(answer, asyncio.CancelledError | None)
    assert await lasting_store.count_job(COLLECTION, job) in ({1001} if answer is None else {1, 1001})


async def test_vectors_of_one_call_must_agree(lasting_store: EdgeVectors) -> None:
    """Vectors of different lengths in one call are refused before anything is sent."""
    job = uuid.uuid4()
    short = Point(uuid.uuid4(), [1.0], job, job, uuid.uuid4())
    with pytest.raises(InvalidInput, match="one length"):
        await lasting_store.upsert(COLLECTION, [*some_points(job, 1), short], epochs={job: 1})
