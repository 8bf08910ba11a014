"""The contract of `ke.storage.vectors.base.VectorStore`, held by both adapters."""

import asyncio
import dataclasses
import math
import random
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from ke.contracts.errors import InvalidInput, NotFound, VectorStoreUnavailable
from ke.storage.vectors.base import MAX_BATCH, MAX_SEARCH_IDS, Point, VectorStore
from ke.storage.vectors.edge import EdgeVectors
from ke.storage.vectors.server import ServerVectors
from tests.integration.vectors_process import VectorsProcess

# qdrant-client's local mode has no payload indexes, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")

DIMENSIONS = 8


@pytest.fixture(scope="module")
async def edge_process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VectorsProcess]:
    folder = tmp_path_factory.mktemp("edge")
    process = VectorsProcess(folder / "data", folder / "s")
    await process.start()
    yield process
    await process.stop()


@pytest.fixture(scope="module")
async def optimising_process(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VectorsProcess]:
    folder = tmp_path_factory.mktemp("optimising")
    options = ("--optimise-rows", "1", "--optimise-quiet-s", "0.02", "--full-scan-kb", "1")
    process = VectorsProcess(folder / "data", folder / "s", options)
    await process.start()
    yield process
    await process.stop()


class Optimised(EdgeVectors):
    """Goes on after an upsert when another, optimised shard has the place of the one that was written to."""

    def __init__(self, process: VectorsProcess) -> None:
        super().__init__(process.socket, timeout_s=60)
        self._folder = process.folder

    async def upsert(self, collection: str, points: Sequence[Point], *, epochs: Mapping[uuid.UUID, int]) -> None:
        manifest = self._folder / "collections" / collection / "collection.json"
        before = manifest.read_bytes() if manifest.exists() else b""
        await super().upsert(collection, points, epochs=epochs)
        async with asyncio.timeout(240):
            while points and manifest.read_bytes() == before:  # noqa: ASYNC110 - another process's file
                await asyncio.sleep(0.01)


@pytest.fixture(params=["edge", "optimised", "server"])
async def store(
    request: pytest.FixtureRequest, edge_process: VectorsProcess, optimising_process: VectorsProcess
) -> AsyncIterator[VectorStore]:
    found: VectorStore
    if request.param == "edge":
        found = EdgeVectors(edge_process.socket, timeout_s=60)
    elif request.param == "optimised":
        found = Optimised(optimising_process)
    else:
        found = ServerVectors(AsyncQdrantClient(":memory:"))
    yield found
    await found.close()


@pytest.fixture
async def collection(store: VectorStore) -> str:
    """A new collection, as the edge process outlives the test."""
    name = f"test-{uuid.uuid4().hex}"
    await store.ensure_collection(name, DIMENSIONS)
    return name


def a_point(job: uuid.UUID, *, owner: uuid.UUID | None = None, vector: list[float] | None = None) -> Point:
    return Point(
        id=uuid.uuid4(),
        vector=vector or [random.uniform(-1, 1) for _ in range(DIMENSIONS)],
        job_id=job,
        owner_job_id=owner or job,
        source_id=uuid.uuid4(),
    )


async def test_ensure_collection_can_be_repeated(store: VectorStore, collection: str) -> None:
    """A collection is made once; asking again, with its points in it, changes nothing."""
    job = uuid.uuid4()
    await store.upsert(collection, [a_point(job)], epochs={job: 1})
    await store.ensure_collection(collection, DIMENSIONS)
    assert collection in await store.collections()
    assert await store.count_job(collection, job) == 1


async def test_other_dimensions_are_refused(store: VectorStore, collection: str) -> None:
    """A collection keeps its dimensions; asking for others is an error, and so are impossible ones."""
    with pytest.raises(InvalidInput, match="8 dimensions, not 9"):
        await store.ensure_collection(collection, DIMENSIONS + 1)
    with pytest.raises(InvalidInput):
        await store.ensure_collection("zero", 0)


@pytest.mark.parametrize("name", ["", "../up", "UPPER", "a/b", "ü", ".new-x", "a" * 101, "a\x00"])
async def test_bad_names_are_refused(store: VectorStore, name: str) -> None:
    """A name that could leave the folder, or is no name, is refused by every call."""
    with pytest.raises(InvalidInput, match="no name for a collection"):
        await store.ensure_collection(name, DIMENSIONS)
    with pytest.raises(InvalidInput):
        await store.count_job(name, uuid.uuid4())


async def test_missing_collection_is_named(store: VectorStore) -> None:
    """Every use of a collection that is not there says so."""
    job = uuid.uuid4()
    with pytest.raises(NotFound, match="nowhere"):
        await store.upsert("nowhere", [a_point(job)], epochs={job: 1})
    with pytest.raises(NotFound, match="nowhere"):
        await store.count_job("nowhere", job)
    with pytest.raises(NotFound, match="nowhere"):
        await store.delete("nowhere", [uuid.uuid4()])
    with pytest.raises(NotFound, match="nowhere"):
        await store.search("nowhere", [1.0] * DIMENSIONS, limit=1)


