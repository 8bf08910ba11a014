"""Pause and resume, by bare signals."""

from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError

from ke.contracts.jobs import PAUSED_NOTE, JobStatus, Lane
from tests.workflow.stage import Stage, late_worker
from workflows.job import JobWorkflow

BOTH = (Lane.COLLECT, Lane.EXTRACT)


async def test_pause_hands_slices_back_and_resume_starts_new_ones(stage: Stage) -> None:
    """Bare `pause` ends all running slices and the row says so; bare `resume` goes on with new ones."""
    handle = await stage.running(*BOTH)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    scripts = [stage.twin.lanes[lane] for lane in BOTH]
    assert [(script.running, script.handed_back, len(script.started)) for script in scripts] == [(0, 1, 1)] * 2
    # The workflow hears of it a moment after the row was written.
    progress = await stage.until_progress(handle, lambda progress: progress.status is JobStatus.PAUSED)
    assert progress.waiting_for == PAUSED_NOTE
    await handle.signal("resume")
    await stage.until(lambda: all(script.running for script in scripts))
    assert [len(script.started) for script in scripts] == [2, 2]
    for script in scripts:
        script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    running, paused = JobStatus.RUNNING, JobStatus.PAUSED
    assert stage.twin.row.seen == [JobStatus.QUEUED, running, paused, running, JobStatus.COMPLETED]


async def test_lane_that_is_done_is_not_started_again(stage: Stage) -> None:
    """After a pause only the lanes with work left go on."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.running(*BOTH)
    await stage.until_progress(handle, lambda progress: progress.collect_done)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: len(stage.twin.lanes[Lane.EXTRACT].started) == 2)
    stage.twin.lanes[Lane.EXTRACT].finish.set()
    await stage.outcome(handle)
    assert len(stage.twin.lanes[Lane.COLLECT].started) == 1


async def test_paused_job_can_be_cancelled(stage: Stage) -> None:
    """A cancel of a paused job ends it; there was nothing to wait for."""
    handle = await stage.running()
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen[-3:] == [JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.CANCELLED]
    assert stage.twin.row.receipt.activities_drained == 0
    progress = await handle.query(JobWorkflow.progress)
    assert (progress.status, progress.waiting_for) == (JobStatus.CANCELLED, "")


async def test_cancel_right_after_pause(stage: Stage) -> None:
    """A cancel while the slices still answer the pause counts them, and the job is never paused."""
    handle = await stage.running(*Lane)
    await handle.signal("pause")
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen[-2:] == [JobStatus.CANCELLING, JobStatus.CANCELLED]
    assert [stage.twin.lanes[lane].handed_back for lane in BOTH] == [1, 1]


async def test_paused_job_can_be_cancelled_by_signal(stage: Stage) -> None:
    """`cancel_and_clean` reaches a paused job too."""
    handle = await stage.running()
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("cancel_and_clean")
    assert (await stage.outcome(handle)).status is JobStatus.CANCELLED
    assert await stage.ended(stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED


async def test_pause_before_anything_runs(stage: Stage) -> None:
    """A job that is paused before its first slice starts none until it is resumed."""
    handle = await stage.start(task_queue="late-pause")
    await handle.signal("pause")
    async with late_worker(stage, "late-pause"):
        await stage.until_row(JobStatus.PAUSED)
        script = stage.twin.lanes[Lane.COLLECT]
        assert not script.started
        script.finish.set()
        await handle.signal("resume")
        assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert len(script.started) == 1


async def test_resume_of_a_running_job_changes_nothing(stage: Stage) -> None:
    """A `resume` without a pause disturbs no slice."""
    handle = await stage.running()
    await handle.signal("resume")
    await handle.query(JobWorkflow.progress)
    stage.twin.lanes[Lane.COLLECT].finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert len(stage.twin.lanes[Lane.COLLECT].started) == 1
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED]


async def test_outage_while_pausing_does_not_fail_the_job(stage: Stage) -> None:
    """A slice that cannot commit when it is told to pause is done again after the pause."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.on_stop = ApplicationError("The database did not answer in time.", type="database-unavailable")
    handle = await stage.running()
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: len(script.started) == 2)
    script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_final_error_while_pausing_fails_the_job(stage: Stage) -> None:
    """A slice that fails for good when it is told to pause fails the job, paused or not."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.on_stop = ApplicationError("It cannot be done.", type="invalid-input", non_retryable=True)
    handle = await stage.running()
    await handle.signal("pause")
    assert await stage.ended(handle) is WorkflowExecutionStatus.FAILED
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED]


async def test_resume_before_the_slices_answered_the_pause(stage: Stage) -> None:
    """A job paused and resumed in one breath goes on with new slices, and hears the next pause and cancel."""
    gate = stage.gate()
    scripts = [stage.twin.lanes[lane] for lane in BOTH]
    for script in scripts:
        script.answer = gate
    handle = await stage.running(*BOTH)
    await handle.signal("pause")
    # Else the workflow may take up both signals at once, and is never paused.
    await stage.until_progress(handle, lambda progress: progress.waiting_for == PAUSED_NOTE)
    await handle.signal("resume")
    for _ in range(2):
        await handle.signal("pause")
        await handle.signal("resume")
    gate.set()
    await stage.until(lambda: all(script.running and len(script.started) > 1 for script in scripts))
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: all(script.running for script in scripts))
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen[-1] is JobStatus.CANCELLED
