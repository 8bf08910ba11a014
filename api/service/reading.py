"""Reading jobs: from Postgres, with a look at Temporal where the row is still open."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

from api.resources import Gateway
from api.service.waiting import waiting_for
from api.views import JobView, LaneMap
from ke.contracts.jobs import Artifacts
from ke.runtime.settling import Sighting, look, settle_cleanup, settle_retry
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.jobs import JobRow, get_job, progress_of

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
            return JobView.of(row, lanes, waiting_for=await waiting_for(gateway, sighting, lanes))
        await asyncio.sleep(min(pause, max(0.0, deadline - now)))
        pause = min(pause * 1.5, POLL_MAX_S)


async def load(gateway: Gateway, job_id: uuid.UUID) -> tuple[JobRow, LaneMap]:
    """The row and the progress of its lanes, of one moment."""
    async with gateway.database.transaction() as connection:
        row = await get_job(connection, job_id)
        return row, await progress_of(connection, [job_id])
