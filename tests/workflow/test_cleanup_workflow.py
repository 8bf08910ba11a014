"""The cleanup as Temporal runs it: its ends, and how a new start goes on."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from qdrant_client import AsyncQdrantClient
from temporalio import activity
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, CancelledError, WorkflowAlreadyStartedError
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.cleanup import CleanupActivities
from activities.failures import FailureInterceptor
from ke.contracts.cleanup import CleanupInput, CleanupReceipt, CleanupStatus, StoreCounts
from ke.contracts.errors import VectorStoreUnavailable
from ke.contracts.jobs import JobStatus
from ke.contracts.naming import TaskQueue, job_workflow_id
from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.settings import Settings
from ke.storage.cleanup_runs import ask_record_deletion
from ke.storage.tables import jobs
from ke.storage.vectors.base import VectorStore
from ke.storage.vectors.server import ServerVectors
from tests.cleaning import clean, job_column, receipt_of
from tests.closed_workflows import closed_workflow, until_gone
from tests.seeding import COLLECTION, Seeded, a_point, seed_crawl, seed_extract, seed_job, store_counts
from tests.stores import Stores, open_stores
from workflows.cleanup import CleanupWorkflow

DEADLINE_S = 60.0
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    cli = await find_temporal_cli(Settings().temporal_cli, report=print)
    async with await WorkflowEnvironment.start_local(dev_server_existing_path=str(cli)) as environment:
        yield environment.client


class Meddled:
    """A vector store that works, but for what a test does around one of its methods."""

    def __init__(
        self, vectors: VectorStore, method: str, around: Callable[[Callable[[], Awaitable[Any]]], Any]
    ) -> None:
        self._vectors = vectors
        self._method = method
        self._around = around

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._vectors, name)
        if name != self._method:
            return method
        return lambda *args, **kwargs: self._around(lambda: method(*args, **kwargs))


@asynccontextmanager
async def worker(client: Client, stores: Stores, vectors: Any = None) -> AsyncIterator[None]:
    """A worker for cleanups."""
    steps = CleanupActivities(stores.database, vectors or stores.vectors)
    async with Worker(
        client,
        task_queue=TaskQueue.CLEANUP,
        workflows=[CleanupWorkflow],
        activities=[
            steps.begin_cleanup,
            steps.delete_vectors,
            steps.delete_sources,
            steps.purge_dead_letters,
            steps.verify_cleanup,
            steps.erase_history,
            steps.fail_cleanup,
        ],
        interceptors=[FailureInterceptor()],
        max_heartbeat_throttle_interval=timedelta(milliseconds=200),
        default_heartbeat_throttle_interval=timedelta(milliseconds=200),
    ):
        yield


async def start(client: Client, job: Seeded, *, delete_record: bool = False) -> WorkflowHandle[Any, CleanupReceipt]:
    """Starts or joins the cleanup, as the gateway does."""
    return await client.start_workflow(
        CleanupWorkflow.run,
        CleanupInput(str(job.id), delete_record),
        id=job.cleanup_id,
        task_queue=TaskQueue.CLEANUP,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        execution_timeout=timedelta(minutes=5),
    )


async def failure_of(handle: WorkflowHandle[Any, Any]) -> BaseException | None:
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    return caught.value.cause


async def test_cleanup_returns_its_receipt(client: Client, stores: Stores) -> None:
    """The workflow's result is the receipt; it cannot be started again, as nothing is left to do."""
    job = await seed_crawl(stores.database, stores.vectors)
    async with worker(client, stores):
        receipt = await (await start(client, job, delete_record=True)).result()
        with pytest.raises(WorkflowAlreadyStartedError):
            await start(client, job)
    assert receipt == await receipt_of(stores, job)
    assert (receipt.status, receipt.deleted) == (CleanupStatus.CLEANED, job.counts)
    assert await job_column(stores, job.id, "deleted_at") is not None


async def test_active_job_fails_the_workflow_with_the_conflict(client: Client, stores: Stores) -> None:
    """A refused cleanup ends at once, with the refusal's own type and words, and leaves the job as it was."""
    job = await seed_job(stores.database, status=JobStatus.RUNNING)
    async with worker(client, stores):
        cause = await failure_of(await start(client, job))
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("conflict", True)
    assert "is running" in cause.message
    assert await job_column(stores, job.id, "artifacts") == "present"


async def test_incomplete_cleanup_fails_and_can_be_started_again(client: Client, stores: Stores) -> None:
    """Something that came late fails the workflow, named; the same id starts again and ends cleaned."""
    job = await seed_crawl(stores.database, stores.vectors)
    late = a_point(uuid.uuid4(), job.id, job.id, job.sources[0])

    async def write_late(scroll: Callable[[], Awaitable[list[uuid.UUID]]]) -> list[uuid.UUID]:
        found = await scroll()
        if not found:
            await stores.vectors.upsert(COLLECTION, [late], epochs={job.id: 2})
        return found

    async with worker(client, stores, Meddled(stores.vectors, "scroll_job", write_late)):
        cause = await failure_of(await start(client, job))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "cleanup-incomplete"
    assert f"1 point in collection {COLLECTION}" in cause.message
    failed = await receipt_of(stores, job)
    assert (failed.status, failed.remaining, failed.error) == (
        CleanupStatus.FAILED,
        StoreCounts(vectors=1),
        cause.message,
    )
    async with worker(client, stores):
        receipt = await (await start(client, job)).result()
    assert receipt.id == failed.id
    assert receipt.planned == receipt.deleted == job.counts + StoreCounts(vectors=1)


