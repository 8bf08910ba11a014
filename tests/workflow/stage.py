"""A real Temporal server, the real workflows, and twins of the activities."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle, WorkflowHistory
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Replayer, Worker

from ke.contracts.cleanup import CleanupInput, CleanupReceipt, ForgettingInput, ProjectCleanupInput
from ke.contracts.jobs import (
    CarriedState,
    CollectSpec,
    CrawlLimits,
    ExtractSpec,
    JobInput,
    JobKind,
    JobOutcome,
    JobProgress,
    JobStatus,
    Lane,
)
from ke.contracts.naming import (
    FORGETTING_WORKFLOW,
    JOB_KIND,
    JOB_STATUS,
    JOB_WORKFLOW,
    PROJECT,
    PROJECT_CLEANUP_WORKFLOW,
    RETRY_WORKFLOW,
    SEARCH_ATTRIBUTES,
    TaskQueue,
    cleanup_id,
    forgetting_id,
    job_workflow_id,
    project_cleanup_workflow_id,
    retry_id,
    source_cleanup_id,
)
from ke.contracts.retries import CarriedRetry, RetryInput, RetryOutcome
from ke.runtime.embedded.temporal import DYNAMIC_CONFIG
from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.settings import Settings
from tests.sandbox import SANDBOX
from tests.workflow.twins import Twin
from workflows.cleanup import CleanupWorkflow
from workflows.forgetting import ForgettingWorkflow
from workflows.job import JobWorkflow
from workflows.project_cleanup import ProjectCleanupWorkflow
from workflows.retry import RetryWorkflow

_WAITING = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
PATIENCE_S = 120.0
"""Seconds a test waits for anything; far more than it ever takes."""


@asynccontextmanager
async def open_temporal(*dynamic_config: str, identity: str | None = None) -> AsyncIterator[Client]:
    """A dev server of its own, with our search attributes and these settings."""
    cli = await find_temporal_cli(Settings().temporal_cli, report=lambda _: None)
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(cli),
        search_attributes=SEARCH_ATTRIBUTES,
        dev_server_extra_args=[f"--dynamic-config-value={value}" for value in (*DYNAMIC_CONFIG, *dynamic_config)],
        identity=identity,
    ) as environment:
        yield environment.client
    # The SDK's threads still hold on to the interpreter for a moment after its last answer; a process that ends in
    # that moment is aborted (temporalio/sdk-python, issue 300).
    await asyncio.sleep(0.2)


class Stage:
    """One test's jobs and the twin they run on."""

    def __init__(self, client: Client, twin: Twin) -> None:
        self.client = client
        self.twin = twin
        self.jobs: list[str] = []
        self.retries: list[str] = []
        self.projects: list[str] = []
        self._gates: list[asyncio.Event] = []

    async def start(
        self,
        *lanes: Lane,
        follow: bool = True,
        forget_replaced: bool = False,
        carried: CarriedState | None = None,
        task_queue: str = TaskQueue.JOBS.value,
    ) -> WorkflowHandle[Any, JobOutcome]:
        """Starts a job as the gateway does, by default a crawl without extraction."""
        job = _job(lanes or (Lane.COLLECT,), follow=follow, carried=carried)
        if forget_replaced:
            assert job.collect is not None
            collect = replace(job.collect, recrawl_of=str(uuid.uuid4()), forget_replaced=True)
            job = replace(job, collect=collect)
        self.jobs.append(job.job_id)
        attributes = (
            SearchAttributePair(JOB_KIND, job.kind.value),
            SearchAttributePair(JOB_STATUS, JobStatus.QUEUED.value),
            SearchAttributePair(PROJECT, job.project),
        )
        return await self.client.start_workflow(
            JOB_WORKFLOW,
            job,
            id=job_workflow_id(job.job_id),
            task_queue=task_queue,
            result_type=JobOutcome,
            search_attributes=TypedSearchAttributes(attributes),
        )

    async def clean_project(self, *, n_jobs: int = 2, **options: Any) -> WorkflowHandle[Any, CleanupReceipt]:
        """Starts the cleanup of a project that has so many ended jobs."""
        name = f"twins-{uuid.uuid4()}"
        self.projects.append(name)
        self.twin.project_jobs = [str(uuid.uuid4()) for _ in range(n_jobs)]
        self.jobs.extend(self.twin.project_jobs)
        return await self.client.start_workflow(
            PROJECT_CLEANUP_WORKFLOW,
            ProjectCleanupInput(name, **options),
            id=project_cleanup_workflow_id(name),
            task_queue=TaskQueue.CLEANUP.value,
            result_type=CleanupReceipt,
        )

    async def running(self, *lanes: Lane, **options: Any) -> WorkflowHandle[Any, JobOutcome]:
        """Starts a job and waits until each of its lanes has a slice that runs."""
        before = [len(self.twin.lanes[lane].started) for lane in lanes or (Lane.COLLECT,)]
        handle = await self.start(*lanes, **options)
        for lane, number in zip(lanes or (Lane.COLLECT,), before, strict=True):
            await self.until(lambda lane=lane, number=number: len(self.twin.lanes[lane].started) > number)
        return handle

    def has_replaced(self, number: int) -> None:
        """Lets the re-crawl have replaced so many documents of one earlier job."""
        owner = str(uuid.uuid4())
        self.twin.replaced = [CleanupInput(owner, source_id=str(uuid.uuid4())) for _ in range(number)]

    async def forget(self, **options: Any) -> WorkflowHandle[Any, int]:
        """Starts the forgetting of what a re-crawl has replaced."""
        job_id = str(uuid.uuid4())
        self.jobs.append(job_id)
        return await self.client.start_workflow(
            FORGETTING_WORKFLOW,
            ForgettingInput(job_id, **options),
            id=forgetting_id(job_workflow_id(job_id)),
            task_queue=TaskQueue.CLEANUP.value,
            result_type=int,
        )

    async def start_retry(
        self, *lanes: Lane, forget_replaced: bool = False, carried: CarriedRetry | None = None
    ) -> WorkflowHandle[Any, RetryOutcome]:
        """Starts a retry of a job, which has an id only, as the gateway does; it finds work for these lanes."""
        collect = CollectSpec(
            ("https://site.example/",),
            follow=True,
            limits=CrawlLimits(max_pages=100),
            forget_replaced=forget_replaced,
        )
        self.twin.retry = replace(
            self.twin.retry,
            collect=collect if Lane.COLLECT in lanes else None,
            extract=_extract(lanes),
            entities="spacy" if Lane.ENTITIES in lanes else None,
        )
        job_id = str(uuid.uuid4())
        retry = RetryInput(retry_id(job_id, 1), job_id, 1, "2026-01-01T00:00:00+00:00", carried=carried)
        self.retries.append(retry.id)
        return await self.client.start_workflow(
            RETRY_WORKFLOW, retry, id=retry.id, task_queue=TaskQueue.JOBS.value, result_type=RetryOutcome
        )

    async def retrying(self, *lanes: Lane) -> WorkflowHandle[Any, RetryOutcome]:
        """Starts a retry and waits until each of its lanes has a slice that runs."""
        handle = await self.start_retry(*lanes)
        await self.until(lambda: all(self.twin.lanes[lane].running for lane in lanes))
        return handle

    async def until_progress(
        self, handle: WorkflowHandle[Any, Any], condition: Callable[[JobProgress], bool]
    ) -> JobProgress:
        """The answer of the `progress` query, once it is as wanted."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                progress = await handle.query(JobWorkflow.progress)
                if condition(progress):
                    return progress
                await asyncio.sleep(0.02)

    async def until_pending_retry(self, handle: WorkflowHandle[Any, Any], name: str) -> None:
        """Waits until an activity waits for its next attempt."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = (await handle.describe()).raw_description.pending_activities
                if any(a.activity_type.name == name and a.state == _WAITING and a.attempt > 1 for a in found):
                    return
                await asyncio.sleep(0.02)

    async def until_timer(self, handle: WorkflowHandle[Any, Any]) -> None:
        """Waits until a workflow has started a timer."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if count_events(await handle.fetch_history(), EventType.EVENT_TYPE_TIMER_STARTED):
                    return
                await asyncio.sleep(0.05)

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until something holds in the twin."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if condition():
                    return
                await asyncio.sleep(0.02)

    async def until_row(self, status: JobStatus) -> None:
        """Waits until the only job's row is in this state."""
        await self.until(lambda: self.twin.rows and self.twin.row.status is status)

    async def outcome(self, handle: WorkflowHandle[Any, JobOutcome]) -> JobOutcome:
        """What the job's workflow returns; raises what it raises."""
        async with asyncio.timeout(PATIENCE_S):
            return await handle.result()

    async def ended(self, handle: WorkflowHandle[Any, Any]) -> WorkflowExecutionStatus | None:
        """How Temporal shows the job's last run, once it is closed."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.client.get_workflow_handle(handle.id).describe()
                if found.status is not WorkflowExecutionStatus.RUNNING:
                    return found.status
                await asyncio.sleep(0.02)

    def gate(self) -> asyncio.Event:
        """An event for the twin to wait for; set in the end at the latest."""
        gate = asyncio.Event()
        self._gates.append(gate)
        return gate

    def forgetting_of(self, handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
        """The forgetting of what a job or a retry has replaced."""
        return self.client.get_workflow_handle(forgetting_id(handle.id))

    def cleanup_of(self, handle: WorkflowHandle[Any, Any]) -> WorkflowHandle[Any, Any]:
        """The cleanup of a job."""
        return self.client.get_workflow_handle(cleanup_id(handle.id.removeprefix("job-")))

    # What is left of a job

    async def histories(self, workflow_id: str) -> list[WorkflowHistory]:
        """The histories of all runs of a workflow, first to last; empty when there is none."""
        found: list[WorkflowHistory] = []
        run_id: str | None = None
        try:
            latest = await self.client.get_workflow_handle(workflow_id).describe()
            run_id = latest.raw_description.workflow_execution_info.first_run_id
            while run_id:
                history = await self.client.get_workflow_handle(workflow_id, run_id=run_id).fetch_history()
                found.append(history)
                run_id = history.events[-1].workflow_execution_continued_as_new_event_attributes.new_execution_run_id
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
        return found

    async def all_histories(self) -> list[WorkflowHistory]:
        """Of all jobs, their cleanups and retries, and of the cleanups of projects."""
        return [history for workflow_id in self._ids for history in await self.histories(workflow_id)]

    @property
    def _ids(self) -> list[str]:
        of_jobs = [name for job_id in self.jobs for name in (job_workflow_id(job_id), cleanup_id(job_id))]
        at_work = [*of_jobs, *self.retries]
        of_sources = [source_cleanup_id(source.source_id) for source in self.twin.replaced if source.source_id]
        forgetting = [forgetting_id(name) for name in at_work] if of_sources else []
        return [*map(project_cleanup_workflow_id, self.projects), *at_work, *forgetting, *of_sources]

    async def end(self) -> None:
        """Terminates what a test left open."""
        for gate in (*self._gates, *(script.finish for script in self.twin.lanes.values())):
            gate.set()
        for name in self._ids:
            try:
                await self.client.get_workflow_handle(name).terminate()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
        self.twin.reset()


@asynccontextmanager
async def working(client: Client) -> AsyncIterator[Twin]:
    """Workers for all queues of a server, for as long as the block lasts, and the twin behind them.

    The queues have fixed names, so a server has one set of workers, which the tests use one after the other.
    """
    twin = Twin()
    async with AsyncExitStack() as stack:
        for worker in _workers(client, twin):
            await stack.enter_async_context(worker)
        yield twin


def late_worker(stage: Stage, task_queue: str) -> Worker:
    """A worker for a queue that none served before; its job's activities run on the others, but for what is local."""
    local = [stage.twin.open_job, stage.twin.close_job]
    return Worker(
        stage.client, task_queue=task_queue, workflows=[JobWorkflow], activities=local, workflow_runner=SANDBOX
    )


