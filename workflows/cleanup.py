"""The cleanup of a job or a source: vectors, sources, dead letters, and the proof that nothing is left."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from ke.contracts.activities import CleanupActivities
from ke.contracts.cleanup import CleanupFailure, CleanupInput, CleanupReceipt, CleanupStatus, StoreCounts
from ke.contracts.naming import CLEANUP_WORKFLOW
from workflows import policies

_POINTS_WITH_ROWS: Final = "points-with-rows"
"""A patch: runs from before it delete all points in a step of their own, before the first row."""

_Deletion = Callable[[CleanupActivities, CleanupInput], Awaitable[None]]


@workflow.defn(name=CLEANUP_WORKFLOW)
class CleanupWorkflow:
    """One run of the cleanup of a job, or of one source, under the one id it can have.

    It ends as failed when something is left, so that the same id can be started again and goes on with the same
    receipt. A run that was terminated or cancelled is taken up in the same way.
    """

    def __init__(self) -> None:
        """Knows nothing of what there is to delete yet."""
        self._planned = StoreCounts()

    @workflow.run
    async def run(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Cleans up.

        Returns:
            The receipt, with nothing remaining.

        Raises:
            ApplicationError: Something is left (`cleanup-incomplete`; the receipt names what and where), or the
                cleanup was refused (`conflict`, `not-found`).
            asyncio.CancelledError: It was cancelled; the receipt says so.
        """
        try:
            receipt = await self._clean(cleanup)
        except (ActivityError, asyncio.CancelledError) as error:
            # A cancel is delivered once, so what follows is not cancelled again.
            failure = _failure(error)
            await self._give_up(CleanupFailure(cleanup.job_id, failure.message, cleanup.source_id))
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError(failure.message) from error
            raise failure from error
        self._show(receipt.status, receipt.deleted)
        if receipt.status is not CleanupStatus.CLEANED:
            message = receipt.error or "Something is left."
            raise ApplicationError(message, type="cleanup-incomplete", non_retryable=True)
        return receipt

    async def _clean(self, cleanup: CleanupInput) -> CleanupReceipt:
        receipt = await workflow.execute_activity_method(
            CleanupActivities.begin_cleanup, cleanup, **policies.cleanup_count("fence, and count what there is")
        )
        if receipt.status is CleanupStatus.CLEANED:
            if receipt.delete_record or cleanup.delete_record:
                # An earlier run may have been stopped between the tombstone and this.
                await self._erase(cleanup)
            return receipt
        self._planned = receipt.planned
        if not workflow.patched(_POINTS_WITH_ROWS):
            await self._delete(CleanupActivities.delete_vectors, cleanup, "delete vectors")
        await self._delete_rows(cleanup)
        if not receipt.fenced:
            # The store cannot refuse a late write itself: what a worker that was thought dead still wrote goes now.
            self._enter("wait for late writes")
            await workflow.sleep(policies.SECOND_SWEEP_AFTER, summary="wait for late writes")
            await self._delete(CleanupActivities.delete_vectors, cleanup, "delete vectors that came late")
        self._enter("verify that nothing is left")
        receipt = await workflow.execute_activity_method(
            CleanupActivities.verify_cleanup, cleanup, **policies.cleanup_count("verify that nothing is left")
        )
        if receipt.status is CleanupStatus.CLEANED and receipt.delete_record:
            await self._erase(cleanup)
        return receipt

    async def _delete_rows(self, cleanup: CleanupInput) -> None:
        steps: list[tuple[_Deletion, str]] = [
            (CleanupActivities.delete_sources, "delete vectors, sources and what was made of them"),
            (CleanupActivities.purge_dead_letters, "purge dead letters and frontier"),
        ]
        if cleanup.source_id is not None:
            # What of the frontier names a source is found by the source's row.
            steps.reverse()
        for step, summary in steps:
            await self._delete(step, cleanup, summary)

    async def _erase(self, cleanup: CleanupInput) -> None:
        await workflow.execute_activity_method(
            CleanupActivities.erase_history, cleanup, **policies.cleanup_erase("erase the job's history")
        )

    async def _delete(self, step: _Deletion, cleanup: CleanupInput, summary: str) -> None:
        self._enter(summary)
        await workflow.execute_activity_method(step, cleanup, **policies.cleanup_delete(summary))

    def _enter(self, step: str) -> None:
        """Goes on to a step, unless the cleanup was cancelled: a cancelled activity hands back in good order."""
        if workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError
        self._show(step, self._planned)

    async def _give_up(self, failure: CleanupFailure) -> None:
        """Closes the receipt as failed. When even that cannot be done, the run still ends, and says so in the log."""
        workflow.set_current_details(f"**failed** · {failure.error}")
        try:
            await workflow.execute_activity_method(
                CleanupActivities.fail_cleanup, failure, **policies.cleanup_fail("record that the cleanup was stopped")
            )
        except ActivityError:
            workflow.logger.exception("The receipt could not be closed; the next start of this cleanup takes it up.")

    def _show(self, step: str, counts: StoreCounts) -> None:
        workflow.set_current_details(f"**{step}** · {', '.join(counts.told()) or 'nothing'}")


def _failure(error: BaseException) -> ApplicationError:
    """The one error that the workflow and the receipt show."""
    reason = workflow.cancellation_reason()
    if reason is not None:
        message = "The cleanup was cancelled" + (f": {reason}." if reason else ".")
        return ApplicationError(f"{message} Start it again to go on.", type="cancelled", non_retryable=True)
    cause = error.cause if isinstance(error, ActivityError) else None
    if isinstance(cause, ApplicationError):
        return ApplicationError(cause.message, type=cause.type, non_retryable=True)
    return ApplicationError(str(cause or error), type="internal", non_retryable=True)
