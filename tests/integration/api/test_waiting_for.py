"""`waiting_for`: why a job does not move, each reason brought about for real."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.failures import FailureInterceptor
from activities.record import RecordActivities
from ke.contracts.activities import CollectSlice, SliceReport
from ke.contracts.jobs import Counters, JobInput, Lane
from ke.contracts.naming import JOB_WORKFLOW, TaskQueue
from ke.runtime.pool import CpuPool
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import connect
from ke.storage.database import Database
from ke.storage.jobs import add_progress
from ke.storage.vectors.base import VectorStore
from ke.storage.vectors.edge import EdgeVectors
from tests.integration.api.conftest import WATCHED
from tests.integration.api.stack import SLOW, ApiStack, open_gateway
from tests.integration.api.test_outages import NOWHERE
from tests.seeding import seed_crawl
from tests.stores import Stores
from tests.temporal_tools import temporal, terminate
from workflows.job import JobWorkflow


@pytest.fixture(scope="module")
async def watched(
    api_settings: Settings, api_stores: Stores, api_temporal: WorkflowEnvironment
) -> AsyncIterator[ApiStack]:
    """A gateway in front of workers that each test brings along."""
    settings = api_settings.model_copy(update={"temporal_namespace": WATCHED})
    client = await connect(str(api_settings.temporal_address), settings)
    async with open_gateway(settings, api_stores, client) as stack:
        yield stack


async def until_waiting_for(stack: ApiStack, job_id: str, words: str) -> str:
    """What the job waits for, as soon as that has these words."""
    seen: Any = None
    try:
        async with asyncio.timeout(60):
            while True:
                seen = (await stack.http.get(f"/jobs/{job_id}")).json()["waiting_for"]
                if seen is not None and words in seen:
                    return seen
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"waits for {seen!r}")


@asynccontextmanager
async def real_worker(
    stack: ApiStack, *, database: Database | None = None, vectors: VectorStore | None = None
) -> AsyncIterator[None]:
    """The real worker of an extract job, with a store of its own in the place of one of the stack's."""
    pool = CpuPool(1)
    record = RecordActivities(database or stack.stores.database)
    extract = ExtractActivities(
        stack.stores.database, vectors or stack.stores.vectors, pool, EntityActivities(stack.stores.database, pool)
    )
    client, interceptors = stack.temporal, [FailureInterceptor()]
    try:
        async with (
            Worker(
                client,
                task_queue=TaskQueue.JOBS,
                workflows=[JobWorkflow],
                activities=[record.open_job, record.set_job_status, record.close_job],
                interceptors=interceptors,
            ),
            Worker(
                client,
                task_queue=TaskQueue.EXTRACT,
                activities=[extract.extract_sources],
                interceptors=interceptors,
            ),
        ):
            yield
    finally:
        await pool.close()


async def submit_extract(stack: ApiStack, **options: Any) -> str:
    owner = await seed_crawl(stack.stores.database, stack.stores.vectors)
    answer = await stack.http.post("/jobs", json={"kind": "extract", "source_job_id": str(owner.id), **options})
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


