"""A workflow and its activities as Temporal describes them, in our own terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from google.protobuf.message import Message
from temporalio.api.enums.v1 import PendingActivityState, PendingWorkflowTaskState
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus

_WAITING: Final = frozenset(
    {PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED, PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED}
)
_TASK_WAITING: Final = PendingWorkflowTaskState.PENDING_WORKFLOW_TASK_STATE_SCHEDULED


@dataclass(frozen=True, slots=True)
class PendingActivity:
    """An activity that has not ended."""

    name: str
    attempt: int
    failure: str
    """Why its last attempt failed; empty when none has."""
    failure_type: str = ""
    """The code of that failure, as in `ke/contracts/errors.py`."""
    queue: str = ""
    started_at: datetime | None = None
    """When a worker took up the attempt that runs; None when none has."""
    due_at: datetime | None = None
    """Since when a worker may take it up, or from when on."""
    heard_at: datetime | None = None
    """When its worker was last heard of; None when it sends no heartbeats."""
    is_paused: bool = False
    """Whether somebody paused it with Temporal's own tools."""

    @classmethod
    def of(cls, pending: PendingActivityInfo) -> Self:
        """What Temporal's description of a workflow says of one of its activities."""
        is_waiting = pending.state in _WAITING
        started_at = None if is_waiting else _moment(pending, "last_started_time")
        beats = pending.activity_options.heartbeat_timeout.ToTimedelta() > timedelta()
        heard_at = _moment(pending, "last_heartbeat_time")
        if started_at is not None and (heard_at is None or heard_at < started_at):
            heard_at = started_at
        return cls(
            name=pending.activity_type.name,
            attempt=pending.attempt,
            failure=pending.last_failure.message,
            failure_type=pending.last_failure.application_failure_info.type,
            queue=pending.activity_options.task_queue.name,
            started_at=started_at,
            due_at=_moment(pending, "next_attempt_schedule_time") or _moment(pending, "scheduled_time"),
            heard_at=heard_at if beats and started_at is not None else None,
            is_paused=pending.paused,
        )


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
    task_due_at: datetime | None = None
    """Since when its current workflow task waits for a worker; None when it has none, or a worker has it."""
    cancel_requested: bool = False
    """Whether its cancellation was asked for, by whomever."""

    @classmethod
    def of(cls, found: WorkflowExecutionDescription, *, request_hash: str | None) -> Self:
        """What Temporal's description of a workflow says."""
        task = found.raw_description.pending_workflow_task
        return cls(
            run_id=found.run_id,
            status=found.status,
            request_hash=request_hash,
            activities=[PendingActivity.of(pending) for pending in found.raw_description.pending_activities],
            task_attempt=task.attempt,
            task_due_at=_moment(task, "scheduled_time") if task.state == _TASK_WAITING else None,
            cancel_requested=found.raw_description.workflow_extended_info.cancel_requested,
        )

    @property
    def is_open(self) -> bool:
        """Whether it still runs."""
        return self.status is WorkflowExecutionStatus.RUNNING


def _moment(message: Message, field: str) -> datetime | None:
    """A time of a message, where it is set."""
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None