async def test_cancel_finishes_the_batch_and_can_be_taken_up(client: Client, stores: Stores) -> None:
    """A cancelled cleanup ends as cancelled, its receipt as failed and exact; a new start goes on from there."""
    job = await seed_crawl(stores.database, stores.vectors)
    deleting = asyncio.Event()

    async def slowly(delete: Callable[[], Awaitable[None]]) -> None:
        deleting.set()
        async with asyncio.timeout(DEADLINE_S):
            await activity.wait_for_cancelled()
        await delete()

    async with worker(client, stores, Meddled(stores.vectors, "delete", slowly)):
        handle = await start(client, job)
        async with asyncio.timeout(DEADLINE_S):
            await deleting.wait()
        await handle.cancel(reason="no longer wanted")
        assert isinstance(await failure_of(handle), CancelledError)
    stopped = await receipt_of(stores, job)
    assert stopped.status is CleanupStatus.FAILED
    assert "cancelled: no longer wanted" in (stopped.error or "")
    assert stopped.deleted == StoreCounts(vectors=job.counts.vectors)
    assert stopped.remaining == await store_counts(stores.database, stores.vectors, job.id)
    assert await job_column(stores, job.id, "artifacts") == "cleanup_failed"
    async with worker(client, stores):
        receipt = await (await start(client, job)).result()
    assert receipt.planned == receipt.deleted == job.counts


async def test_terminated_cleanup_is_taken_up(client: Client, stores: Stores) -> None:
    """A run that was terminated in the middle of a batch is followed by one that ends with exact numbers."""
    job = await seed_crawl(stores.database, stores.vectors)
    deleted, ended = asyncio.Event(), asyncio.Event()

    async def delete_and_hang(delete: Callable[[], Awaitable[None]]) -> None:
        await delete()
        deleted.set()
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()

    async with worker(client, stores, Meddled(stores.vectors, "delete", delete_and_hang)):
        handle = await start(client, job)
        async with asyncio.timeout(DEADLINE_S):
            await deleted.wait()
        await handle.terminate("by a test")
        second = await start(client, job)
        ended.set()
        receipt = await second.result()
    assert second.first_execution_run_id != handle.first_execution_run_id
    assert receipt.planned == receipt.deleted == job.counts


async def test_outage_of_the_vector_store_delays_a_cleanup(client: Client, stores: Stores) -> None:
    """The step is retried until the store is back; the numbers are the same."""
    job = await seed_crawl(stores.database, stores.vectors)
    outages = iter([VectorStoreUnavailable(), VectorStoreUnavailable()])

    async def fail_twice(delete: Callable[[], Awaitable[None]]) -> None:
        await delete()
        for outage in outages:
            raise outage

    async with worker(client, stores, Meddled(stores.vectors, "delete", fail_twice)):
        receipt = await (await start(client, job)).result()
    assert receipt.planned == receipt.deleted == job.counts


async def test_store_that_cannot_fence_is_swept_twice(client: Client, stores: Stores) -> None:
    """What a worker wrote late to a Qdrant server goes with a second sweep; the receipt says that it was needed."""
    vectors = ServerVectors(AsyncQdrantClient(":memory:"))
    job = await seed_crawl(stores.database, vectors)
    late = a_point(uuid.uuid4(), job.id, job.id, job.sources[0])
    calls: list[int] = []

    async def write_late(scroll: Callable[[], Awaitable[list[uuid.UUID]]]) -> list[uuid.UUID]:
        found = await scroll()
        if not calls:
            await vectors.upsert(COLLECTION, [late], epochs={job.id: 1})
        calls.append(len(found))
        return found

    async with worker(client, stores, Meddled(vectors, "scroll_job", write_late)):
        receipt = await (await start(client, job)).result()
    assert not receipt.fenced
    assert receipt.deleted == job.counts + StoreCounts(vectors=1)
    assert calls == [0, 1, 0]
    assert await store_counts(stores.database, vectors, job.id) == StoreCounts()
    await vectors.close()


async def test_refused_cleanup_leaves_the_job_in_use(client: Client, stores: Stores) -> None:
    """A cleanup that other jobs are in the way of ends as refused, and its job is what it was."""
    owner = await seed_crawl(stores.database, stores.vectors)
    other = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.RUNNING)
    async with stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == owner.id).values(artifacts="cleaning"))
    async with worker(client, stores):
        cause = await failure_of(await start(client, owner))
    assert isinstance(cause, ApplicationError)
    assert cause.type == "conflict"
    receipt = await receipt_of(stores, owner)
    assert receipt.status is CleanupStatus.FAILED
    assert str(other.id) in (receipt.error or "")
    assert await job_column(stores, owner.id, "artifacts") == "present"


async def test_wish_reaches_a_cleanup_that_has_not_begun(client: Client, stores: Stores) -> None:
    """A cleanup that no worker has taken up yet deletes the record when that is asked for afterwards."""
    job = await seed_crawl(stores.database, stores.vectors)
    handle = await start(client, job)
    async with stores.database.transaction() as connection:
        assert await ask_record_deletion(connection, job.id)
    async with worker(client, stores):
        receipt = await handle.result()
    assert (receipt.delete_record, receipt.deleted) == (True, job.counts)
    assert await job_column(stores, job.id, "deleted_at") is not None


async def test_cleaned_job_loses_record_and_history_when_asked(client: Client, stores: Stores) -> None:
    """A run that finds all done still deletes the record, and the history that Temporal holds of the job."""
    job = await seed_crawl(stores.database, stores.vectors)
    await clean(stores, job)
    await closed_workflow(client, job_workflow_id(str(job.id)))
    async with worker(client, stores):
        receipt = await (await start(client, job, delete_record=True)).result()
    assert receipt.delete_record
    assert await job_column(stores, job.id, "deleted_at") is not None
    await until_gone(client, job_workflow_id(str(job.id)))
