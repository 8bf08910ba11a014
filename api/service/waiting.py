"""Why a job does not move: what its workflow, its activities and its lanes wait for."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from api.resources import Gateway
from api.service import states
from api.views import LaneMap
from ke.contracts.errors import DatabaseUnavailable, ModelUnavailable, TemporalUnavailable, VectorStoreUnavailable
from ke.contracts.jobs import JobStatus, Lane
from ke.contracts.naming import TaskQueue
from ke.runtime.executions import Execution, PendingActivity
from ke.runtime.settling import Sighting
from ke.storage.jobs import JobRow

WAITS_LONG_S: Final = 3.0
"""Seconds without a worker after which that is worth telling, where workers are there and only busy."""
SILENT_S: Final = 5.0
"""Seconds without a heartbeat after which a worker is told to be silent; they come every second or so."""
TRIED_ANEW_S: Final = 30.0
"""Seconds for which an attempt after a failed one is taken to fail as well, unless its lane has moved since."""

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_DOWN: Final[Mapping[str, str]] = {
    DatabaseUnavailable.code: "the database does not answer: ",
    VectorStoreUnavailable.code: "the vector store does not answer: ",
    TemporalUnavailable.code: "Temporal does not answer: ",
    ModelUnavailable.code: "the language model does not answer: ",
}
_LANE_OF: Final[Mapping[str, Lane]] = {
    "collect_pages": Lane.COLLECT,
    "collect_shard": Lane.COLLECT,
    "extract_sources": Lane.EXTRACT,
    "find_entities": Lane.ENTITIES,
    "extract_records": Lane.RECORDS,
}


async def waiting_for(gateway: Gateway, sighting: Sighting, lanes: LaneMap) -> str | None:
    """Why a job does not move, in a few words; None when it does, or has ended."""
    row, execution = sighting.row, sighting.execution
    if row.status.is_terminal:
        return None
    if execution is None or sighting.trouble:
        return sighting.trouble
    reason = await _workflow(gateway, row, execution)
    if reason is None and row.status is JobStatus.PAUSED and not execution.activities:
        return "paused: it goes on when it is resumed"
    for activity in worth_asking(execution.activities):
        reason = reason or await _activity(gateway, row, activity, lanes)
    if row.status is JobStatus.CANCELLING:
        return states.awaited(execution) + (f"; {reason}" if reason else "")
    return reason or _notes(row, lanes)


def worth_asking(activities: Sequence[PendingActivity]) -> list[PendingActivity]:
    """Those that a job may wait for, by name and begin, as Temporal tells them in no order that stays.

    A shard that no worker has yet is none of them while others of its lane are at work.
    """
    at_work = {activity.name for activity in activities if activity.started_at is not None}

    def is_spare(activity: PendingActivity) -> bool:
        is_untouched = activity.started_at is None and not activity.failure and not activity.is_paused
        return is_untouched and activity.name in at_work

    worth = (activity for activity in activities if not is_spare(activity))
    return sorted(worth, key=lambda activity: (activity.name, activity.started_at or _NEVER))


async def _workflow(gateway: Gateway, row: JobRow, execution: Execution) -> str | None:
    """Why the workflow itself does not decide what is next."""
    if execution.task_due_at is None and execution.task_attempt <= 1 and row.status is not JobStatus.QUEUED:
        return None
    if await _is_unserved(gateway, TaskQueue.JOBS):
        return f"no worker polls the task queue {TaskQueue.JOBS}"
    if execution.task_attempt > 1:
        return f"the workflow's own code fails (attempt {execution.task_attempt}); see Temporal's web UI"
    return _busy(TaskQueue.JOBS, _age_s(execution.task_due_at))


async def _activity(gateway: Gateway, row: JobRow, activity: PendingActivity, lanes: LaneMap) -> str | None:
    """Why an activity does not move; None when it seems to."""
    if activity.is_paused:
        return f"{activity.name} is paused; `temporal activity unpause` lets it go on"
    if activity.started_at is None:
        return await _unstarted(gateway, activity)
    silent_s = _age_s(activity.heard_at)
    if silent_s > SILENT_S:
        then = "it is waited for no more" if row.status is JobStatus.CANCELLING else "another one takes it up"
        return f"the worker of {activity.name} is silent for {silent_s:.0f} s; after 10 s {then}"
    if activity.failure and _age_s(activity.started_at) < TRIED_ANEW_S and not _has_moved(row, activity, lanes):
        return _failing(activity)
    return None


async def _unstarted(gateway: Gateway, activity: PendingActivity) -> str | None:
    """Why no worker has an activity: there is none, they are busy, or the next attempt is not due."""
    waited_s = _age_s(activity.due_at)
    if waited_s > 0 and activity.queue and await _is_unserved(gateway, activity.queue):
        return f"no worker polls the task queue {activity.queue}"
    return _busy(activity.queue, waited_s) or (_failing(activity) if activity.failure else None)


def _busy(queue: str, waited_s: float) -> str | None:
    return f"a free worker of the task queue {queue}, for {waited_s:.0f} s" if waited_s > WAITS_LONG_S else None


def _failing(activity: PendingActivity) -> str:
    down = _DOWN.get(activity.failure_type, "")
    return f"{down}{activity.name} failed and is tried again (attempt {activity.attempt}): {activity.failure[:300]}"


def _has_moved(row: JobRow, activity: PendingActivity, lanes: LaneMap) -> bool:
    """Whether the lane of an activity has committed anything since its attempt began."""
    lane = _LANE_OF.get(activity.name)
    progress = lanes.get((row.id, lane)) if lane is not None else None
    at = progress.updated_at if progress is not None else None
    return at is not None and activity.started_at is not None and at > activity.started_at


async def _is_unserved(gateway: Gateway, queue: str) -> bool:
    """Whether certainly no worker polls a queue."""
    try:
        return await gateway.engine.is_served(TaskQueue(queue)) is False
    except (TemporalUnavailable, ValueError):
        return False  # it is not known, or the queue is none of ours


def _notes(row: JobRow, lanes: LaneMap) -> str | None:
    """What the lanes say of themselves, as that a host asked for a pause."""
    there = [lanes[key] for lane in Lane if (key := (row.id, lane)) in lanes]
    return "; ".join(lane.note for lane in there if lane.note and not lane.done) or None


def _age_s(moment: datetime | None) -> float:
    """Seconds since then; less than 0 when it is still to come, and 0 when there is none."""
    return (datetime.now(UTC) - moment).total_seconds() if moment is not None else 0.0
