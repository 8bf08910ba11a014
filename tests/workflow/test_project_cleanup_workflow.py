"""The cleanup of a project as Temporal runs it."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from ke.contracts.cleanup import CleanupInput
from ke.contracts.naming import CLEANUP_WORKFLOW, TaskQueue, cleanup_id
from tests.workflow.stage import Stage


async def test_each_job_is_cleaned_as_a_part_of_the_receipt(stage: Stage) -> None:
    """Every job has a cleanup of its own, run after run of the workflow, and one receipt sums them."""
    handle = await stage.clean_project(n_jobs=3, jobs_a_run=2, delete_record=True)
    receipt = await handle.result()
    receipt_id = f"cleanup-project-{stage.projects[0]}-{handle.first_execution_run_id}"
    assert (receipt.id, receipt.jobs, receipt.error) == (receipt_id, 3, None)
    expected = {CleanupInput(job, delete_record=True, part_of=receipt_id) for job in stage.twin.project_jobs}
    assert set(stage.twin.cleaned) == expected
    assert len(await stage.histories(handle.id)) == 2


async def test_project_with_active_jobs_is_not_begun(stage: Stage) -> None:
    """What refuses to begin ends the workflow, and no job is touched."""
    stage.twin.failing["begin_project_cleanup"] = ApplicationError("Busy.", type="conflict", non_retryable=True)
    handle = await stage.clean_project()
    with pytest.raises(WorkflowFailureError):
        await handle.result()
    assert stage.twin.attempts["begin_cleanup"] == 0


async def test_jobs_that_cannot_be_cleaned_are_named(stage: Stage) -> None:
    """What one job's cleanup meets is told in the end, with the first reasons; all others are tried."""
    stage.twin.failing["begin_cleanup"] = ApplicationError("Others work on it.", type="conflict", non_retryable=True)
    handle = await stage.clean_project(n_jobs=11)
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    (end,) = stage.twin.project_ends
    assert (end.jobs, stage.twin.attempts["begin_cleanup"]) == (11, 11)
    assert end.error is not None
    assert end.error.startswith("11 of 11 jobs could not be cleaned: job ")
    assert end.error.count("Others work on it.") == 10
    assert end.error.endswith("; and 1 more")
    assert isinstance(caught.value.cause, ApplicationError)
    assert (caught.value.cause.type, caught.value.cause.message) == ("cleanup-incomplete", end.error)


async def test_cleanup_of_a_job_that_is_at_work_is_waited_for(stage: Stage) -> None:
    """A job that somebody cleans already is waited for, and then looked at again: its record may still have to go."""
    stage.twin.holding["verify_cleanup"] = gate = stage.gate()
    stage.twin.holding["begin_project_cleanup"] = begin = stage.gate()
    handle = await stage.clean_project(n_jobs=1, delete_record=True)
    (job,) = stage.twin.project_jobs
    other = await stage.client.start_workflow(
        CLEANUP_WORKFLOW, CleanupInput(job), id=cleanup_id(job), task_queue=TaskQueue.CLEANUP.value
    )
    begin.set()
    await stage.until(lambda: stage.twin.attempts["list_project_jobs"] == 1)
    await stage.until_timer(handle)
    gate.set()
    assert await stage.ended(other) is WorkflowExecutionStatus.COMPLETED
    assert (await handle.result()).jobs == 1
    assert [cleanup.delete_record for cleanup in stage.twin.cleaned] == [False, True]


async def test_cancel_takes_up_no_further_job(stage: Stage) -> None:
    """The receipt says that it was cancelled; the cleanups that are at work go on and end well."""
    stage.twin.holding["verify_cleanup"] = gate = stage.gate()
    handle = await stage.clean_project(n_jobs=6, jobs_a_run=3)
    await stage.until(lambda: stage.twin.attempts["verify_cleanup"] == 3)
    await handle.cancel(reason="not now")
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    assert isinstance(caught.value.cause, CancelledError)
    (end,) = stage.twin.project_ends
    assert "cancelled: not now" in (end.error or "")
    gate.set()
    for job in stage.twin.project_jobs[:3]:
        child = stage.client.get_workflow_handle(cleanup_id(job))
        assert await stage.ended(child) is WorkflowExecutionStatus.COMPLETED
    assert stage.twin.attempts["begin_cleanup"] == 3
