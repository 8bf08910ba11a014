"""The job's row is opened and closed within workflow tasks, or by ordinary activities where that fails."""

from statistics import median

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from ke.contracts.jobs import JobStatus, Lane
from tests.workflow.stage import Stage, count_events

AWAY = ApplicationError("The database did not answer in time.", type="database-unavailable")
GONE = ApplicationError("The job was deleted.", type="gone", non_retryable=True)


async def test_small_job_takes_two_workflow_tasks(stage: Stage) -> None:
    """Of a job of one slice only the slice is an activity of its own; its row is written on the way."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    counts = []
    for _ in range(3):
        handle = await stage.start()
        assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
        history = await handle.fetch_history()
        kinds = (EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED)
        counts.append(tuple(count_events(history, kind) for kind in kinds))
    # On a machine that stood still in the middle of a write, one of them may have taken more.
    assert median(counts) == (1, 2)


@pytest.mark.parametrize("name", ["open_job", "close_job"])
async def test_database_that_is_away_is_waited_for_in_sight(stage: Stage, name: str) -> None:
    """Temporal shows the write that waits for the database as a pending activity, and it succeeds in the end."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.failing[name] = AWAY
    handle = await stage.start()
    await stage.until_pending_retry(handle, name)
    stage.twin.failing.clear()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED]


async def test_write_that_hangs_is_given_up_and_tried_again(stage: Stage) -> None:
    """A workflow task is not kept open for long: after two seconds an ordinary activity takes the write over."""
    stage.twin.holding["open_job"] = gate = stage.gate()
    handle = await stage.start()
    await stage.until(lambda: stage.twin.attempts["open_job"] >= 2)
    gate.set()
    stage.twin.lanes[Lane.COLLECT].finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_cancel_while_the_row_is_opened(stage: Stage) -> None:
    """A cancel that comes during the first write is heard after it, and ends the job."""
    stage.twin.holding["open_job"] = gate = stage.gate()
    handle = await stage.start()
    await stage.until(lambda: stage.twin.attempts["open_job"])
    await handle.cancel(reason="too late")
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen[-2:] == [JobStatus.CANCELLING, JobStatus.CANCELLED]
    assert stage.twin.row.receipt.reason == "too late"


async def test_refusal_is_final(stage: Stage) -> None:
    """A write that is refused for good fails the job, by the ordinary activity and with its error."""
    stage.twin.failing["close_job"] = GONE
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.start()
    with pytest.raises(WorkflowFailureError) as failure:
        await stage.outcome(handle)
    assert failure.value.cause.cause.type == "gone"
    assert stage.twin.attempts["close_job"] == 2
