"""Cancelling a job: from wherever it comes, whenever it comes."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError

from ke.contracts.jobs import CancelRequest, JobStatus, Lane
from tests.workflow.stage import Stage, late_worker
from tests.workflow.twins import Row

AWAY = ApplicationError("The database did not answer in time.", type="database-unavailable")
CANCELLED = [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.CANCELLED]


async def test_cancel_waits_for_all_lanes(stage: Stage) -> None:
    """The row is cancelling, then cancelled once every running slice has handed back; Temporal shows it cancelled."""
    handle = await stage.running(*Lane)
    await handle.cancel(reason="wrong site")
    with pytest.raises(WorkflowFailureError) as failure:
        await stage.outcome(handle)
    assert isinstance(failure.value.cause, CancelledError)
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    row = stage.twin.row
    assert row.seen == CANCELLED
    assert (row.receipt.activities_drained, row.receipt.activities_timed_out) == (4, 0)
    assert (row.receipt.reason, row.error, row.cleaning) == ("wrong site", None, False)
    assert [stage.twin.lanes[lane].handed_back for lane in Lane] == [1, 1, 1, 1]
    assert row.receipt.requested_at <= row.receipt.quiescent_at


async def test_bare_cancel_counts(stage: Stage) -> None:
    """A cancel without any reason, as the command line sends it, is a cancel."""
    handle = await stage.running()
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen == CANCELLED
    assert stage.twin.row.receipt.reason == ""


async def test_slices_stop_before_the_record_is_written(stage: Stage) -> None:
    """A database that is away does not keep a cancelled job's slices going."""
    handle = await stage.running(Lane.COLLECT, Lane.EXTRACT)
    stage.twin.failing["set_job_status"] = AWAY
    await handle.cancel()
    await stage.until(lambda: not any(script.running for script in stage.twin.lanes.values()))
    assert stage.twin.row.status is JobStatus.RUNNING
    stage.twin.failing.clear()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.receipt.activities_drained == 2


async def test_cancel_before_a_worker_came_still_ends_the_row(stage: Stage) -> None:
    """A job cancelled before its first workflow task ends cancelled, with a result and a receipt."""
    handle = await stage.start(Lane.COLLECT, Lane.EXTRACT, task_queue="late")
    stage.twin.rows[stage.jobs[0]] = Row()
    await handle.cancel()
    async with late_worker(stage, "late"):
        assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    row = stage.twin.row
    assert row.seen == [JobStatus.QUEUED, JobStatus.CANCELLING, JobStatus.CANCELLED]
    assert (row.counters.pages_fetched, row.receipt.activities_drained) == (0, 0)
    assert not stage.twin.lanes[Lane.COLLECT].started


async def test_cancel_while_the_row_cannot_be_opened(stage: Stage) -> None:
    """A job that waits for the database to open its row is cancelled all the same."""
    stage.twin.failing["open_job"] = AWAY
    handle = await stage.start()
    stage.twin.rows[stage.jobs[0]] = Row()
    await stage.until_pending_retry(handle, "open_job")
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.CANCELLING, JobStatus.CANCELLED]


async def test_row_that_says_cancelling_is_never_completed_undone(stage: Stage) -> None:
    """A job whose row is cancelling when it opens it ends cancelled, though no cancel reached its workflow."""
    stage.twin.holding["open_job"] = gate = stage.gate()
    handle = await stage.start()
    stage.twin.rows[stage.jobs[0]] = row = Row()
    assert row.move(JobStatus.CANCELLING)
    gate.set()
    assert (await stage.outcome(handle)).status is JobStatus.CANCELLED
    assert not stage.twin.lanes[Lane.COLLECT].started


