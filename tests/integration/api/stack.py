"""The gateway on real stores and a real Temporal, with a worker whose fetching is a small twin."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
from fastapi import FastAPI
from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.cleanup import CleanupActivities
from activities.failures import FailureInterceptor
from activities.forgetting import ForgettingActivities
from activities.heartbeat import Beat, run_with_heartbeat
from activities.project_cleanup import ProjectCleanupActivities
from activities.record import RecordActivities
from activities.retry import RetryActivities
from api.app import create_app
from ke.client import KnowledgeExtractionClient
from ke.contracts import activities as contract
from ke.contracts.activities import CollectSlice, ExtractSlice, SliceReport
from ke.contracts.jobs import Counters
from ke.contracts.naming import TaskQueue
from ke.runtime.settings import Settings
from tests.stores import Stores
from workflows.cleanup import CleanupWorkflow
from workflows.forgetting import ForgettingWorkflow
from workflows.job import JobWorkflow
from workflows.project_cleanup import ProjectCleanupWorkflow
from workflows.retry import RetryWorkflow

QUICK = "https://site.example/quick"
SLOW = "https://site.example/slow"
BROKEN = "https://site.example/broken"


class TwinLanes(contract.CollectActivities, contract.ExtractActivities):
    """Lanes that fetch and extract nothing: a slow one runs until it is stopped, a broken one fails for good."""

    @activity.defn(name="collect_pages")
    async def collect_pages(self, piece: CollectSlice) -> SliceReport:
        """Plays the part of fetching."""
        return await self._run(piece.spec.urls)

    @activity.defn(name="extract_sources")
    async def extract_sources(self, _piece: ExtractSlice) -> SliceReport:
        """Plays the part of extracting."""
        return SliceReport(done=True, counters=Counters())

    async def _run(self, urls: tuple[str, ...]) -> SliceReport:
        async def body(beat: Beat) -> SliceReport:
            if BROKEN in urls:
                raise ApplicationError("The twin is broken.", type="broken", non_retryable=True)
            while SLOW in urls and not beat.stopping:
                await beat.wait(0.1)
            return SliceReport(done=SLOW not in urls, counters=Counters(), interrupted=beat.stopping)

        return await run_with_heartbeat(body)


@dataclass
class ApiStack:
    """A gateway, as an app and over its client, and what stands behind it."""

    app: FastAPI
    http: httpx.AsyncClient
    ke: KnowledgeExtractionClient
    stores: Stores
    temporal: Client
    settings: Settings

    async def submit(self, url: str = QUICK, **members: Any) -> dict[str, Any]:
        """A scrape of one URL, accepted."""
        answer = await self.http.post("/jobs", json={"kind": "scrape", "urls": [url], **members})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def running(self, url: str = SLOW) -> str:
        """The id of a job that a worker has begun."""
        job = await self.submit(url)
        await self.until(job["id"], "running")
        return job["id"]

    async def ended(self, url: str = QUICK) -> str:
        """The id of a job that has ended."""
        job = await self.submit(url)
        await self.until(job["id"], "completed", "completed_with_errors", "failed", "cancelled")
        return job["id"]

    async def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """The job as soon as it is in one of these states."""
        async with asyncio.timeout(90):
            while True:
                job = (await self.http.get(f"/jobs/{job_id}")).json()
                if job["status"] in states:
                    return job
                await asyncio.sleep(0.05)


@asynccontextmanager
async def open_gateway(settings: Settings, stores: Stores, temporal: Client) -> AsyncIterator[ApiStack]:
    """A gateway with these settings, in this process."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=70) as http,
        KnowledgeExtractionClient("http://127.0.0.1", transport=httpx.ASGITransport(app)) as client,
    ):
        yield ApiStack(app, http, client, stores, temporal, settings)


@asynccontextmanager
async def running_worker(stores: Stores, client: Client) -> AsyncIterator[None]:
    """Workers for all queues: the real workflows, the real record and cleanup, the twin for the rest."""
    record, lanes = RecordActivities(stores.database), TwinLanes()
    cleanup = CleanupActivities(stores.database, stores.vectors)
    retry = RetryActivities(stores.database, stores.vectors)
    project = ProjectCleanupActivities(stores.database, stores.vectors)
    registrations: dict[TaskQueue, dict[str, Any]] = {
        TaskQueue.JOBS: {
            "workflows": [JobWorkflow, RetryWorkflow],
            "activities": [
                record.open_job,
                record.set_job_status,
                record.close_job,
                retry.open_retry,
                retry.close_retry,
            ],
        },
        TaskQueue.COLLECT: {"activities": [lanes.collect_pages]},
        TaskQueue.EXTRACT: {"activities": [lanes.extract_sources]},
        TaskQueue.CLEANUP: {
            "workflows": [CleanupWorkflow, ProjectCleanupWorkflow, ForgettingWorkflow],
            "activities": [
                ForgettingActivities(stores.database).list_replaced_sources,
                cleanup.begin_cleanup,
                cleanup.delete_vectors,
                cleanup.delete_sources,
                cleanup.purge_dead_letters,
                cleanup.verify_cleanup,
                cleanup.erase_history,
                cleanup.fail_cleanup,
                project.begin_project_cleanup,
                project.list_project_jobs,
                project.close_project_cleanup,
            ],
        },
    }
    throttle = timedelta(seconds=0.1)
    workers = [
        Worker(
            client,
            task_queue=queue.value,
            interceptors=[FailureInterceptor()],
            workflow_runner=UnsandboxedWorkflowRunner(),
            graceful_shutdown_timeout=timedelta(seconds=5),
            max_heartbeat_throttle_interval=throttle,
            default_heartbeat_throttle_interval=throttle,
            **registration,
        )
        for queue, registration in registrations.items()
    ]
    async with workers[0], workers[1], workers[2], workers[3]:
        yield