def count_events(history: WorkflowHistory, kind: EventType.ValueType) -> int:
    """How many events of a kind a history has."""
    return sum(event.event_type == kind for event in history.events)


async def replay(histories: list[WorkflowHistory], job_workflow: type = JobWorkflow) -> None:
    """Replays histories in the sandbox; raises when the code would decide anything differently."""

    async def each() -> AsyncIterator[WorkflowHistory]:
        for history in histories:
            yield history

    async with asyncio.timeout(PATIENCE_S):
        await Replayer(
            workflows=[job_workflow, CleanupWorkflow, ProjectCleanupWorkflow, ForgettingWorkflow, RetryWorkflow],
            workflow_runner=SANDBOX,
        ).replay_workflows(each())


def _job(lanes: tuple[Lane, ...], *, follow: bool, carried: CarriedState | None) -> JobInput:
    collect = CollectSpec(("https://site.example/",), follow=follow, limits=CrawlLimits(max_pages=100))
    kind = JobKind.EXTRACT if Lane.COLLECT not in lanes else JobKind.CRAWL if follow else JobKind.SCRAPE
    return JobInput(
        job_id=str(uuid.uuid4()),
        kind=kind,
        created_at="2026-01-01T00:00:00+00:00",
        project="twins",
        collect=collect if Lane.COLLECT in lanes else None,
        extract=_extract(lanes),
        carried=carried,
    )


