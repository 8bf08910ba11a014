"""What gateway and worker ask of Temporal: each call with a deadline, each answer in our own terms."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue as TaskQueueName
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, DescribeTaskQueueRequest
from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from ke.contracts.cleanup import CleanupInput, CleanupReceipt, ProjectCleanupInput
from ke.contracts.counted import counted
from ke.contracts.errors import TemporalUnavailable
from ke.contracts.jobs import (
    PAUSED_NOTE,
    CancelRequest,
    JobError,
    JobInput,
    JobOutcome,
    JobProgress,
    JobStatus,
    Lane,
)
from ke.contracts.naming import (
    CLEANUP_WORKFLOW,
    JOB_KIND,
    JOB_STATUS,
    JOB_WORKFLOW,
    PROJECT,
    PROJECT_CLEANUP_WORKFLOW,
    RECONCILE_ID,
    RECONCILE_WORKFLOW,
    TaskQueue,
    cleanup_id,
    job_workflow_id,
    project_cleanup_id,
    project_cleanup_workflow_id,
    reconciliation_id,
    source_cleanup_id,
)
from ke.contracts.reconciling import ReconcileInput
from ke.runtime.executions import Execution
from ke.runtime.retry_workflows import RetryWorkflows
from ke.runtime.temporal_client import RPC_TIMEOUT_S, Connection, FixedConnection, erase_workflow, translated_rpc_errors

POLLER_FRESH_S: Final = 75.0
"""Temporal lists pollers for five minutes; a live one polls anew at least every minute."""
GLANCE_S: Final = 1.0
"""Seconds for a look that an answer can do without."""
NAMESPACE_FRESH_S: Final = 60.0
"""Seconds for which the namespace is taken for the same."""
_REQUEST_HASH: Final = "request_hash"


class Engine:
    """Temporal, as far as jobs and their cleanups need it.

    Every method raises `TemporalUnavailable` when Temporal does not answer within its deadline.

    Args:
        connection: Of a process that must stay up without Temporal, as the gateway must; for a worker's see `of`.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace: tuple[float, str | None] | None = None
        self.retries = RetryWorkflows(self._calling)
        """The workflows of retries of dead letters."""

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

    async def namespace_id(self, *, is_fresh: bool = False, timeout_s: float = RPC_TIMEOUT_S) -> str | None:
        """The id of the namespace that is worked in; another Temporal has another, also for the same name.

        Args:
            is_fresh: Whether Temporal must be asked now; otherwise an answer of the last minute does.
            timeout_s: Seconds.

        Returns:
            The id, or None where Temporal does not let us ask.
        """
        if self._namespace is not None and not is_fresh and time.monotonic() < self._namespace[0]:
            return self._namespace[1]
        found = await self._ask_namespace_id(timeout_s)
        self._namespace = (time.monotonic() + NAMESPACE_FRESH_S, found)
        return found

    async def _ask_namespace_id(self, timeout_s: float) -> str | None:
        async with self._calling(timeout_s) as (client, deadline):
            request = DescribeNamespaceRequest(namespace=client.namespace)
            try:
                found = await client.workflow_service.describe_namespace(request, timeout=deadline)
            except RPCError as error:
                if error.status in {RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED}:
                    return None
                raise
        return found.namespace_info.id or None

    # Jobs

    async def start_job(self, job: JobInput) -> str:
        """Starts the job's workflow; returns its run id.

        Raises:
            WorkflowAlreadyStartedError: There is, or was, a workflow of this id.
        """
        finder = job.extract.entities if job.extract is not None else None
        schema = job.extract.schema if job.extract is not None else None
        specs = (
            (Lane.COLLECT, job.collect),
            (Lane.EXTRACT, job.extract),
            (Lane.ENTITIES, finder),
            (Lane.RECORDS, schema),
        )
        lanes = [lane.value for lane, spec in specs if spec is not None]
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
        return Execution.of(found, request_hash=memo.get(_REQUEST_HASH))

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

    async def pauses(self, job_id: str) -> bool | None:
        """Whether the workflow was told to pause, carried out or not; None when that cannot be told in a second."""
        try:
            async with self._calling(GLANCE_S) as (client, deadline):
                handle = client.get_workflow_handle(job_workflow_id(job_id))
                known: JobProgress = await handle.query("progress", result_type=JobProgress, rpc_timeout=deadline)
        except (TemporalUnavailable, WorkflowQueryFailedError, WorkflowQueryRejectedError, RPCError):
            return None
        return known.waiting_for == PAUSED_NOTE

    async def start_cleanup(self, cleanup: CleanupInput) -> None:
        """Starts the cleanup of a job or a source, or joins the one that runs.

        Raises:
            WorkflowAlreadyStartedError: The job's was done before, and well. A source's can be done anew: a retry of
                the job that owns it may have stored it again.
        """
        if cleanup.source_id is None:
            key, what = cleanup_id(cleanup.job_id), f"clean up job {cleanup.job_id}"
            reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
        else:
            key, what = source_cleanup_id(cleanup.source_id), f"forget source {cleanup.source_id}"
            reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
        async with self._calling() as (client, deadline):
            await client.start_workflow(
                CLEANUP_WORKFLOW,
                cleanup,
                id=key,
                task_queue=TaskQueue.CLEANUP.value,
                result_type=CleanupReceipt,
                id_reuse_policy=reuse,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=what,
                rpc_timeout=deadline,
            )

    async def start_project_cleanup(self, cleanup: ProjectCleanupInput) -> str:
        """Starts the cleanup of a project, or joins the one that runs; returns the id of its receipt."""
        key = project_cleanup_workflow_id(cleanup.project)
        async with self._calling() as (client, deadline):
            handle = await client.start_workflow(
                PROJECT_CLEANUP_WORKFLOW,
                cleanup,
                id=key,
                task_queue=TaskQueue.CLEANUP.value,
                result_type=CleanupReceipt,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary=f"clean up project {cleanup.project}",
                rpc_timeout=deadline,
            )
            # The one that was joined may have continued as new: its receipt has the id of its first run.
            joined = client.get_workflow_handle(key, run_id=handle.result_run_id)
            found = await joined.describe(rpc_timeout=deadline)
        return project_cleanup_id(cleanup.project, _first_run_id(found))

    async def project_cleanup_is_open(self, project: str, receipt_id: str) -> bool | None:
        """Whether the run that works on this receipt is open; None when Temporal does not know it.

        Raises:
            TemporalUnavailable: Temporal does not answer within a second.
        """
        handle_id = project_cleanup_workflow_id(project)
        try:
            async with self._calling(GLANCE_S) as (client, deadline):
                found = await client.get_workflow_handle(handle_id).describe(rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return None
        is_its = project_cleanup_id(project, _first_run_id(found)) == receipt_id
        return is_its and found.status is WorkflowExecutionStatus.RUNNING

    async def cleanup_status(
        self, workflow_id: str, *, timeout_s: float = RPC_TIMEOUT_S
    ) -> WorkflowExecutionStatus | None:
        """Where the newest run of a cleanup is; None when Temporal does not know it."""
        try:
            async with self._calling(timeout_s) as (client, deadline):
                found = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return None
        return found.status

    # Reconciliations

    async def start_reconciliation(self, request: ReconcileInput) -> str:
        """Starts a reconciliation, or joins the one that runs; returns the id of its record."""
        async with self._calling() as (client, deadline):
            handle = await client.start_workflow(
                RECONCILE_WORKFLOW,
                request,
                id=RECONCILE_ID,
                task_queue=TaskQueue.CLEANUP.value,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                static_summary="asked for",
                rpc_timeout=deadline,
            )
        return reconciliation_id(handle.result_run_id or "")

    async def reconciliation_is_open(self, record_id: str) -> bool:
        """Whether the run that this record is of is open; False when Temporal does not know it."""
        run_id = record_id.removeprefix(reconciliation_id(""))
        try:
            async with self._calling(GLANCE_S) as (client, deadline):
                handle = client.get_workflow_handle(RECONCILE_ID, run_id=run_id)
                found = await handle.describe(rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return False
        return found.status is WorkflowExecutionStatus.RUNNING

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


def _first_run_id(found: WorkflowExecutionDescription) -> str:
    return found.raw_description.workflow_execution_info.first_run_id or found.run_id


def _subject(job: JobInput) -> str:
    """What a job is about, in a few words for Temporal's web UI."""
    if job.collect is not None:
        first, more = job.collect.urls[0][:80], len(job.collect.urls) - 1
        return f"{first} and {more} more" if more else first
    if job.extract is not None and job.extract.source_ids is not None:
        return counted(len(job.extract.source_ids), "source")
    return f"sources of job {job.extract.source_job_id}" if job.extract else ""