async def test_upsert_replaces(store: VectorStore, collection: str) -> None:
    """A point with the same id takes the place of the old one, vector and belongings."""
    first, second = uuid.uuid4(), uuid.uuid4()
    old = a_point(first, vector=[1.0] + [0.0] * 7)
    new = Point(old.id, [0.0] * 7 + [1.0], second, second, old.source_id)
    await store.upsert(collection, [old], epochs={first: 1})
    await store.upsert(collection, [new], epochs={second: 1})
    assert await store.count_job(collection, first) == 0
    assert await store.count_job(collection, second) == 1
    hits = await store.search(collection, [0.0] * 7 + [1.0], limit=5)
    assert [(hit.id, round(hit.score, 4)) for hit in hits] == [(old.id, 1.0)]


@pytest.mark.parametrize(
    "vector", [[0.5] * 7, [0.5] * 9, [math.nan] + [0.5] * 7, [math.inf] + [0.5] * 7, [1e300] + [0.5] * 7, []]
)
async def test_bad_vector_leaves_nothing(store: VectorStore, collection: str, vector: list[float]) -> None:
    """One bad vector in the middle of a batch: the batch is refused and none of it written."""
    job = uuid.uuid4()
    batch = [a_point(job) for _ in range(20)]
    bad = Point(uuid.uuid4(), vector, job, job, uuid.uuid4())
    with pytest.raises(InvalidInput):
        await store.upsert(collection, [*batch[:10], bad, *batch[10:]], epochs={job: 1})
    assert await store.count_job(collection, job) == 0
    with pytest.raises(InvalidInput):
        await store.search(collection, vector, limit=1)


async def test_all_vectors_too_short_are_refused(store: VectorStore, collection: str) -> None:
    """A batch that agrees in itself but not with the collection is refused too."""
    job = uuid.uuid4()
    with pytest.raises(InvalidInput, match="7 dimensions, the collection 8"):
        await store.upsert(collection, [a_point(job, vector=[0.5] * 7)], epochs={job: 1})


async def test_batches_are_bounded(store: VectorStore, collection: str) -> None:
    """1,000 points are taken; one more is refused, in every call that takes a batch."""
    job = uuid.uuid4()
    points = [a_point(job) for _ in range(MAX_BATCH + 1)]
    ids = [point.id for point in points]
    with pytest.raises(InvalidInput, match="at most 1000"):
        await store.upsert(collection, points, epochs={job: 1})
    with pytest.raises(InvalidInput, match="at most 1000"):
        await store.delete(collection, ids)
    with pytest.raises(InvalidInput, match="at most 1000"):
        await store.count_ids(collection, ids)
    await store.upsert(collection, points[:MAX_BATCH], epochs={job: 1})
    assert await store.count_ids(collection, ids[1:]) == MAX_BATCH - 1
    await store.delete(collection, ids[:MAX_BATCH])
    assert await store.count_job(collection, job) == 0


async def test_empty_batches_do_nothing(store: VectorStore, collection: str) -> None:
    """No points, no ids: no error, nothing counted."""
    await store.upsert(collection, [], epochs={})
    await store.delete(collection, [])
    assert await store.count_ids(collection, []) == 0


async def test_epoch_of_every_job_is_needed(store: VectorStore, collection: str) -> None:
    """A point whose maker or owner has no epoch is refused."""
    job, owner = uuid.uuid4(), uuid.uuid4()
    with pytest.raises(InvalidInput, match="no epoch"):
        await store.upsert(collection, [a_point(job, owner=owner)], epochs={job: 1})
    assert await store.count_job(collection, job) == 0


async def test_deleting_absent_points_is_no_error(store: VectorStore, collection: str) -> None:
    """Absent ids among present ones are passed over, and a repeated delete is fine."""
    job = uuid.uuid4()
    point = a_point(job)
    await store.upsert(collection, [point], epochs={job: 1})
    for _ in range(2):
        await store.delete(collection, [uuid.uuid4(), point.id, uuid.uuid4()])
        assert await store.count_ids(collection, [point.id]) == 0


async def test_counts_are_exact(store: VectorStore, collection: str) -> None:
    """A job's points are those it made and those made from its sources, each counted once."""
    maker, owner, other = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
    epochs = {maker: 1, owner: 1, other: 1}
    own = [a_point(maker) for _ in range(30)]
    foreign = [a_point(maker, owner=owner) for _ in range(20)]
    await store.upsert(collection, [*own, *foreign, *(a_point(other) for _ in range(7))], epochs=epochs)
    assert await store.count_job(collection, maker) == 50
    assert await store.count_job(collection, owner) == 20
    assert await store.count_job(collection, other) == 7
    assert await store.count_job(collection, uuid.uuid4()) == 0
    ids = [point.id for point in own]
    assert await store.count_ids(collection, [*ids, ids[0], uuid.uuid4()]) == 30


