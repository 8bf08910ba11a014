"""A job's run: its lanes, its row, its limits, its failures, and what it shows."""

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowUpdateFailedError
from temporalio.exceptions import ApplicationError

from ke.contracts.jobs import CrawlLimits, JobError, JobStatus, Lane, LimitsChange
from ke.contracts.naming import JOB_KIND, JOB_STATUS, PROJECT
from tests.workflow.stage import Stage, late_worker
from workflows.job import JobWorkflow

BROKEN = ApplicationError("It cannot be done.", type="invalid-input", non_retryable=True)
FENCED = ApplicationError("The job was stopped.", type="fenced", non_retryable=True)
BOTH = (Lane.COLLECT, Lane.EXTRACT)
ALL = (*BOTH, Lane.ENTITIES)


@pytest.mark.parametrize(
    "lanes",
    [(Lane.COLLECT,), (Lane.EXTRACT,), BOTH, (Lane.EXTRACT, Lane.ENTITIES), (Lane.EXTRACT, Lane.RECORDS), tuple(Lane)],
    ids=["collect", "extract", "both", "extract-entities", "extract-records", "all"],
)
async def test_job_runs_its_lanes_to_completion(stage: Stage, lanes: tuple[Lane, ...]) -> None:
    """A job runs slices of the lanes it has, and only of those, until each is done; row and outcome agree."""
    for lane in Lane:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start(*lanes)
    outcome = await stage.outcome(handle)
    assert {lane for lane in Lane if stage.twin.lanes[lane].started} == set(lanes)
    assert outcome.status is JobStatus.COMPLETED
    assert outcome.counters == stage.twin.row.counters
    assert outcome.counters.pages_fetched == 2 * (Lane.COLLECT in lanes)
    assert outcome.counters.sources_extracted == 2 * (Lane.EXTRACT in lanes)
    assert outcome.counters.entity_sources == 2 * (Lane.ENTITIES in lanes)
    assert outcome.counters.records == 2 * (Lane.RECORDS in lanes)
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.COMPLETED]


async def test_slices_are_told_of_the_other_lane(stage: Stage) -> None:
    """Each lane knows whether there is another: extraction waits for pages, collecting hands sources over."""
    handle = await stage.running(*BOTH)
    (collect,), (extract,) = (stage.twin.lanes[lane].started for lane in BOTH)
    assert (collect.extract, extract.collecting) == (True, True)
    assert (collect.epoch, collect.started_at) == (extract.epoch, "2026-01-01T00:00:00+00:00")
    stage.twin.lanes[Lane.COLLECT].finish.set()
    stage.twin.lanes[Lane.EXTRACT].finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_entities_are_found_beside_extraction(stage: Stage) -> None:
    """A third lane finds entities from the start, told whether more sources come; the job ends when it is done too."""
    handle = await stage.running(*ALL)
    (extract,), (entities,) = (stage.twin.lanes[lane].started for lane in (Lane.EXTRACT, Lane.ENTITIES))
    assert (extract.entities_apart, entities.finder, entities.extracting) == (True, "spacy", True)
    assert entities.epoch == extract.epoch
    for lane in BOTH:
        stage.twin.lanes[lane].finish.set()
    progress = await stage.until_progress(handle, lambda progress: progress.slices == 2)
    assert (progress.status, progress.extract_done, progress.entities_done) == (JobStatus.RUNNING, True, False)
    stage.twin.lanes[Lane.ENTITIES].finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_entities_lane_hears_that_extraction_is_over(stage: Stage) -> None:
    """A slice that begins after the extract lane has ended does not wait for it."""
    stage.twin.lanes[Lane.EXTRACT].slices = 1
    entities = stage.twin.lanes[Lane.ENTITIES]
    handle = await stage.running(Lane.EXTRACT, Lane.ENTITIES)
    await stage.until_progress(handle, lambda progress: progress.extract_done)
    entities.more.set()
    await stage.until(lambda: len(entities.started) == 2)
    entities.finish.set()
    await stage.outcome(handle)
    assert [piece.extracting for piece in entities.started] == [True, False]