async def test_signal_alone_cancels_and_cleans(stage: Stage) -> None:
    """`cancel_and_clean` stops the job, which returns its outcome, and starts its cleanup, which survives the job."""
    stage.twin.holding["delete_sources"] = gate = stage.gate()
    handle = await stage.running(Lane.COLLECT, Lane.EXTRACT)
    await handle.signal("cancel_and_clean", CancelRequest("mistake", delete_record=True))
    outcome = await stage.outcome(handle)
    assert (outcome.status, outcome.cancellation.reason) == (JobStatus.CANCELLED, "mistake")
    assert outcome.cancellation.activities_drained == 2
    assert (stage.twin.row.seen, stage.twin.row.cleaning) == (CANCELLED, True)
    gate.set()
    assert await stage.ended(stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED
    assert [cleanup.delete_record for cleanup in stage.twin.cleaned] == [True]


async def test_bare_signal_cancels_and_cleans(stage: Stage) -> None:
    """`cancel_and_clean` needs no argument."""
    handle = await stage.running()
    await handle.signal("cancel_and_clean")
    assert (await stage.outcome(handle)).status is JobStatus.CANCELLED
    assert await stage.ended(stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED
    assert [cleanup.delete_record for cleanup in stage.twin.cleaned] == [False]


async def test_cleanup_survives_the_cancel_of_its_job(stage: Stage) -> None:
    """The gateway's way, a signal and then a cancel: Temporal shows the job cancelled and the cleanup goes on."""
    stage.twin.holding["delete_sources"] = gate = stage.gate()
    # Else the job may have ended by the signal alone.
    stage.twin.holding["set_job_status"] = cancelled = stage.gate()
    handle = await stage.running()
    await handle.signal("cancel_and_clean", CancelRequest("both"))
    await handle.cancel(reason="both")
    cancelled.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen == CANCELLED
    cleanup = stage.cleanup_of(handle)
    assert (await cleanup.describe()).status is WorkflowExecutionStatus.RUNNING
    gate.set()
    assert await stage.ended(cleanup) is WorkflowExecutionStatus.COMPLETED


@pytest.mark.parametrize("step", ["set_job_status", "close_job"])
async def test_cancel_after_the_signal_does_not_cut_the_end_short(stage: Stage, step: str) -> None:
    """A cancel that comes while the end cannot be written leaves it waiting, and it is written."""
    handle = await stage.running()
    stage.twin.failing[step] = AWAY
    await handle.signal("cancel_and_clean")
    await stage.until_pending_retry(handle, step)
    await handle.cancel()
    stage.twin.failing.clear()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.seen == CANCELLED
    assert await stage.ended(stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED


async def test_second_cancel_changes_nothing(stage: Stage) -> None:
    """The first cancel's reason and receipt stand, whatever is sent after it."""
    stage.twin.lanes[Lane.COLLECT].on_stop = AWAY
    handle = await stage.running()
    stage.twin.holding["close_job"] = gate = stage.gate()
    await handle.cancel(reason="first")
    await stage.until(lambda: stage.twin.attempts["close_job"])
    await handle.cancel(reason="second")
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert (stage.twin.row.seen, stage.twin.row.receipt.reason) == (CANCELLED, "first")
    assert stage.twin.row.receipt.activities_drained == 1


async def test_second_signal_does_not_replace_the_first(stage: Stage) -> None:
    """Of two `cancel_and_clean` the first one counts, and there is one cleanup."""
    stage.twin.holding["close_job"] = gate = stage.gate()
    handle = await stage.running()
    await handle.signal("cancel_and_clean", CancelRequest("first"))
    await handle.signal("cancel_and_clean", CancelRequest("second", delete_record=True))
    gate.set()
    assert (await stage.outcome(handle)).cancellation.reason == "first"
    await stage.ended(stage.cleanup_of(handle))
    assert [cleanup.delete_record for cleanup in stage.twin.cleaned] == [False]


async def test_completion_in_the_same_moment_beats_the_cancel(stage: Stage) -> None:
    """When the last slice answers the cancel with its lane done, the job has completed, and says so everywhere."""
    stage.twin.lanes[Lane.COLLECT].done_on_stop = True
    handle = await stage.running()
    await handle.cancel()
    outcome = await stage.outcome(handle)
    assert (outcome.status, outcome.cancellation) == (JobStatus.COMPLETED, None)
    assert await stage.ended(handle) is WorkflowExecutionStatus.COMPLETED
    assert stage.twin.row.seen == [*CANCELLED[:3], JobStatus.COMPLETED]


async def test_cancel_while_a_completed_job_is_closed_comes_too_late(stage: Stage) -> None:
    """A cancel that comes when all is done does not undo it, even if the last write must be tried again."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.failing["close_job"] = AWAY
    handle = await stage.running()
    await stage.until_pending_retry(handle, "close_job")
    await handle.cancel()
    stage.twin.failing.clear()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert stage.twin.row.seen == [*CANCELLED[:2], JobStatus.COMPLETED]


async def test_signal_while_a_completed_job_is_closed_still_cleans(stage: Stage) -> None:
    """A `cancel_and_clean` that comes too late to cancel does not forget the cleanup."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.holding["close_job"] = gate = stage.gate()
    handle = await stage.running()
    await stage.until(lambda: stage.twin.attempts["close_job"])
    await handle.signal("cancel_and_clean")
    gate.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert await stage.ended(stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED


async def test_slice_that_no_worker_had_is_not_counted_as_drained(stage: Stage) -> None:
    """The receipt counts activities that were running; one that waited for its next attempt was not."""
    stage.twin.failing["collect_pages"] = AWAY
    handle = await stage.start(Lane.COLLECT, Lane.EXTRACT)
    await stage.until(lambda: stage.twin.attempts["collect_pages"] and stage.twin.lanes[Lane.EXTRACT].started)
    await stage.until_pending_retry(handle, "collect_pages")
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    receipt = stage.twin.row.receipt
    assert (receipt.activities_drained, receipt.activities_timed_out) == (1, 0)


async def test_dead_worker_is_waited_for_and_counted(stage: Stage) -> None:
    """A slice whose worker is dead holds the job in `cancelling` until its heartbeat times out."""
    stage.twin.lanes[Lane.COLLECT].deaf = True
    handle = await stage.running(Lane.COLLECT, Lane.EXTRACT)
    await handle.cancel()
    await stage.until_row(JobStatus.CANCELLING)
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    receipt = stage.twin.row.receipt
    assert (receipt.activities_drained, receipt.activities_timed_out) == (1, 1)
    assert receipt.timed_out == ("collect_pages",)
