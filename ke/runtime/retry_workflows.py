"""What gateway and worker ask of Temporal about retries of dead letters."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from ke.contracts.jobs import JobError, JobKind
from ke.contracts.naming import JOB_KIND, PROJECT, RETRY_WORKFLOW, TaskQueue, retry_id
from ke.contracts.retries import CloseRetry, RetryInput, RetryOutcome, RetryStatus
from ke.runtime.temporal_client import RPC_TIMEOUT_S, erase_workflow

_REQUEST: Final = "request"

Calling = Callable[[float], AbstractAsyncContextManager[tuple[Client, timedelta]]]
"""Gives the client and the deadline for one call of so many seconds, errors translated."""


@dataclass(frozen=True, slots=True)
class RetryExecution:
    """A retry's workflow as Temporal sees it."""

    run_id: str
    status: WorkflowExecutionStatus | None
    request: str | None
    """Names the request that started it."""

    @property
    def is_open(self) -> bool:
        """Whether it still runs."""
        return self.status is WorkflowExecutionStatus.RUNNING


class RetryWorkflows:
    """The workflows of retries.

    Every method raises `TemporalUnavailable` when Temporal does not answer within its deadline.
    """

    def __init__(self, calling: Calling) -> None:
        self._calling = calling

    async def start(self, retry: RetryInput, *, kind: JobKind, project: str, request: str) -> None:
        """Starts a retry's workflow.

        Args:
            retry: What it is to do.
            kind: Of its job.
            project: Of its job.
            request: Names this very request, so that its outcome can be found out when the answer is lost.

        Raises:
            WorkflowAlreadyStartedError: There is an open workflow of this id.
        """
        attributes = (SearchAttributePair(JOB_KIND, kind.value), SearchAttributePair(PROJECT, project))
        async with self._calling(RPC_TIMEOUT_S) as (client, deadline):
            await client.start_workflow(
                RETRY_WORKFLOW,
                retry,
                id=retry.id,
                task_queue=TaskQueue.JOBS.value,
                result_type=RetryOutcome,
                # A closed one of this id has never written its row: its start was lost, and it with that.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                memo={_REQUEST: request},
                search_attributes=TypedSearchAttributes(attributes),
                static_summary=f"retry {retry.number} of dead letters · {project} · job {retry.job_id}",
                rpc_timeout=deadline,
            )

    async def find(self, workflow_id: str, *, timeout_s: float = RPC_TIMEOUT_S) -> RetryExecution | None:
        """A retry's workflow; None when Temporal does not know it."""
        try:
            async with self._calling(timeout_s) as (client, deadline):
                found = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=deadline)
                memo = await found.memo()
        except RPCError:  # only NOT_FOUND comes through
            return None
        return RetryExecution(found.run_id, found.status, memo.get(_REQUEST))

    async def end_of(self, workflow_id: str, job_id: str, execution: RetryExecution) -> CloseRetry:
        """How a closed workflow ended, as its row is to be closed."""
        failed = CloseRetry(workflow_id, job_id, RetryStatus.FAILED)
        match execution.status:
            case WorkflowExecutionStatus.CANCELED:
                return CloseRetry(workflow_id, job_id, RetryStatus.CANCELLED)
            case WorkflowExecutionStatus.TERMINATED:
                return _because(failed, "terminated", "The retry's workflow was terminated from outside.")
            case WorkflowExecutionStatus.TIMED_OUT:
                return _because(failed, "timed-out", "The retry's workflow ran out of time.")
        try:
            async with self._calling(RPC_TIMEOUT_S) as (client, deadline):
                handle = client.get_workflow_handle(workflow_id, run_id=execution.run_id, result_type=RetryOutcome)
                outcome: RetryOutcome = await handle.result(follow_runs=False, rpc_timeout=deadline)
        except WorkflowFailureError as error:
            kind = error.cause.type if isinstance(error.cause, ApplicationError) else None
            return _because(failed, kind or "workflow-failed", str(error.cause) or "The retry's workflow failed.")
        except RPCError:  # only NOT_FOUND comes through
            return _because(failed, "workflow-lost", "Temporal does not know the retry's workflow any more.")
        return CloseRetry(workflow_id, job_id, outcome.status, outcome.error)

    async def cancel(self, workflow_id: str, reason: str) -> bool:
        """Asks for the cancellation; False when there is no open workflow."""
        try:
            async with self._calling(RPC_TIMEOUT_S) as (client, deadline):
                await client.get_workflow_handle(workflow_id).cancel(reason=reason, rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return False
        return True

    async def terminate(self, workflow_id: str, reason: str) -> None:
        """Ends a workflow at once; one that is closed, or not there, is no error."""
        try:
            async with self._calling(RPC_TIMEOUT_S) as (client, deadline):
                await client.get_workflow_handle(workflow_id).terminate(reason=reason, rpc_timeout=deadline)
        except RPCError:  # only NOT_FOUND comes through
            return

    async def erase(self, job_id: str, number: int) -> None:
        """Deletes the histories of a job's first `number` retries, whose slices hold URLs; a lost one is no error."""
        for each in range(1, number + 1):
            async with self._calling(RPC_TIMEOUT_S) as (client, _):
                connected = client
            await erase_workflow(connected, retry_id(job_id, each))


def _because(close: CloseRetry, kind: str, message: str) -> CloseRetry:
    return CloseRetry(close.id, close.job_id, close.status, JobError(kind, message))
