"""The retry of dead letters: the job's lanes once more, to an end on every path."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError, CancelledError

from ke.contracts.jobs import Lane
from ke.contracts.retries import RetryOutcome, RetryStatus
from tests.workflow.stage import Stage

AWAY = ApplicationError("The database did not answer in time.", type="database-unavailable")
FENCED = ApplicationError("The job may not be written any more.", type="fenced", non_retryable=True)
BOTH = (Lane.COLLECT, Lane.EXTRACT)


async def outcome(stage: Stage, handle: WorkflowHandle[Any, RetryOutcome]) -> RetryOutcome:
    """What the workflow returns, and what it wrote at its end: they agree."""
    await stage.ended(handle)
    result = await handle.result()
    assert [close.status for close in stage.twin.closed] == [result.status]
    return result


@pytest.mark.parametrize(
    "lanes",
    [(Lane.COLLECT,), (Lane.EXTRACT,), BOTH, (Lane.ENTITIES,), (Lane.EXTRACT, Lane.RECORDS), tuple(Lane)],
    ids=["pages", "sources", "both", "entities", "records", "all"],
)
async def test_retry_runs_the_lanes_that_have_work(stage: Stage, lanes: tuple[Lane, ...]) -> None:
    """Slices run as a retry's, under its epoch and its limits, until each lane is done."""
    for lane in Lane:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start_retry(*lanes)
    result = await outcome(stage, handle)
    assert (result.status, result.letters, result.error) == (RetryStatus.COMPLETED, 3, None)
    for lane in Lane:
        assert len(stage.twin.lanes[lane].started) == (2 if lane in lanes else 0)
    assert {piece.epoch for lane in lanes for piece in stage.twin.lanes[lane].started} == {2}
    for piece in stage.twin.lanes[Lane.COLLECT].started:
        assert (piece.retrying, piece.spec) == (True, stage.twin.retry.collect)


async def test_nothing_left_to_do_is_an_end(stage: Stage) -> None:
    """A retry whose letters were purged before it began completes."""
    handle = await stage.start_retry()
    assert (await outcome(stage, handle)).status is RetryStatus.COMPLETED


async def test_cancel_in_the_middle_waits_for_both_lanes(stage: Stage) -> None:
    """A cancelled retry drains its slices, buries what is left, and Temporal shows it cancelled."""
    handle = await stage.retrying(*BOTH)
    await handle.cancel(reason="enough")
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, CancelledError)
    assert [stage.twin.lanes[lane].handed_back for lane in BOTH] == [1, 1]
    assert [(close.status, close.error) for close in stage.twin.closed] == [(RetryStatus.CANCELLED, None)]


async def test_cancel_before_it_opened_closes_it(stage: Stage) -> None:
    """A retry that waits for a store to open is cancelled all the same, and its end is written."""
    stage.twin.failing["open_retry"] = AWAY
    handle = await stage.start_retry(Lane.COLLECT)
    await stage.until_pending_retry(handle, "open_retry")
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert [close.status for close in stage.twin.closed] == [RetryStatus.CANCELLED]
    assert not stage.twin.lanes[Lane.COLLECT].started


async def test_cancel_while_it_opens_is_no_completion(stage: Stage) -> None:
    """A retry whose opening answers the cancel before it has queued anything is cancelled, not done."""
    stage.twin.holding["open_retry"] = gate = asyncio.Event()
    handle = await stage.start_retry()
    await stage.until(lambda: stage.twin.attempts["open_retry"] == 1)
    await handle.cancel()
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert [(close.status, close.error) for close in stage.twin.closed] == [(RetryStatus.CANCELLED, None)]


async def test_cancel_while_its_end_is_written_comes_too_late(stage: Stage) -> None:
    """A cancel that comes when all is done does not undo it, even if the last write must be tried again."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.failing["close_retry"] = AWAY
    handle = await stage.start_retry(Lane.COLLECT)
    await stage.until_pending_retry(handle, "close_retry")
    await handle.cancel()
    stage.twin.failing.clear()
    assert (await outcome(stage, handle)).status is RetryStatus.COMPLETED


async def test_completion_in_the_same_moment_beats_the_cancel(stage: Stage) -> None:
    """When the last slice answers the cancel with its lane done, the retry has completed."""
    stage.twin.lanes[Lane.COLLECT].done_on_stop = True
    handle = await stage.retrying(Lane.COLLECT)
    await handle.cancel()
    assert (await outcome(stage, handle)).status is RetryStatus.COMPLETED


async def test_fenced_retry_fails_with_that_type(stage: Stage) -> None:
    """A slice that may not write any more stops the other lane, and the retry ends as failed, `fenced`."""
    handle = await stage.retrying(*BOTH)
    stage.twin.lanes[Lane.COLLECT].on_finish = FENCED
    stage.twin.lanes[Lane.COLLECT].finish.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.FAILED
    assert stage.twin.lanes[Lane.EXTRACT].handed_back == 1
    (close,) = stage.twin.closed
    assert (close.status, close.error and close.error.type) == (RetryStatus.FAILED, "fenced")
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert getattr(failure.value.cause, "type", None) == "fenced"


async def test_retry_that_cannot_open_fails(stage: Stage) -> None:
    """A job that was cleaned before its retry began makes it fail, and nothing runs."""
    stage.twin.failing["open_retry"] = FENCED
    handle = await stage.start_retry(Lane.COLLECT)
    assert await stage.ended(handle) is WorkflowExecutionStatus.FAILED
    assert [close.status for close in stage.twin.closed] == [RetryStatus.FAILED]
    assert not stage.twin.lanes[Lane.COLLECT].started


async def test_passing_outage_delays_it_and_no_more(stage: Stage) -> None:
    """A slice that fails retryably is tried again, and the retry completes."""
    stage.twin.failing["collect_pages"] = AWAY
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.start_retry(Lane.COLLECT)
    await stage.until_pending_retry(handle, "collect_pages")
    stage.twin.failing.clear()
    assert (await outcome(stage, handle)).status is RetryStatus.COMPLETED


async def test_long_retry_continues_as_new(short_stage: Stage) -> None:
    """A retry with a long history goes on in a new run, which takes nothing up a second time."""
    short_stage.twin.lanes[Lane.COLLECT].slices = 16
    short_stage.twin.lanes[Lane.EXTRACT].slices = 1
    handle = await short_stage.start_retry(*BOTH)
    latest = short_stage.client.get_workflow_handle(handle.id, result_type=RetryOutcome)
    assert (await outcome(short_stage, latest)).status is RetryStatus.COMPLETED
    assert len(await short_stage.histories(handle.id)) >= 2
    assert short_stage.twin.attempts["open_retry"] == 1
    assert len(short_stage.twin.lanes[Lane.EXTRACT].started) == 1
    assert {piece.epoch for piece in short_stage.twin.lanes[Lane.COLLECT].started} == {2}


async def test_progress_tells_what_the_workflow_knows(stage: Stage) -> None:
    """The `progress` query answers while slices run, with what the last finished ones counted."""
    stage.twin.retry = replace(stage.twin.retry, letters=5)
    handle = await stage.retrying(Lane.COLLECT)
    progress = await handle.query("progress")
    assert (progress["letters"], progress["collect_done"], progress["extract_done"]) == (5, False, True)
    stage.twin.lanes[Lane.COLLECT].finish.set()
    assert (await outcome(stage, handle)).status is RetryStatus.COMPLETED