async def test_entities_lane_that_nobody_serves(watched: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where workers serve all queues but that of the entities, text is extracted, and the job tells what it lacks."""
    monkeypatch.setattr("ke.runtime.engine.POLLER_FRESH_S", 0.0)
    async with real_worker(watched):
        job_id = await submit_extract(watched)
        told = await until_waiting_for(watched, job_id, "no worker polls the task queue ke-entities")
        assert told == "no worker polls the task queue ke-entities"
        progress: dict[str, int] = {}
        async with asyncio.timeout(60):
            while not progress.get("sources_extracted"):
                progress = (await watched.http.get(f"/jobs/{job_id}")).json()["progress"]
    assert (progress["entity_sources"], progress["entities"]) == (0, 0)
    await terminate(watched.settings, f"job-{job_id}")


async def test_vector_store_that_is_down_and_then_no_worker(
    watched: ApiStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job tells which store its worker cannot reach; when the worker goes, that nobody polls, though it had begun."""
    vectors = EdgeVectors(tmp_path / "none.sock")
    async with real_worker(watched, vectors=vectors):
        job_id = await submit_extract(watched, entities=None)
        told = await until_waiting_for(watched, job_id, "the vector store does not answer: extract_sources failed")
        assert "is tried again (attempt " in told
    await vectors.close()
    monkeypatch.setattr("ke.runtime.engine.POLLER_FRESH_S", 0.0)
    assert await until_waiting_for(watched, job_id, "no worker") == "no worker polls the task queue ke-extract"
    await terminate(watched.settings, f"job-{job_id}")


async def test_database_that_a_worker_cannot_reach(watched: ApiStack) -> None:
    """A job whose row its worker cannot open tells that the database does not answer."""
    database = Database(f"postgresql://ke@{NOWHERE}/ke")
    async with real_worker(watched, database=database):
        job_id = (await watched.submit(SLOW))["id"]
        await until_waiting_for(watched, job_id, "the database does not answer: open_job failed")
        await terminate(watched.settings, f"job-{job_id}")
    await database.close()


@workflow.defn(name=JOB_WORKFLOW)
class BrokenJob:
    """A job whose code has an error."""

    @workflow.run
    async def run(self, _job: JobInput) -> None:
        """Fails its workflow task, again and again."""
        raise RuntimeError("a bug")


async def test_workflow_task_that_fails_in_a_loop(watched: ApiStack) -> None:
    """A job whose workflow code fails says so, and how often it was tried."""
    job_id = (await watched.submit(SLOW))["id"]
    async with Worker(
        watched.temporal,
        task_queue=TaskQueue.JOBS,
        workflows=[BrokenJob],
        workflow_runner=UnsandboxedWorkflowRunner(),
    ):
        told = await until_waiting_for(watched, job_id, "the workflow's own code fails (attempt ")
    assert told.endswith("see Temporal's web UI")
    await terminate(watched.settings, f"job-{job_id}")


async def test_worker_that_is_silent(watched: ApiStack) -> None:
    """A job whose worker sends no heartbeats, as one that is frozen, tells for how long, and what comes then."""
    gate = asyncio.Event()

    @activity.defn(name="collect_pages")
    async def collect_pages(_piece: CollectSlice) -> SliceReport:
        await gate.wait()
        return SliceReport(done=True, counters=Counters())

    record = RecordActivities(watched.stores.database)
    activities = [record.open_job, record.set_job_status, record.close_job]
    client: Client = watched.temporal
    async with (
        Worker(client, task_queue=TaskQueue.JOBS, workflows=[JobWorkflow], activities=activities),
        Worker(client, task_queue=TaskQueue.COLLECT, activities=[collect_pages]),
    ):
        job_id = await watched.running()
        told = await until_waiting_for(watched, job_id, "the worker of collect_pages is silent for ")
        await watched.http.post(f"/jobs/{job_id}/cancel")
        stopped = await until_waiting_for(watched, job_id, "it is waited for no more")
        await terminate(watched.settings, f"job-{job_id}")
        gate.set()
    assert told.endswith("after 10 s another one takes it up")
    assert "to acknowledge or time out; the worker of collect_pages is silent for " in stopped


async def test_activity_that_was_paused_in_temporal(api: ApiStack) -> None:
    """An activity that was paused with Temporal's CLI is told, and what lets it go on."""
    job_id = await api.running()
    await temporal(api.settings, "activity", "pause", f"job-{job_id}", "--activity-type", "collect_pages")
    told = await until_waiting_for(api, job_id, "collect_pages is paused")
    assert "temporal activity unpause" in told
    await terminate(api.settings, f"job-{job_id}")


async def test_note_of_a_lane_is_what_its_job_waits_for(api: ApiStack) -> None:
    """What a lane says of itself, as that a host asked for a pause, is told when nothing else is wrong."""
    job_id = await api.running()
    async with api.stores.database.transaction() as connection:
        await add_progress(connection, uuid.UUID(job_id), Lane.COLLECT, Counters(), note="rate limit: of a test")
    assert await until_waiting_for(api, job_id, "rate limit") == "rate limit: of a test"
    await terminate(api.settings, f"job-{job_id}")


async def test_cancelling_job_tells_what_it_waits_for_and_why_that_does_not_come(idle_api: ApiStack) -> None:
    """A cancel that no worker hears of tells both: what is awaited, and that nobody polls."""
    job_id = (await idle_api.submit(SLOW))["id"]
    await idle_api.http.post(f"/jobs/{job_id}/cancel")
    told = await until_waiting_for(idle_api, job_id, "no worker polls the task queue ke-jobs")
    assert told.startswith("its workflow to write the result; ")
