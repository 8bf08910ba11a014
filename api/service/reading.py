"""Reading jobs: from Postgres, with a look at Temporal where the row is still open."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from api.resources import Gateway
from api.service import states
from api.views import JobView, LaneMap
from ke.contracts.errors import TemporalUnavailable
from ke.contracts.jobs import Artifacts, JobStatus, Lane
from ke.contracts.naming import TaskQueue
from ke.runtime.engine import Execution
from ke.runtime.settling import settle, settle_cleanup
from ke.storage.jobs import JobRow, get_job, progress_of

POLL_FIRST_S: Final = 0.1
POLL_MAX_S: Final = 1.0
LOOK_EVERY_S: Final = 5.0
"""Seconds between two looks at Temporal while a caller waits."""


async def read_job(
    gateway: Gateway, job_id: uuid.UUID, *, wait_s: float, is_gone: Callable[[], Awaitable[bool]]
) -> JobView:
    """The job: at once, or as soon as it has ended, at the latest after `wait_s` seconds.

    Args:
        gateway: The clients.
        job_id: The job.
        wait_s: Seconds.
        is_gone: Whether the caller has hung up.

    Raises:
        NotFound: There is no such job, or it was deleted.
        DatabaseUnavailable: Postgres does not answer.
    """
    deadline = time.monotonic() + wait_s
    look_at, pause = 0.0, POLL_FIRST_S
    execution: Execution | None = None
    while True:
        row, lanes = await load(gateway, job_id)
        now = time.monotonic()
        if row.artifacts is Artifacts.CLEANING and await settle_cleanup(gateway, job_id):
            row, lanes = await load(gateway, job_id)
        over = row.status.is_terminal or now >= deadline
        if not row.status.is_terminal and (over or now >= look_at):
            row, execution = await settle(gateway, row)
            look_at = now + LOOK_EVERY_S
            over = over or row.status.is_terminal
        if over or await is_gone():
            return JobView.of(row, lanes, waiting_for=await waiting_for(gateway, row, lanes, execution))
        await asyncio.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(pause * 1.5, POLL_MAX_S)


async def load(gateway: Gateway, job_id: uuid.UUID) -> tuple[JobRow, LaneMap]:
    """The row and the progress of its lanes, of one moment."""
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id)
        return row, await progress_of(connection, [job_id])


async def waiting_for(gateway: Gateway, row: JobRow, lanes: LaneMap, execution: Execution | None) -> str | None:
    """Why a job does not move, in a few words; None when it does, or has ended."""
    if row.status.is_terminal:
        return None
    if row.status is JobStatus.PAUSED:
        return "paused: it goes on when it is resumed"
    if row.status is JobStatus.CANCELLING and execution is not None:
        return states.awaited(execution)
    failing = _failing(execution)
    if failing is not None:
        return failing
    for queue in await _unserved(gateway, row, lanes):
        return f"no worker polls the task queue {queue.value}"
    notes = [
        lanes[key].note for lane in Lane if (key := (row.id, lane)) in lanes and lanes[key].note and not lanes[key].done
    ]
    return "; ".join(notes) or None


def _failing(execution: Execution | None) -> str | None:
    """Whether a task of the job fails again and again."""
    if execution is None:
        return None
    for activity in execution.activities:
        if activity.failure:
            return f"{activity.name} failed and is tried again (attempt {activity.attempt}): {activity.failure[:300]}"
    if execution.task_attempt > 1:
        return f"the workflow's own code fails (attempt {execution.task_attempt}); see Temporal's web UI"
    return None


async def _unserved(gateway: Gateway, row: JobRow, lanes: LaneMap) -> list[TaskQueue]:
    """The queues that no worker polls, of those whose work this job waits for without any progress so far."""
    if row.status is JobStatus.QUEUED:
        wanted = [TaskQueue.JOBS]
    else:
        # A job with both lanes has `extract` in its parameters; of an extract job they are the parameters.
        has_collect = "urls" in row.params or "seeds" in row.params
        has_extract = not has_collect or row.params.get("extract") is not None
        wanted = [
            queue
            for lane, queue, is_there in (
                (Lane.COLLECT, TaskQueue.COLLECT, has_collect),
                (Lane.EXTRACT, TaskQueue.EXTRACT, has_extract),
            )
            if is_there and (row.id, lane) not in lanes
        ]
    try:
        return [queue for queue in wanted if await gateway.engine.is_served(queue) is False]
    except TemporalUnavailable:
        return []