async def test_search_attributes_follow_the_state(stage: Stage) -> None:
    """Temporal's visibility shows the state the row is in, to the last."""
    handle = await stage.running()
    while_running = (await handle.describe()).typed_search_attributes
    stage.twin.lanes[Lane.COLLECT].finish.set()
    await stage.outcome(handle)
    at_the_end = (await handle.describe()).typed_search_attributes
    assert while_running[JOB_STATUS] == "running"
    assert [at_the_end[key] for key in (JOB_STATUS, JOB_KIND, PROJECT)] == ["completed", "crawl", "twins"]


async def test_progress_tells_what_the_workflow_knows(stage: Stage) -> None:
    """The query answers with the counters of finished slices, which lanes are done, and what the job waits for."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.running(*BOTH)
    progress = await stage.until_progress(handle, lambda progress: progress.slices == 1)
    assert (progress.status, progress.counters.pages_fetched) == (JobStatus.RUNNING, 1)
    assert (progress.collect_done, progress.extract_done) == (True, False)
    stage.twin.lanes[Lane.EXTRACT].finish.set()
    await stage.outcome(handle)
    ended = await handle.query(JobWorkflow.progress)
    assert (ended.status, ended.extract_done) == (JobStatus.COMPLETED, True)


# Limits


async def test_new_limits_hold_from_the_next_slice(stage: Stage) -> None:
    """`set_limits` hands the running slice back and starts the next under the new limits; the rest stays."""
    handle = await stage.running()
    limits = await handle.execute_update(JobWorkflow.set_limits, LimitsChange(max_pages=7, max_seconds=60))
    assert limits == CrawlLimits(max_pages=7, max_seconds=60)
    script = stage.twin.lanes[Lane.COLLECT]
    await stage.until(lambda: len(script.started) == 2)
    assert [piece.spec.limits.max_pages for piece in script.started] == [100, 7]
    assert script.handed_back == 1
    script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


@pytest.mark.parametrize(
    ("lanes", "follow"), [((Lane.COLLECT,), False), ((Lane.EXTRACT,), True)], ids=["scrape", "extract"]
)
async def test_only_a_crawl_has_limits(stage: Stage, lanes: tuple[Lane, ...], follow: bool) -> None:  # noqa: FBT001
    """`set_limits` is refused for a scrape and for an extraction, which go on undisturbed."""
    handle = await stage.running(*lanes, follow=follow)
    with pytest.raises(WorkflowUpdateFailedError) as refusal:
        await handle.execute_update(JobWorkflow.set_limits, LimitsChange(max_pages=7))
    assert refusal.value.cause.type == "invalid-input"
    assert "Only a crawl" in refusal.value.cause.message
    assert len(stage.twin.lanes[lanes[0]].started) == 1


async def test_limits_out_of_range_are_refused(stage: Stage) -> None:
    """Each limit has its least value, and a change below it is refused, by name and as a whole."""
    handle = await stage.running()
    for change in (
        LimitsChange(max_pages=0),
        LimitsChange(max_depth=-1),
        LimitsChange(max_bytes=0),
        LimitsChange(max_pages=9, max_seconds=0),
    ):
        with pytest.raises(WorkflowUpdateFailedError) as refusal:
            await handle.execute_update(JobWorkflow.set_limits, change)
        assert refusal.value.cause.type == "invalid-input"
        assert refusal.value.cause.message.startswith("max_")
    assert len(stage.twin.lanes[Lane.COLLECT].started) == 1


# Failures


async def test_failed_lane_stops_the_other_and_fails_the_job(stage: Stage) -> None:
    """A final error of one lane ends the other in good order; row and workflow carry its type and message."""
    stage.twin.failing["collect_pages"] = BROKEN
    stage.twin.holding["collect_pages"] = gate = stage.gate()
    handle = await stage.start(*BOTH)
    await stage.until(lambda: stage.twin.lanes[Lane.EXTRACT].running)
    gate.set()
    with pytest.raises(WorkflowFailureError) as failure:
        await stage.outcome(handle)
    assert (failure.value.cause.type, failure.value.cause.message) == ("invalid-input", "It cannot be done.")
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED]
    assert stage.twin.row.error == JobError("invalid-input", "It cannot be done.")
    assert stage.twin.lanes[Lane.EXTRACT].handed_back == 1
    assert (await handle.describe()).typed_search_attributes[JOB_STATUS] == "failed"


async def test_both_lanes_may_fail_at_once(stage: Stage) -> None:
    """Two final errors make one failed job."""
    stage.twin.failing.update(collect_pages=BROKEN, extract_sources=BROKEN)
    handle = await stage.start(*BOTH)
    assert await stage.ended(handle) is WorkflowExecutionStatus.FAILED
    assert stage.twin.row.error == JobError("invalid-input", "It cannot be done.")


async def test_passing_outage_delays_the_job_and_no_more(stage: Stage) -> None:
    """A retryable error of any activity is tried again until it works."""
    stage.twin.lanes[Lane.COLLECT].slices = 1
    away = ApplicationError("The database did not answer in time.", type="database-unavailable")
    stage.twin.failing.update(open_job=away, collect_pages=away, close_job=away)
    handle = await stage.start()
    for name in ("open_job", "collect_pages", "close_job"):
        await stage.until(lambda name=name: stage.twin.attempts[name])
        del stage.twin.failing[name]
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED


async def test_fenced_job_ends_as_its_row_says_failed(stage: Stage) -> None:
    """A job that was failed from outside while it ran ends as failed, with the row's error and not its own."""
    script = stage.twin.lanes[Lane.COLLECT]
    handle = await stage.running()
    stage.twin.row.move(JobStatus.FAILED)
    stage.twin.row.error = JobError("terminated", "The job's workflow was terminated from outside.")
    script.on_finish = FENCED
    script.finish.set()
    with pytest.raises(WorkflowFailureError) as failure:
        await stage.outcome(handle)
    assert failure.value.cause.type == "terminated"
    assert stage.twin.row.seen == [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED]


