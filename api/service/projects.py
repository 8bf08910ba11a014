"""Cleaning up all that the jobs of a project made."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Final

from api.errors import CleanupRunning, JobActive
from api.resources import Gateway
from api.schemas import CleanupBody
from api.service.cleaning import SETTLED_AT_ONCE, settle_other
from api.service.receipts import receipt_of_run
from api.views import ReceiptView
from ke.contracts.cleanup import CleanupStatus, ProjectCleanupInput
from ke.contracts.errors import NotFound
from ke.contracts.naming import project_cleanup_workflow_id
from ke.storage.cleanup_projects import active_jobs, blocked_message, count_project, project_exists
from ke.storage.cleanups import find_receipt
from ke.storage.jobs import find_job
from ke.storage.relying import relying_on_project

CLOSING_S: Final = 2.0
"""Seconds for which a run that has closed its receipt is waited for."""
CLOSING_POLL_S: Final = 0.05


async def clean_up_project(
    gateway: Gateway, project: str, body: CleanupBody, *, wait_s: float
) -> tuple[ReceiptView, bool]:
    """Starts the cleanup of all ended jobs of a project, or joins the one that runs.

    Args:
        gateway: The clients.
        project: Its name.
        body: What is asked for.
        wait_s: Seconds to wait for the end.

    Returns:
        The receipt, and whether this is all there will be: a dry run, or a cleanup that has ended.

    Raises:
        NotFound: No job was ever submitted to the project.
        JobActive: Some of its jobs have not ended.
        CleanupRunning: One runs that leaves the records, which were asked for now.
        Unavailable: A store or Temporal does not answer.
    """
    await _check(gateway, project)
    if body.dry_run:
        return await _plan(gateway, project_cleanup_workflow_id(project), project, body, running=False), True
    receipt_id = await _start(gateway, ProjectCleanupInput(project, body.delete_record))
    receipt = await receipt_of_run(gateway, receipt_id, stale=None, wait_s=wait_s)
    if receipt is None:
        return await _plan(gateway, receipt_id, project, body, running=True), False
    if body.delete_record and not receipt.delete_record:
        raise CleanupRunning(
            f"The project is being cleaned up, but its jobs' records stay: GET /cleanups/{receipt_id} tells how far. "
            "Ask again when that has ended."
        )
    return ReceiptView.of(receipt), receipt.status is not CleanupStatus.RUNNING


async def _plan(gateway: Gateway, key: str, project: str, body: CleanupBody, *, running: bool) -> ReceiptView:
    found = await count_project(gateway.database, gateway.vectors, project)
    async with gateway.database.transaction() as connection:
        relying = await relying_on_project(connection, project)
    return ReceiptView.plan_of_project(key, project, found, relying, delete_record=body.delete_record, running=running)


async def _start(gateway: Gateway, cleanup: ProjectCleanupInput) -> str:
    """Starts a run, or joins the one that is at work; returns the id of its receipt.

    A run that has closed its receipt is open for a moment more: who asks again then wants another one.
    """
    deadline = time.monotonic() + CLOSING_S
    while True:
        receipt_id = await gateway.engine.start_project_cleanup(cleanup)
        async with gateway.database.transaction() as connection:
            receipt = await find_receipt(connection, receipt_id)
        if receipt is None or receipt.status is CleanupStatus.RUNNING or time.monotonic() > deadline:
            return receipt_id
        await asyncio.sleep(CLOSING_POLL_S)


async def _check(gateway: Gateway, project: str) -> None:
    async with gateway.database.transaction() as connection:
        if not await project_exists(connection, project):
            raise NotFound(f"There is no project {project}: no job was ever submitted to it.")
    blocked_by = await _active(gateway, project)
    if blocked_by:
        raise JobActive(blocked_message(blocked_by), blocked_by=[str(job) for job in blocked_by])


async def _active(gateway: Gateway, project: str) -> Sequence[uuid.UUID]:
    """Active jobs of the project, without those that have ended in Temporal only."""
    async with gateway.database.transaction() as connection:
        active = await active_jobs(connection, project)
        found = [await find_job(connection, job) for job in active[:SETTLED_AT_ONCE]]
    if not active:
        return []
    await asyncio.gather(*(settle_other(gateway, row) for row in found if row is not None))
    async with gateway.database.transaction() as connection:
        return await active_jobs(connection, project)
