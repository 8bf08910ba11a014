"""A collect lane that is split: a loop of slices for each shard, and one job."""

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError

from ke.contracts.jobs import CarriedState, JobStatus, Lane, LimitsChange
from tests.workflow.stage import Stage, count_events
from workflows.job import JobWorkflow

BOTH = (Lane.COLLECT, Lane.EXTRACT)
SHARDS = 4


async def split(stage: Stage, *lanes: Lane):
    """A job whose collect lane is at work in four shards."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.shards = SHARDS
    handle = await stage.running(*lanes)
    await stage.until(lambda: script.running == SHARDS)
    return handle, script


async def test_lane_is_split_when_its_first_slice_asks_for_it(stage: Stage) -> None:
    """Then each shard has one slice at a time, and the lane is done when one of them finds it at its end."""
    handle, script = await split(stage, *BOTH)
    whole, *shards = script.started
    assert (whole.shard, whole.shards, whole.may_split) == (0, 1, True)
    assert sorted(piece.shard for piece in shards) == [0, 1, 2, 3]
    assert {(piece.shards, piece.may_split) for piece in shards} == {(SHARDS, False)}
    for lane in BOTH:
        stage.twin.lanes[lane].finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert len(script.started) == 1 + SHARDS


async def test_pause_stops_all_shards_and_resume_starts_them_again(stage: Stage) -> None:
    """The lane stays split."""
    handle, script = await split(stage)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    assert (script.running, script.handed_back) == (0, SHARDS)
    await handle.signal("resume")
    await stage.until(lambda: script.running == SHARDS)
    assert sorted(piece.shard for piece in script.started[1 + SHARDS :]) == [0, 1, 2, 3]
    script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_new_limits_reach_all_shards(stage: Stage) -> None:
    """By the same way."""
    handle, script = await split(stage)
    await handle.execute_update(JobWorkflow.set_limits, LimitsChange(max_pages=7))
    await stage.until(lambda: len(script.started) == 1 + 2 * SHARDS and script.running == SHARDS)
    assert {piece.spec.limits.max_pages for piece in script.started[1 + SHARDS :]} == {7}
    script.finish.set()
    await stage.outcome(handle)


async def test_cancel_drains_all_shards(stage: Stage) -> None:
    """The receipt counts each of them."""
    handle, script = await split(stage, *BOTH)
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert (script.running, script.handed_back) == (0, SHARDS)
    receipt = stage.twin.row.receipt
    assert (receipt.activities_drained, receipt.activities_timed_out) == (SHARDS + 1, 0)


async def test_dead_shards_are_waited_for_and_named(stage: Stage) -> None:
    """One for each slice whose worker did not answer."""
    stage.twin.lanes[Lane.COLLECT].deaf = True
    handle, _ = await split(stage)
    await handle.cancel()
    assert await stage.ended(handle) is WorkflowExecutionStatus.CANCELED
    assert stage.twin.row.receipt.timed_out == ("collect_shard",) * SHARDS


async def test_one_shard_that_fails_for_good_fails_the_job(stage: Stage) -> None:
    """The others hand back what they have first."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.shards = SHARDS
    gate = stage.gate()
    stage.twin.holding["collect_shard"] = gate
    script.failing[2] = ApplicationError("broken", type="internal", non_retryable=True)
    handle = await stage.start()
    await stage.until(lambda: stage.twin.attempts["collect_shard"] == SHARDS)
    gate.set()
    assert await stage.ended(handle) is WorkflowExecutionStatus.FAILED
    assert script.running == 0
    assert stage.twin.row.status is JobStatus.FAILED


async def test_shard_without_pages_rests_until_another_one_reports(stage: Stage) -> None:
    """It starts no slices in the meantime, and then looks again."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.shards, script.idle = SHARDS, {1, 2, 3}
    handle = await stage.start()
    await stage.until(lambda: script.running == 1 and len(script.started) == 1 + SHARDS)
    # The whole lane's and three idle reports: a shard rests when its own has been read.
    await stage.until_progress(handle, lambda progress: progress.slices == SHARDS)
    before = {piece.shard for piece in script.started[1:]}
    script.more.set()
    await stage.until(lambda: len(script.started) >= 1 + 2 * SHARDS)
    after = [piece.shard for piece in script.started[1 + SHARDS :]]
    script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert count_events(await handle.fetch_history(), EventType.EVENT_TYPE_TIMER_FIRED) == 0
    assert before == {0, 1, 2, 3}
    assert sorted(after) == [0, 1, 2, 3]


async def test_split_is_carried_over(stage: Stage) -> None:
    """A run that takes up another one's job goes on in the same shards."""
    script = stage.twin.lanes[Lane.COLLECT]
    handle = await stage.start(carried=CarriedState(epoch=1, shards=SHARDS))
    await stage.until(lambda: script.running == SHARDS)
    script.finish.set()
    await stage.outcome(handle)
    assert {piece.shards for piece in script.started} == {SHARDS}


async def test_split_job_continues_as_new(short_stage: Stage) -> None:
    """Shard by shard to the end, over several runs."""
    script = short_stage.twin.lanes[Lane.COLLECT]
    script.shards, script.slices = SHARDS, 25
    handle = await short_stage.start()
    assert (await short_stage.outcome(handle)).status is JobStatus.COMPLETED
    assert len(await short_stage.histories(handle.id)) >= 2
    assert {piece.shards for piece in script.started[1:]} == {SHARDS}


async def test_retry_is_not_split(stage: Stage) -> None:
    """What it takes up first and what it may fetch beside that is told for the lane as a whole."""
    script = stage.twin.lanes[Lane.COLLECT]
    script.shards = SHARDS
    handle = await stage.retrying(Lane.COLLECT)
    script.finish.set()
    await stage.ended(handle)
    assert [(piece.shards, piece.may_split) for piece in script.started] == [(1, False)]
