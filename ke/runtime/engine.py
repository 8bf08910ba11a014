"""What gateway and worker ask of Temporal: each call with a deadline, each answer in our own terms."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client, WorkflowExecutionDescription, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from ke.contracts.cleanup import CleanupInput, CleanupReceipt
from ke.contracts.errors import TemporalUnavailable
from ke.contracts.jobs import CancelRequest, JobError, JobInput, JobOutcome, JobStatus
from ke.contracts.naming import (
    CLEANUP_WORKFLOW,
    JOB_KIND,
    JOB_STATUS,
    JOB_WORKFLOW,
    PROJECT,
    TaskQueue,
    cleanup_id,
    job_workflow_id,
)
from ke.runtime.temporal_client import RPC_TIMEOUT_S, Connection, FixedConnection, erase_workflow, translated_rpc_errors

POLLER_FRESH_S: Final = 75.0
"""Temporal lists pollers for five minutes; a live one polls anew at least every minute."""
GLANCE_S: Final = 1.0
"""Seconds for a look that an answer can do without."""
_REQUEST_HASH: Final = "request_hash"


@dataclass(frozen=True, slots=True)
class PendingActivity:
    """An activity that has not ended."""

    name: str
    attempt: int
    failure: str
    """Why its last attempt failed; empty when none has."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A workflow as Temporal sees it."""

    run_id: str
    status: WorkflowExecutionStatus | None
    request_hash: str | None
    """Of the submit that started it."""
    activities: Sequence[PendingActivity] = ()
    task_attempt: int = 0
    """How often its current workflow task was tried: more than once, and the workflow's own code fails."""

    @property
    def is_open(self) -> bool:
        """Whether it still runs."""
        return self.status is WorkflowExecutionStatus.RUNNING