async def test_search_filters_and_orders(store: VectorStore, collection: str) -> None:
    """Hits come best first with their cosine; only makers count for the filter, and no jobs means no hits."""
    first, second = uuid.uuid4(), uuid.uuid4()
    vectors = [[math.cos(angle), math.sin(angle)] + [0.0] * 6 for angle in (0.0, 0.3, 0.6, 0.9)]
    points = [a_point(job, vector=vector) for job, vector in zip((first, second, first, second), vectors, strict=True)]
    await store.upsert(collection, points, epochs={first: 1, second: 1})
    hits = await store.search(collection, vectors[0], limit=3)
    assert [hit.id for hit in hits] == [point.id for point in points[:3]]
    assert [round(hit.score, 4) for hit in hits] == [round(math.cos(angle), 4) for angle in (0.0, 0.3, 0.6)]
    only = await store.search(collection, vectors[0], limit=10, job_ids=[second])
    assert [hit.id for hit in only] == [points[1].id, points[3].id]
    both = await store.search(collection, vectors[0], limit=10, job_ids=[first, second])
    assert [hit.id for hit in both] == [point.id for point in points]
    assert await store.search(collection, vectors[0], limit=10, job_ids=[]) == []
    assert await store.search(collection, vectors[0], limit=10, job_ids=[uuid.uuid4()]) == []


async def test_search_among_named_points(store: VectorStore, collection: str) -> None:
    """With ids a search ranks those only, with their true cosines; both filters must hold, and no ids means no hits."""
    first, second = uuid.uuid4(), uuid.uuid4()
    vectors = [[math.cos(angle), math.sin(angle)] + [0.0] * 6 for angle in (0.0, 0.3, 0.6, 0.9)]
    points = [a_point(job, vector=vector) for job, vector in zip((first, second, first, second), vectors, strict=True)]
    await store.upsert(collection, points, epochs={first: 1, second: 1})
    named = [points[3].id, uuid.uuid4(), points[1].id]
    hits = await store.search(collection, vectors[0], limit=10, ids=named)
    assert [(hit.id, round(hit.score, 4)) for hit in hits] == [
        (points[1].id, round(math.cos(0.3), 4)),
        (points[3].id, round(math.cos(0.9), 4)),
    ]
    assert await store.search(collection, vectors[0], limit=10, ids=named, job_ids=[first]) == []
    assert await store.search(collection, vectors[0], limit=10, ids=[]) == []
    most = [uuid.uuid4() for _ in range(MAX_SEARCH_IDS)]
    assert await store.search(collection, vectors[0], limit=10, ids=most) == []
    with pytest.raises(InvalidInput, match="at most"):
        await store.search(collection, vectors[0], limit=10, ids=[*most, uuid.uuid4()])


@pytest.mark.parametrize("limit", [0, -1, 10_001])
async def test_limits_out_of_range_are_refused(store: VectorStore, collection: str, limit: int) -> None:
    """A limit is 1 to 10,000, not clamped."""
    with pytest.raises(InvalidInput, match="limit"):
        await store.search(collection, [1.0] * DIMENSIONS, limit=limit)
    with pytest.raises(InvalidInput, match="limit"):
        await store.scroll_job(collection, uuid.uuid4(), limit=limit)


async def test_scroll_pages_in_order(store: VectorStore, collection: str) -> None:
    """Pages cover a job's points once each, in order of id, also when points go while paging."""
    job, other = uuid.uuid4(), uuid.uuid4()
    points = [a_point(job if i % 2 else other, owner=job) for i in range(25)]
    strangers = [a_point(other) for _ in range(25)]
    await store.upsert(collection, [*points, *strangers], epochs={job: 1, other: 1})
    expected = sorted(point.id for point in points)
    seen: list[uuid.UUID] = []
    while page := await store.scroll_job(collection, job, limit=7, after=seen[-1] if seen else None):
        seen += page
        await store.delete(collection, page)
    assert seen == expected
    assert await store.scroll_job(collection, job, limit=7, after=uuid.UUID(int=(1 << 128) - 1)) == []