def _extract(lanes: tuple[Lane, ...]) -> ExtractSpec | None:
    """With a schema there is a records lane beside that of extraction."""
    if Lane.EXTRACT not in lanes:
        return None
    return ExtractSpec(
        entities="spacy" if Lane.ENTITIES in lanes else None,
        schema={"type": "object"} if Lane.RECORDS in lanes else None,
    )


def _workers(client: Client, twin: Twin) -> list[Worker]:
    registrations: dict[TaskQueue, dict[str, Any]] = {
        TaskQueue.JOBS: {
            "workflows": [JobWorkflow, RetryWorkflow],
            "activities": [
                twin.open_job,
                twin.set_job_status,
                twin.close_job,
                twin.open_retry,
                twin.close_retry,
            ],
        },
        TaskQueue.COLLECT: {"activities": [twin.collect_pages, twin.collect_shard]},
        TaskQueue.EXTRACT: {"activities": [twin.extract_sources]},
        TaskQueue.ENTITIES: {"activities": [twin.find_entities]},
        TaskQueue.RECORDS: {"activities": [twin.extract_records]},
        TaskQueue.CLEANUP: {
            "workflows": [CleanupWorkflow, ProjectCleanupWorkflow, ForgettingWorkflow],
            "activities": [
                twin.begin_cleanup,
                twin.delete_vectors,
                twin.delete_sources,
                twin.purge_dead_letters,
                twin.verify_cleanup,
                twin.erase_history,
                twin.fail_cleanup,
                twin.begin_project_cleanup,
                twin.list_project_jobs,
                twin.close_project_cleanup,
                twin.list_replaced_sources,
            ],
        },
    }
    throttle = timedelta(seconds=0.1)
    return [
        Worker(
            client,
            task_queue=queue.value,
            workflow_runner=SANDBOX,
            max_heartbeat_throttle_interval=throttle,
            default_heartbeat_throttle_interval=throttle,
            **registration,
        )
        for queue, registration in registrations.items()
    ]