class Engine:
    """Temporal, as far as jobs and their cleanups need it.

    Every method raises `TemporalUnavailable` when Temporal does not answer within its deadline.

    Args:
        connection: Of a process that must stay up without Temporal, as the gateway must; for a worker's see `of`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def of(cls, client: Client) -> "Engine":
        """The engine over a client that is connected already, such as a worker's own."""
        return cls(FixedConnection(client))

    async def erase_job(self, job_id: str) -> None:
        """Deletes the history of a closed job's workflow, which holds its URLs; a lost one is no error."""
        await erase_workflow(await self._connection.client(), job_workflow_id(job_id))

    @asynccontextmanager
    async def _calling(self, timeout_s: float = RPC_TIMEOUT_S) -> AsyncIterator[tuple[Client, timedelta]]:
        """Gives the client and the deadline for one call; the SDK's own retries end with it."""
        with translated_rpc_errors():
            async with asyncio.timeout(timeout_s):
                yield await self._connection.client(), timedelta(seconds=timeout_s)

    async def is_up(self) -> bool:
        """Whether Temporal answers within a second; never raises."""
        try:
            async with self._calling(GLANCE_S) as (client, deadline):
                return await client.service_client.check_health(timeout=deadline)
        except (TemporalUnavailable, RPCError):
            return False

    # Jobs

    async def start_job(self, job: JobInput) -> str:
        """Starts the job's workflow; returns its run id.

        Raises:
            WorkflowAlreadyStartedError: There is, or was, a workflow of this id.
        """
        lanes = [name for name, spec in (("collect", job.collect), ("extract", job.extract)) if spec is not None]
        attributes = (
            SearchAttributePair(JOB_KIND, job.kind.value),
            SearchAttributePair(JOB_STATUS, JobStatus.QUEUED.value),
            SearchAttributePair(PROJECT, job.project),
        )
        async with self._calling() as (client, deadline):
            handle = await client.start_workflow(
                JOB_WORKFLOW,
                job,
                id=job_workflow_id(job.job_id),
                task_queue=TaskQueue.JOBS.value,
                result_type=JobOutcome,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                memo={_REQUEST_HASH: job.request_hash},
                search_attributes=TypedSearchAttributes(attributes),
                static_summary=f"{job.kind} · {job.project} · {_subject(job)}",
                static_details=f"Lanes: {', '.join(lanes)}",
                rpc_timeout=deadline,
            )
        return handle.result_run_id or ""

    async def describe_job(self, job_id: str, *, timeout_s: float = RPC_TIMEOUT_S) -> Execution | None:
        """The job's workflow; None when Temporal does not know it."""
        try:
            async with self._calling(timeout_s) as (client, deadline):
                found = await client.get_workflow_handle(job_workflow_id(job_id)).describe(rpc_timeout=deadline)
                memo = await found.memo()
        except RPCError:  # only NOT_FOUND comes through
            return None
        return Execution(
            run_id=found.run_id,
            status=found.status,
            request_hash=memo.get(_REQUEST_HASH),
            activities=_pending(found),
            task_attempt=found.raw_description.pending_workflow_task.attempt,
        )

    async def end_of_job(self, job_id: str, execution: Execution) -> JobOutcome | JobError:
        """What a closed workflow returned, or why it did not."""
        match execution.status:
            case WorkflowExecutionStatus.TERMINATED:
                return JobError("terminated", "The job's workflow was terminated from outside.")
            case WorkflowExecutionStatus.TIMED_OUT:
                return JobError("timed-out", "The job's workflow ran out of time.")
            case WorkflowExecutionStatus.CANCELED:
                return JobOutcome(job_id, JobStatus.CANCELLED)
        try:
            async with self._calling() as (client, deadline):
                handle = client.get_workflow_handle(
                    job_workflow_id(job_id), run_id=execution.run_id, result_type=JobOutcome
                )
                outcome: JobOutcome = await handle.result(follow_runs=False, rpc_timeout=deadline)
                return outcome
        except WorkflowFailureError as error:
            cause = error.cause
            kind = cause.type if isinstance(cause, ApplicationError) else None
            return JobError(kind or "workflow-failed", str(cause) or "The job's workflow failed.")
        except RPCError:  # only NOT_FOUND comes through
            return JobError("workflow-lost", "Temporal does not know the job's workflow any more.")

    async def cancel_job(self, job_id: str, reason: str) -> bool:
        """Asks for the cancellation; False when there is no open workflow."""
        try:
            async with self._calling() as (client, deadline):
                await client.get_workflow_handle(job_workflow_id(job_id)).cancel(reason=reason, rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return False
        return True

    async def signal_job(self, job_id: str, name: str, argument: CancelRequest | None = None) -> bool:
        """Sends a signal; False when there is no open workflow."""
        arguments = [] if argument is None else [argument]
        try:
            async with self._calling() as (client, deadline):
                handle = client.get_workflow_handle(job_workflow_id(job_id))
                await handle.signal(name, args=arguments, rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return False
        return True

    # Cleanups

    async def start_cleanup(self, cleanup: CleanupInput) -> None:
        """Starts the job's cleanup, or joins the one that runs.

        Raises:
            WorkflowAlreadyStartedError: It was done before, and well.
        """
        async with self._calling() as (client, deadline):
            await client.start_workflow(
                CLEANUP_WORKFLOW,
                cleanup,
                id=cleanup_id(cleanup.job_id),
                task_queue=TaskQueue.CLEANUP.value,
                result_type=CleanupReceipt,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"clean up job {cleanup.job_id}",
                rpc_timeout=deadline,
            )

    async def cleanup_status(self, job_id: str, *, timeout_s: float = RPC_TIMEOUT_S) -> WorkflowExecutionStatus | None:
        """Where the newest run of the job's cleanup is; None when Temporal does not know it."""
        try:
            async with self._calling(timeout_s) as (client, deadline):
                found = await client.get_workflow_handle(cleanup_id(job_id)).describe(rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return None
        return found.status

    # Workers

    async def is_served(self, queue: TaskQueue) -> bool | None:
        """Whether some worker polls this queue; None when that cannot be told in a second."""
        kind = (
            TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW
            if queue is TaskQueue.JOBS
            else TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
        )
        try:
            async with self._calling(GLANCE_S) as (client, deadline):
                request = DescribeTaskQueueRequest(
                    namespace=client.namespace, task_queue=TaskQueueName(name=queue.value), task_queue_type=kind
                )
                found = await client.workflow_service.describe_task_queue(request, timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return False
        oldest = datetime.now(UTC) - timedelta(seconds=POLLER_FRESH_S)
        return any(poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest for poller in found.pollers)


def _subject(job: JobInput) -> str:
    """What a job is about, in a few words for Temporal's web UI."""
    if job.collect is not None:
        first, more = job.collect.urls[0][:80], len(job.collect.urls) - 1
        return f"{first} and {more} more" if more else first
    if job.extract is not None and job.extract.source_ids is not None:
        return f"{len(job.extract.source_ids)} sources"
    return f"sources of job {job.extract.source_job_id}" if job.extract else ""


def _pending(found: WorkflowExecutionDescription) -> list[PendingActivity]:
    return [
        PendingActivity(activity.activity_type.name, activity.attempt, activity.last_failure.message)
        for activity in found.raw_description.pending_activities
    ]