async def test_points_of_a_source_are_counted_and_listed(store: VectorStore, collection: str) -> None:
    """What was made from a source is counted and paged in order of id, whichever job made it."""
    maker, owner = uuid.uuid4(), uuid.uuid4()
    source = uuid.uuid4()
    made = [dataclasses.replace(a_point(job, owner=owner), source_id=source) for job in (maker, owner) * 5]
    await store.upsert(collection, [*made, a_point(maker, owner=owner)], epochs={maker: 1, owner: 1})
    assert await store.count_source(collection, source) == 10
    assert await store.count_source(collection, uuid.uuid4()) == 0
    first = await store.scroll_source(collection, source, limit=7)
    rest = await store.scroll_source(collection, source, limit=7, after=first[-1])
    assert [*first, *rest] == sorted(point.id for point in made)
    assert await store.scroll_source(collection, uuid.uuid4(), limit=7) == []


async def test_all_points_are_counted_and_listed(store: VectorStore, collection: str) -> None:
    """Pages over a collection cover each point once, in order of id, and the count is theirs."""
    jobs = [uuid.uuid4() for _ in range(15)]
    points = [a_point(job) for job in jobs]
    assert (await store.count_all(collection), await store.scroll_all(collection, limit=4)) == (0, [])
    await store.upsert(collection, points, epochs=dict.fromkeys(jobs, 1))
    seen: list[uuid.UUID] = []
    while page := await store.scroll_all(collection, limit=4, after=seen[-1] if seen else None):
        seen += page
    assert seen == sorted(point.id for point in points)
    assert await store.count_all(collection) == len(points)


async def test_present_tells_which_ids_are_there(store: VectorStore, collection: str) -> None:
    """Of given ids those with a point come back; repeated and absent ones are no error, too many are."""
    job = uuid.uuid4()
    points = [a_point(job) for _ in range(5)]
    await store.upsert(collection, points, epochs={job: 1})
    ids = [point.id for point in points]
    assert await store.present(collection, [ids[0], ids[0], ids[3], uuid.uuid4()]) == {ids[0], ids[3]}
    assert await store.present(collection, []) == set()
    await store.delete(collection, ids[:1])
    assert await store.present(collection, ids) == set(ids[1:])
    with pytest.raises(InvalidInput, match="at most 1000"):
        await store.present(collection, [uuid.uuid4() for _ in range(MAX_BATCH + 1)])
    with pytest.raises(NotFound, match="nowhere"):
        await store.present("nowhere", ids)


async def test_ids_at_the_ends_of_the_range(store: VectorStore, collection: str) -> None:
    """The smallest and the largest UUID are ids like others."""
    job = uuid.uuid4()
    ids = [uuid.UUID(int=0), uuid.UUID(int=(1 << 128) - 1)]
    points = [Point(point_id, [1.0] * DIMENSIONS, job, job, uuid.uuid4()) for point_id in ids]
    await store.upsert(collection, points, epochs={job: 1})
    assert await store.scroll_job(collection, job, limit=10) == ids
    assert await store.scroll_job(collection, job, limit=10, after=ids[0]) == ids[1:]
    assert await store.count_ids(collection, ids) == 2


async def test_a_zero_vector_is_found_by_count_and_never_nan(store: VectorStore, collection: str) -> None:
    """A vector without direction is stored, and a search over it scores no NaN."""
    job = uuid.uuid4()
    await store.upsert(collection, [a_point(job, vector=[0.0] * 7 + [1e-30]), a_point(job)], epochs={job: 1})
    await store.upsert(collection, [Point(uuid.uuid4(), [0.0] * 8, job, job, uuid.uuid4())], epochs={job: 1})
    hits = await store.search(collection, [1.0] * DIMENSIONS, limit=10)
    assert await store.count_job(collection, job) == 3
    assert all(math.isfinite(hit.score) for hit in hits)


async def test_healthy_when_it_answers(store: VectorStore) -> None:
    """A store that is up is healthy."""
    assert any([await store.healthy() for _ in range(10)])


async def test_server_tells_that_it_cannot_fence() -> None:
    """A Qdrant server cannot refuse stale writes, and the adapter does not pretend."""
    store = ServerVectors(AsyncQdrantClient(":memory:"))
    assert await store.fence(uuid.uuid4(), 2) is False
    await store.close()


@pytest.mark.parametrize("kind", ["edge", "server"])
async def test_absent_store_is_unavailable(kind: str, tmp_path: Path, unused_tcp_port: int) -> None:
    """With nobody at the address every call says so at once, and `healthy` is false instead of raising."""
    store: VectorStore = (
        EdgeVectors(tmp_path / "none")
        if kind == "edge"
        else ServerVectors.connect(f"http://127.0.0.1:{unused_tcp_port}", timeout_s=3)
    )
    job = uuid.uuid4()
    assert not await store.healthy()
    with pytest.raises(VectorStoreUnavailable):
        await store.collections()
    with pytest.raises(VectorStoreUnavailable):
        await store.ensure_collection("a", DIMENSIONS)
    with pytest.raises(VectorStoreUnavailable):
        await store.upsert("a", [a_point(job)], epochs={job: 1})
    await store.close()
