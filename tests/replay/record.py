"""Records the histories that `test_replay.py` replays: `.venv/bin/python -m tests.replay.record`.

Runs the real workflows on a dev server with the twins of `tests/workflow`, and overwrites `histories/`. The README
beside this says when to do that, and when not to.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from temporalio.client import WorkflowFailureError, WorkflowHistory
from temporalio.exceptions import ApplicationError

from ke.contracts.cleanup import CleanupInput
from ke.contracts.jobs import CancelRequest, JobStatus, Lane, LimitsChange
from ke.contracts.naming import (
    CLEANUP_WORKFLOW,
    RECONCILE_ID,
    RECONCILE_SCHEDULE,
    RECONCILE_WORKFLOW,
    SCHEDULED_RECONCILE_WORKFLOW,
    TaskQueue,
    cleanup_id,
    source_cleanup_id,
)
from ke.contracts.reconciling import Finding, FindingKind, ReconcileInput
from tests.workflow.reconcile_twin import reconciling
from tests.workflow.stage import Stage, open_temporal, working
from workflows.job import JobWorkflow

FOLDER: Final = Path(__file__).parent / "histories"
ROOT: Final = Path(__file__).parents[2]
RECORDER: Final = "recorder"
MAX_BYTES: Final = 100_000
BOTH: Final = (Lane.COLLECT, Lane.EXTRACT)
ALL: Final = (*BOTH, Lane.ENTITIES)

Scenario = Callable[[Stage], Awaitable[Mapping[str, WorkflowHistory]]]


async def _success(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in BOTH:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start(*BOTH)
    await stage.ended(handle)
    return {"success": await handle.fetch_history()}


async def _at_once(stage: Stage) -> Mapping[str, WorkflowHistory]:
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.start()
    await stage.ended(handle)
    return {"at_once": await handle.fetch_history()}


async def _not_at_once(stage: Stage) -> Mapping[str, WorkflowHistory]:
    away = ApplicationError("The database did not answer in time.", type="database-unavailable")
    stage.twin.lanes[Lane.COLLECT].slices = 1
    stage.twin.failing.update(open_job=away, close_job=away)
    handle = await stage.start()
    for name in ("open_job", "close_job"):
        await stage.until_pending_retry(handle, name)
        del stage.twin.failing[name]
    await stage.ended(handle)
    return {"not_at_once": await handle.fetch_history()}


async def _entities(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in ALL:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start(*ALL)
    await stage.ended(handle)
    return {"entities": await handle.fetch_history()}


async def _entities_cancel(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.running(*ALL)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: all(stage.twin.lanes[lane].running for lane in ALL))
    await handle.cancel(reason="wrong site")
    await stage.ended(handle)
    return {"entities_cancel": await handle.fetch_history()}


async def _entities_retry_of_letters(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in ALL:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start_retry(*ALL)
    await stage.ended(handle)
    return {"letters_entities_retried": await handle.fetch_history()}


async def _records(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in Lane:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start(*Lane)
    await stage.ended(handle)
    return {"records": await handle.fetch_history()}


async def _records_retry_of_letters(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in Lane:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start_retry(*Lane)
    await stage.ended(handle)
    return {"letters_records_retried": await handle.fetch_history()}


async def _cancel(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.running(*BOTH)
    await handle.cancel(reason="wrong site")
    await stage.ended(handle)
    return {"cancel": await handle.fetch_history()}


async def _cancel_with_cleanup(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.running(*BOTH)
    await handle.signal("cancel_and_clean", CancelRequest("wrong site"))
    await handle.cancel(reason="wrong site")
    await stage.ended(handle)
    cleanup = stage.cleanup_of(handle)
    await stage.ended(cleanup)
    return {"cancel_with_cleanup": await handle.fetch_history(), "cleanup": await cleanup.fetch_history()}


async def _cleanup_second_sweep(stage: Stage) -> Mapping[str, WorkflowHistory]:
    stage.twin.fenced = False
    job_id = "00000000-0000-4000-8000-000000000000"
    handle = await stage.client.start_workflow(
        CLEANUP_WORKFLOW, CleanupInput(job_id), id=cleanup_id(job_id), task_queue=TaskQueue.CLEANUP.value
    )
    await stage.ended(handle)
    return {"cleanup_second_sweep": await handle.fetch_history()}


async def _cleanup_in_batches(stage: Stage) -> Mapping[str, WorkflowHistory]:
    """A job's cleanup with the points of each batch before its rows; older files have all points first."""
    job_id = "00000000-0000-4000-8000-000000000002"
    handle = await stage.client.start_workflow(
        CLEANUP_WORKFLOW, CleanupInput(job_id), id=cleanup_id(job_id), task_queue=TaskQueue.CLEANUP.value
    )
    await stage.ended(handle)
    return {"cleanup_in_batches": await handle.fetch_history()}


