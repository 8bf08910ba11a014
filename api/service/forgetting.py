"""Forgetting one source, with all that was made of it."""

import uuid
from dataclasses import asdict

from api.errors import JobActive
from api.resources import Gateway
from api.service import states
from api.service.cleaning import plan_of, settled_dependents
from api.service.receipts import receipt_of_run
from api.views import OtherPagesView, ReceiptView
from ke.contracts.cleanup import CleanupInput, CleanupReceipt, CleanupStatus
from ke.contracts.errors import NotFound
from ke.runtime.settling import settle, settle_cleanup
from ke.storage.cleanup_sources import owner_of
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import find_receipt
from ke.storage.jobs import find_job
from ke.storage.relying import other_pages


async def forget_source(
    gateway: Gateway, source_id: uuid.UUID, *, dry_run: bool, wait_s: float
) -> tuple[ReceiptView, bool]:
    """Starts the cleanup of a source, or joins the one that runs, or gives the receipt of the one that is done.

    Args:
        gateway: The clients.
        source_id: The source.
        dry_run: Only count what would go.
        wait_s: Seconds to wait for the end.

    Returns:
        The receipt, and whether this is all there will be: a dry run, or a cleanup that has ended.

    Raises:
        NotFound: There never was such a source.
        JobActive: Its job has not ended, or is being retried, or others work on that job's sources.
        Unavailable: A store or Temporal does not answer.
    """
    target, before, is_there = await _find(gateway, source_id)
    if await settle_cleanup(gateway, target):
        target, before, is_there = await _find(gateway, source_id)
    is_done = before is not None and before.status is CleanupStatus.CLEANED and not is_there
    if before is not None and is_done and not dry_run:
        return ReceiptView.of(before), True
    if not is_done:
        await _check(gateway, target)
    if dry_run:
        return await _plan(gateway, target), True
    await gateway.engine.start_cleanup(CleanupInput(str(target.job_id), source_id=str(source_id)))
    stale = before if before is not None and before.status is not CleanupStatus.RUNNING else None
    receipt = await receipt_of_run(gateway, target.receipt_id, stale=stale, wait_s=wait_s)
    if receipt is None:
        return await plan_of(gateway, target, running=True), False
    return ReceiptView.of(receipt), receipt.status is not CleanupStatus.RUNNING


async def _plan(gateway: Gateway, target: CleanupTarget) -> ReceiptView:
    """What would go, with the other pages that have the document."""
    plan = await plan_of(gateway, target)
    async with gateway.database.transaction() as connection:
        other = await other_pages(connection, target)
    return plan.model_copy(update={"other_pages": OtherPagesView.model_validate(asdict(other))})


async def _find(gateway: Gateway, source_id: uuid.UUID) -> tuple[CleanupTarget, CleanupReceipt | None, bool]:
    """The source with its owner, the receipt of its cleanup, and whether it is still there."""
    async with gateway.database.transaction() as connection:
        owner = await owner_of(connection, source_id)
        receipt = await find_receipt(connection, CleanupTarget(source_id, source_id).receipt_id)
    known = owner or (uuid.UUID(receipt.job_id) if receipt is not None and receipt.job_id is not None else None)
    if known is None:
        raise NotFound(f"There is no source {source_id}.")
    return CleanupTarget(known, source_id), receipt, owner is not None


async def _check(gateway: Gateway, target: CleanupTarget) -> None:
    """Refuses while the source's job works, or another works on that job's sources."""
    async with gateway.database.transaction() as connection:
        row = await find_job(connection, target.job_id)
    if row is None:
        raise NotFound(f"There is no source {target.source_id}.")
    # It may have been ended from Temporal's own tools, which do not write its row.
    row, _ = await settle(gateway, row)
    what = f"is {row.status}" if not row.status.is_terminal else "is being retried" if row.retry_id else None
    if what is not None:
        raise JobActive(
            f"Job {row.id}, which owns the source, {what}: cancel it, or wait for its end.",
            **states.about(row),
            blocked_by=[str(row.id)],
        )
    dependents = await settled_dependents(gateway, target.job_id)
    if dependents:
        raise states.blocked(row, dependents)
