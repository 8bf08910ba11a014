"""What a job hands over when its history has grown long."""

import asyncio

from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowExecutionStatus, WorkflowHandle

from ke.contracts.jobs import CarriedState, CrawlLimits, JobStatus, Lane, LimitsChange
from ke.contracts.naming import JOB_STATUS
from tests.workflow.stage import PATIENCE_S, Stage, count_events
from workflows.job import JobWorkflow

BOTH = (Lane.COLLECT, Lane.EXTRACT)
ENDLESS = 1_000_000


async def test_both_lanes_are_drained_first(short_stage: Stage) -> None:
    """A run that continues as new leaves no activity behind, and the job runs on to its end over several runs."""
    for lane in BOTH:
        short_stage.twin.lanes[lane].slices = 12
    handle = await short_stage.start(*BOTH)
    outcome = await short_stage.outcome(handle)
    runs = await short_stage.histories(handle.id)
    assert len(runs) >= 2
    for run in runs:
        scheduled = count_events(run, EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED)
        assert scheduled == count_events(run, EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED)
    assert outcome.status is JobStatus.COMPLETED
    assert [len(short_stage.twin.lanes[lane].started) for lane in BOTH] == [12, 12]
    assert short_stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED]
    assert (await handle.describe()).typed_search_attributes[JOB_STATUS] == "completed"


async def test_limits_and_done_lanes_are_carried_over(short_stage: Stage) -> None:
    """The next run knows the limits in force and starts no lane that is done."""
    script = short_stage.twin.lanes[Lane.COLLECT]
    short_stage.twin.lanes[Lane.EXTRACT].slices = 1
    handle = await short_stage.running(*BOTH)
    await handle.execute_update(JobWorkflow.set_limits, LimitsChange(max_pages=7))
    script.slices = 16
    script.finish.set()
    await short_stage.outcome(handle)
    assert len(await short_stage.histories(handle.id)) >= 2
    assert [piece.spec.limits.max_pages for piece in script.started] == [100] + [7] * (len(script.started) - 1)
    assert len(short_stage.twin.lanes[Lane.EXTRACT].started) == 1


async def test_carried_state_is_kept(stage: Stage) -> None:
    """A run that takes up another one's job has its limits, and leaves the lanes that are done alone."""
    carried = CarriedState(epoch=1, limits=CrawlLimits(max_pages=3), extract_done=True)
    stage.twin.lanes[Lane.COLLECT].finish.set()
    handle = await stage.start(*BOTH, carried=carried)
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert [piece.spec.limits.max_pages for piece in stage.twin.lanes[Lane.COLLECT].started] == [3]
    assert not stage.twin.lanes[Lane.EXTRACT].started


async def test_cancel_around_it_is_not_lost(short_stage: Stage) -> None:
    """Jobs that continue as new all the time hear a cancel whenever it comes, with its reason."""
    for lane in BOTH:
        short_stage.twin.lanes[lane].slices = ENDLESS
    handles = [await short_stage.start(*BOTH) for _ in range(3)]
    for number, handle in enumerate(handles):
        await _continued(short_stage, handle)
        await handle.cancel(reason=f"number {number}")
    statuses = [await short_stage.ended(handle) for handle in handles]
    assert statuses == [WorkflowExecutionStatus.CANCELED] * 3
    rows = [short_stage.twin.rows[job_id] for job_id in short_stage.jobs]
    assert [row.receipt.reason for row in rows] == [f"number {number}" for number in range(3)]
    assert {row.status for row in rows} == {JobStatus.CANCELLED}


async def test_signals_around_it_are_not_lost(short_stage: Stage) -> None:
    """A `cancel_and_clean` to a job that continues as new all the time stops and cleans it."""
    for lane in BOTH:
        short_stage.twin.lanes[lane].slices = ENDLESS
    handle = await short_stage.start(*BOTH)
    await _continued(short_stage, handle)
    current = short_stage.client.get_workflow_handle(handle.id)
    await current.signal("pause")
    await short_stage.until_row(JobStatus.PAUSED)
    await current.signal("resume")
    await short_stage.until_row(JobStatus.RUNNING)
    await current.signal("cancel_and_clean")
    assert await short_stage.ended(handle) is WorkflowExecutionStatus.COMPLETED
    assert short_stage.twin.row.status is JobStatus.CANCELLED
    assert await short_stage.ended(short_stage.cleanup_of(handle)) is WorkflowExecutionStatus.COMPLETED


async def _continued(stage: Stage, handle: WorkflowHandle[object, object]) -> None:
    """Waits until the job's first run has continued as new."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await stage.client.get_workflow_handle(handle.id, run_id=handle.first_execution_run_id).describe()
            if found.status is WorkflowExecutionStatus.CONTINUED_AS_NEW:
                return
            await asyncio.sleep(0.02)
