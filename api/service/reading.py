"""Reading jobs: from Postgres, with a look at Temporal where the row is still open."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Literal

from temporalio.client import WorkflowExecutionStatus

from api.resources import Gateway
from api.service.waiting import waiting_for
from api.views import JobView, LaneMap, Outdated
from ke.contracts.errors import TemporalUnavailable
from ke.contracts.jobs import ENDED_WELL, Artifacts
from ke.contracts.naming import forgetting_id, job_workflow_id, retry_id
from ke.runtime.engine import GLANCE_S
from ke.runtime.settling import Sighting, look, settle_cleanup, settle_retry
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.jobs import JobRow, get_job, progress_of
from ke.storage.replaced import count_outdated, keeps_gone

MAX_OUTDATED: Final = 10_000
"""Pages that have changed or are gone at which one read of a re-crawl looks, at most."""
POLL_FIRST_S: Final = 0.1
POLL_MAX_S: Final = 1.0
LOOK_FIRST_S: Final = 1.0
"""Seconds for which a caller waits before the first look at Temporal: a job that was just submitted may end by then."""
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
    look_at, pause = time.monotonic() + LOOK_FIRST_S, POLL_FIRST_S
    sighting: Sighting | None = None
    while True:
        row, lanes = await load(gateway, job_id)
        now = time.monotonic()
        if row.artifacts is Artifacts.CLEANING and await settle_cleanup(gateway, CleanupTarget(job_id)):
            row, lanes = await load(gateway, job_id)
        if row.retry_id is not None and (await settle_retry(gateway, row)).retry_id is None:
            row, lanes = await load(gateway, job_id)
        over = row.status.is_terminal or now >= deadline
        if not row.status.is_terminal and (over or now >= look_at):
            sighting = await look(gateway, row)
            row = sighting.row
            look_at = now + LOOK_EVERY_S
            over = over or row.status.is_terminal
        if over or await is_gone():
            sighting = replace(sighting, row=row) if sighting is not None else Sighting(row)
            return JobView.of(
                row,
                lanes,
                waiting_for=await waiting_for(gateway, sighting, lanes),
                outdated=await _outdated(gateway, row),
            )
        await asyncio.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(pause * 1.5, POLL_MAX_S)


async def load(gateway: Gateway, job_id: uuid.UUID) -> tuple[JobRow, LaneMap]:
    """The row and the progress of its lanes, of one moment."""
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id)
        return row, await progress_of(connection, [job_id])


async def _outdated(gateway: Gateway, row: JobRow) -> Outdated | None:
    """What an ended re-crawl has left of what its pages said before; None where there was nothing."""
    done = row.result or {}
    if not (done.get("pages_changed") or (done.get("pages_gone") and row.params.get("recrawl_of"))):
        return None
    async with gateway.database.transaction() as connection:
        number = await count_outdated(connection, row.id, MAX_OUTDATED)
        if not (number and row.params.get("forget_replaced") and row.status in ENDED_WELL):
            return Outdated(number, None)
        is_held = await keeps_gone(connection, row.id, row.params)
    forgetting = await _forgetting(gateway, row)
    return Outdated(number, "held" if is_held and forgetting == "ended" else forgetting)


async def _forgetting(gateway: Gateway, row: JobRow) -> Literal["running", "ended"] | None:
    """Whether what a re-crawl has replaced is still being deleted; None where Temporal cannot tell."""
    begun_by = [job_workflow_id(str(row.id))]
    if row.retries:
        begun_by.append(retry_id(str(row.id), row.retries))
    try:
        for workflow in begun_by:
            status = await gateway.engine.cleanup_status(forgetting_id(workflow), timeout_s=GLANCE_S)
            if status is None:
                # It begins as the last thing that the workflow does: or that has ended, and was long ago.
                status = await gateway.engine.cleanup_status(workflow, timeout_s=GLANCE_S)
            if status is WorkflowExecutionStatus.RUNNING:
                return "running"
    except TemporalUnavailable:
        return None
    return "ended"