async def _cleanup_source(stage: Stage) -> Mapping[str, WorkflowHistory]:
    job_id, source_id = "00000000-0000-4000-8000-000000000000", "00000000-0000-4000-8000-000000000001"
    handle = await stage.client.start_workflow(
        CLEANUP_WORKFLOW,
        CleanupInput(job_id, source_id=source_id),
        id=source_cleanup_id(source_id),
        task_queue=TaskQueue.CLEANUP.value,
    )
    await stage.ended(handle)
    return {"cleanup_source": await handle.fetch_history()}


async def _project_cleanup(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.clean_project(n_jobs=3, jobs_a_run=2)
    await stage.ended(handle)
    runs = await stage.histories(handle.id)
    return {"project_cleanup": runs[0], "project_cleanup_continued": runs[-1]}


async def _forgetting(stage: Stage) -> Mapping[str, WorkflowHistory]:
    stage.has_replaced(7)
    handle = await stage.forget(sources_a_run=5)
    await stage.ended(handle)
    runs = await stage.histories(handle.id)
    return {"forgetting": runs[0], "forgetting_continued": runs[-1]}


async def _replaced(stage: Stage) -> Mapping[str, WorkflowHistory]:
    stage.has_replaced(1)
    stage.twin.lanes[Lane.COLLECT].slices = 2
    handle = await stage.start(forget_replaced=True)
    await stage.ended(handle)
    await stage.ended(stage.forgetting_of(handle))
    return {"replaced": await handle.fetch_history()}


async def _replaced_by_retry_of_letters(stage: Stage) -> Mapping[str, WorkflowHistory]:
    stage.has_replaced(1)
    stage.twin.lanes[Lane.COLLECT].slices = 2
    handle = await stage.start_retry(Lane.COLLECT, forget_replaced=True)
    await stage.ended(handle)
    await stage.ended(stage.forgetting_of(handle))
    return {"letters_replaced_retried": await handle.fetch_history()}


async def _pause_resume(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.running(*BOTH)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: all(stage.twin.lanes[lane].running for lane in BOTH))
    await _finish(stage)
    await stage.ended(handle)
    return {"pause_resume": await handle.fetch_history()}


async def _limits(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.running()
    await handle.execute_update(JobWorkflow.set_limits, LimitsChange(max_pages=7))
    await _finish(stage)
    await stage.ended(handle)
    return {"limits": await handle.fetch_history()}


async def _continue_as_new(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in BOTH:
        stage.twin.lanes[lane].slices = 12
    handle = await stage.start(*BOTH)
    await stage.ended(handle)
    runs = await stage.histories(handle.id)
    return {"continue_as_new": runs[0], "continued": runs[-1]}


async def _retry(stage: Stage) -> Mapping[str, WorkflowHistory]:
    away = ApplicationError("The database did not answer in time.", type="database-unavailable")
    stage.twin.failing["collect_pages"] = away
    stage.twin.lanes[Lane.COLLECT].slices = 1
    handle = await stage.start()
    await stage.until_pending_retry(handle, "collect_pages")
    stage.twin.failing.clear()
    await stage.ended(handle)
    return {"retry": await handle.fetch_history()}


async def _retry_of_letters(stage: Stage) -> Mapping[str, WorkflowHistory]:
    for lane in BOTH:
        stage.twin.lanes[lane].slices = 2
    handle = await stage.start_retry(*BOTH)
    await stage.ended(handle)
    return {"letters_retried": await handle.fetch_history()}


async def _cancelled_retry_of_letters(stage: Stage) -> Mapping[str, WorkflowHistory]:
    handle = await stage.retrying(*BOTH)
    await handle.cancel(reason="enough")
    await stage.ended(handle)
    return {"letters_retry_cancelled": await handle.fetch_history()}


async def _failure(stage: Stage) -> Mapping[str, WorkflowHistory]:
    broken = ApplicationError("It cannot be done.", type="invalid-input", non_retryable=True)
    stage.twin.lanes[Lane.COLLECT].on_finish = broken
    handle = await stage.running(*BOTH)
    stage.twin.lanes[Lane.COLLECT].finish.set()
    await stage.ended(handle)
    return {"failure": await handle.fetch_history()}


async def _shards(stage: Stage) -> Mapping[str, WorkflowHistory]:
    script = stage.twin.lanes[Lane.COLLECT]
    script.shards, script.idle = 4, {3}
    handle = await stage.start()
    await stage.until(lambda: script.running == 3 and len(script.started) == 5)
    script.more.set()
    await stage.until(lambda: script.running == 3 and len(script.started) == 7)
    await handle.signal("pause")
    await stage.until_row(JobStatus.PAUSED)
    await handle.signal("resume")
    await stage.until(lambda: script.running == 3)
    script.finish.set()
    await stage.ended(handle)
    return {"shards": await handle.fetch_history()}


SCENARIOS: Final[tuple[Scenario, ...]] = (
    _success,
    _at_once,
    _not_at_once,
    _cancel,
    _cancel_with_cleanup,
    _cleanup_second_sweep,
    _cleanup_in_batches,
    _cleanup_source,
    _project_cleanup,
    _pause_resume,
    _limits,
    _continue_as_new,
    _retry,
    _retry_of_letters,
    _cancelled_retry_of_letters,
    _failure,
    _entities,
    _entities_cancel,
    _entities_retry_of_letters,
    _records,
    _records_retry_of_letters,
    _shards,
    _forgetting,
    _replaced,
    _replaced_by_retry_of_letters,
)


async def _finish(stage: Stage) -> None:
    for script in stage.twin.lanes.values():
        script.finish.set()


def scrubbed(value: Any) -> Any:
    """A history without stack traces: they name files of the machine it was recorded on, and replay needs none."""
    if isinstance(value, dict):
        return {key: scrubbed(inner) for key, inner in value.items() if key != "stackTrace"}
    if isinstance(value, list):
        return [scrubbed(inner) for inner in value]
    return value


def _write(name: str, history: WorkflowHistory) -> None:
    text = json.dumps(scrubbed(history.to_json_dict()), indent=1) + "\n"
    traces = [trace for trace in (str(ROOT), str(Path.home()), socket.gethostname()) if trace in text]
    if traces or len(text) > MAX_BYTES:
        raise SystemExit(f"{name} names this machine ({traces}) or is too long: {len(text)} bytes")
    (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
    print(f"{name}: {len(history.events)} events, {len(text)} bytes")  # noqa: T201


async def record_reconciliations() -> None:
    """Records reconciliations on their own twin: one of the schedule that repairs, one too much, one cancelled."""
    wrong = {kind: Finding(kind, checked=100, found=5, at_stake=5) for kind in FindingKind}
    async with open_temporal(identity=RECORDER) as client, reconciling(client) as twin:
        twin.wrong = dict(wrong)
        queue = TaskQueue.CLEANUP.value
        scheduled = await client.start_workflow(
            SCHEDULED_RECONCILE_WORKFLOW, ReconcileInput(), id=RECONCILE_SCHEDULE, task_queue=queue
        )
        await scheduled.result()
        _write("reconcile_scheduled", await scheduled.fetch_history())
        _write("reconcile", await client.get_workflow_handle(RECONCILE_ID).fetch_history())
        twin.wrong = dict(wrong)
        stopped = await client.start_workflow(
            RECONCILE_WORKFLOW, ReconcileInput(max_share=0.01), id=RECONCILE_ID, task_queue=queue
        )
        await stopped.result()
        _write("reconcile_stopped", await stopped.fetch_history())
        twin.hanging = "compare_points"
        cancelled = await client.start_workflow(RECONCILE_WORKFLOW, ReconcileInput(), id=RECONCILE_ID, task_queue=queue)
        while twin.calls[-1] != twin.hanging:  # noqa: ASYNC110  (the worker's list: it can only be looked at)
            await asyncio.sleep(0.02)
        await cancelled.cancel(reason="not now")
        with contextlib.suppress(WorkflowFailureError):
            await cancelled.result()
        _write("reconcile_cancelled", await cancelled.fetch_history())


async def main() -> None:
    """Records all."""
    FOLDER.mkdir(exist_ok=True)
    await record_reconciliations()
    few = "limit.historyCount.suggestContinueAsNew=40"
    for config, names in (((), SCENARIOS), ((few,), (_continue_as_new,))):
        async with open_temporal(*config, identity=RECORDER) as client, working(client) as twin:
            for scenario in names:
                if bool(config) is not (scenario is _continue_as_new):
                    continue
                stage = Stage(client, twin)
                for name, history in (await scenario(stage)).items():
                    _write(name, history)
                await stage.end()


if __name__ == "__main__":
    asyncio.run(main())
