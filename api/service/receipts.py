"""The receipts of cleanups: reading them, and waiting for them."""

import asyncio
import time
import uuid
from typing import Final

from api.resources import Gateway
from api.views import ReceiptView
from ke.contracts.cleanup import CleanupReceipt, CleanupScope, CleanupStatus
from ke.contracts.naming import cleanup_id
from ke.runtime.settling import settle_cleanup, settle_project_cleanup
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import find_receipt, get_receipt

BEGUN_WITHIN_S: Final = 2.0
"""Seconds for which an answer waits for the receipt of a cleanup that it started."""
POLL_FIRST_S: Final = 0.05
POLL_MAX_S: Final = 0.5


async def read_receipt(gateway: Gateway, receipt_id: str) -> ReceiptView:
    """The receipt of a cleanup, while it runs and after what it is of is gone.

    Raises:
        NotFound: There is none.
    """
    async with gateway.database.transaction() as connection:
        receipt = await find_receipt(connection, receipt_id)
    if receipt is None:
        await _settle_unbegun(gateway, receipt_id)
    elif receipt.scope is CleanupScope.PROJECT:
        await settle_project_cleanup(gateway, receipt)
    elif receipt.job_id is not None:
        source = uuid.UUID(receipt.source_id) if receipt.source_id is not None else None
        await settle_cleanup(gateway, CleanupTarget(uuid.UUID(receipt.job_id), source))
    async with gateway.database.transaction() as connection:
        return ReceiptView.of(await get_receipt(connection, receipt_id))


async def _settle_unbegun(gateway: Gateway, receipt_id: str) -> None:
    """A cancelled job's cleanup may have been terminated before it had a receipt: it gets one that says so."""
    try:
        job_id = uuid.UUID(receipt_id.removeprefix(cleanup_id("")))
    except ValueError:
        return
    await settle_cleanup(gateway, CleanupTarget(job_id))


async def receipt_of_run(
    gateway: Gateway, receipt_id: str, *, stale: CleanupReceipt | None, wait_s: float
) -> CleanupReceipt | None:
    """The receipt once the run has begun, or ended where the caller waits; None when it did not begin in time.

    Args:
        gateway: The clients.
        receipt_id: Of the run.
        stale: The receipt as a run before this one left it, which says nothing of the run that was started now; one
            in which nothing is planned yet says nothing at all.
        wait_s: Seconds to wait for the end.
    """
    begun_by, ended_by = time.monotonic() + BEGUN_WITHIN_S, time.monotonic() + wait_s
    pause = POLL_FIRST_S
    while True:
        async with gateway.database.transaction() as connection:
            receipt = await find_receipt(connection, receipt_id)
        now = time.monotonic()
        if receipt is not None and _tells(receipt, stale):
            if receipt.status is not CleanupStatus.RUNNING or now >= ended_by:
                return receipt
        elif now >= max(begun_by, ended_by):
            return None
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, POLL_MAX_S)


def _tells(receipt: CleanupReceipt, stale: CleanupReceipt | None) -> bool:
    if receipt.status is CleanupStatus.RUNNING:
        return receipt.planned.total > 0
    return stale is None or receipt.completed_at != stale.completed_at