async def test_fenced_job_ends_as_its_row_says_cancelled(stage: Stage) -> None:
    """A job whose row was cancelled from outside while it ran returns that as its outcome."""
    script = stage.twin.lanes[Lane.COLLECT]
    handle = await stage.running()
    stage.twin.row.move(JobStatus.CANCELLING)
    stage.twin.row.move(JobStatus.CANCELLED)
    script.on_finish = FENCED
    script.finish.set()
    assert (await stage.outcome(handle)).status is JobStatus.CANCELLED


async def test_job_that_has_ended_before_does_nothing(stage: Stage) -> None:
    """A workflow that is started again for a job that has ended runs no slice and tells its end."""
    stage.twin.holding["open_job"] = gate = stage.gate()
    handle = await stage.start()
    await stage.until(lambda: stage.twin.attempts["open_job"])
    stage.twin.ended_before(stage.jobs[0])
    gate.set()
    assert (await stage.outcome(handle)).status is JobStatus.COMPLETED
    assert not stage.twin.lanes[Lane.COLLECT].started


# Workers come and go


@pytest.mark.parametrize("phase", ["opening", "running", "paused", "stopping", "closing"])
async def test_another_worker_takes_the_workflow_over(stage: Stage, phase: str) -> None:
    """A worker that ends gives its workflows up in good order, whatever they wait for, and the next one goes on."""
    queue, gate = f"late-{phase}", stage.gate()
    held = {"opening": "open_job", "stopping": "set_job_status", "closing": "close_job"}.get(phase)
    if held is not None:
        stage.twin.holding[held] = gate
    handle = await stage.start(*BOTH, task_queue=queue)
    async with late_worker(stage, queue):
        if phase != "opening":
            await stage.until(lambda: all(stage.twin.lanes[lane].running for lane in BOTH))
        if phase in {"stopping", "closing"}:
            await handle.signal("cancel_and_clean")
            # Else a slice could still end with all done, and the completion would come first.
            await stage.until(lambda: not any(stage.twin.lanes[lane].running for lane in BOTH))
        if phase == "paused":
            await handle.signal("pause")
            await stage.until_progress(handle, lambda progress: progress.status is JobStatus.PAUSED)
        if held is not None:
            await stage.until(lambda: stage.twin.attempts[held])
    gate.set()
    # Before there is a worker: with one, a job that is at its end may close first.
    await handle.signal("resume")
    async with late_worker(stage, queue):
        for lane in BOTH:
            stage.twin.lanes[lane].finish.set()
        outcome = await stage.outcome(handle)
    cancelled = phase in {"stopping", "closing"}
    assert outcome.status is (JobStatus.CANCELLED if cancelled else JobStatus.COMPLETED)
