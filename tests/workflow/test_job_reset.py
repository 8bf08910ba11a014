"""Jobs whose workflow was reset to a moment before something that their row has kept."""

import uuid
from typing import Any

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle
from temporalio.exceptions import ApplicationError

from ke.contracts.errors import Stopping
from ke.contracts.jobs import JobStatus, Lane
from tests.workflow.stage import Stage
from tests.workflow.twins import Row

COMPLETED_TASK = EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED
REFUSED = ApplicationError("The job is being cancelled.", type=Stopping.code, non_retryable=True)


async def reset(stage: Stage, handle: WorkflowHandle[Any, Any]) -> None:
    """Starts a new run from the last workflow task of the first one."""
    (history,) = await stage.histories(handle.id)
    tasks = [event.event_id for event in history.events if event.event_type == COMPLETED_TASK]
    await stage.client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=stage.client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=history.run_id),
            reason="by a test",
            workflow_task_finish_event_id=tasks[-1],
            request_id=str(uuid.uuid4()),
        )
    )


async def test_reset_does_not_undo_a_cancel(stage: Stage) -> None:
    """A run that does not know of the cancel begins no slice that the row refuses, and ends cancelled."""
    handle = await stage.running()
    row = stage.twin.row
    stage.twin.failing["collect_pages"] = REFUSED
    assert row.move(JobStatus.CANCELLING)
    await reset(stage, handle)
    assert await stage.ended(handle) is WorkflowExecutionStatus.COMPLETED
    assert row.status is JobStatus.CANCELLED
    assert (row.error, row.receipt is not None) == (None, True)
    assert len(stage.twin.lanes[Lane.COLLECT].started) == 1


async def test_reset_before_the_pause_goes_on_and_says_so(stage: Stage) -> None:
    """A run that opens a row which says `paused`, and has no signal to, sets it running."""
    stage.twin.holding["open_job"] = gate = stage.gate()
    handle = await stage.start()
    await stage.until(lambda: stage.twin.attempts["open_job"])
    stage.twin.rows[stage.jobs[0]] = row = Row()
    assert row.move(JobStatus.RUNNING)
    assert row.move(JobStatus.PAUSED)
    gate.set()
    await stage.until(lambda: stage.twin.lanes[Lane.COLLECT].started)
    assert row.status is JobStatus.RUNNING
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED


async def test_resume_after_a_cancel_starts_nothing(stage: Stage) -> None:
    """A paused job that is cancelled and then resumed ends cancelled, and no slice begins."""
    handle = await stage.running()
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    before = len(stage.twin.lanes[Lane.COLLECT].started)
    stage.twin.holding["set_job_status"] = gate = stage.gate()
    await handle.cancel()
    await handle.signal("resume")
    await stage.until(lambda: stage.twin.attempts["set_job_status"] >= 2)
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen[-3:] == [JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.CANCELLED]
    assert len(stage.twin.lanes[Lane.COLLECT].started) == before
