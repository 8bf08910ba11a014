"""The reconciliation: looks at everything, then repairs, unless that would delete too much."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.workflow import ActivityConfig

from ke.contracts.activities import ReconcileActivities, RestoreActivities, SettleActivities
from ke.contracts.naming import (
    RECONCILE_ID,
    RECONCILE_WORKFLOW,
    SCHEDULED_RECONCILE_WORKFLOW,
    TaskQueue,
    reconciliation_id,
)
from ke.contracts.reconciling import (
    CloseReconciliation,
    Finding,
    FindingKind,
    OpenReconciliation,
    ReconcileInput,
    ReconcileStatus,
    ReconcileStep,
    Reconciliation,
    brake_message,
)
from workflows import policies

_Look = Callable[[Any, ReconcileStep], Awaitable[list[Finding]]]

_LOOKS: Final[tuple[tuple[_Look, str], ...]] = (
    (SettleActivities.settle_jobs, "open jobs against their workflows"),
    (SettleActivities.settle_retries, "retries against their workflows"),
    (SettleActivities.settle_cleanups, "cleanups against their workflows"),
    (ReconcileActivities.compare_points, "points against rows"),
    (ReconcileActivities.compare_rows, "rows against points"),
)
_Repair = tuple[_Look, FindingKind, TaskQueue, str]
_ENDINGS: Final[tuple[_Repair, ...]] = (
    (SettleActivities.settle_jobs, FindingKind.OPEN_JOBS, TaskQueue.CLEANUP, "end jobs as their workflows did"),
    (SettleActivities.settle_retries, FindingKind.RETRIES, TaskQueue.CLEANUP, "end retries as their workflows did"),
    (SettleActivities.settle_cleanups, FindingKind.CLEANUPS, TaskQueue.CLEANUP, "start cleanups again"),
)
_DELETIONS: Final[tuple[_Repair, ...]] = (
    # Points come after rows, and the lost ones last: what was deleted too much before, or came back late, is met then.
    (ReconcileActivities.delete_pending_rows, FindingKind.PENDING_ROWS, TaskQueue.CLEANUP, "delete unfinished rows"),
    (ReconcileActivities.compare_points, FindingKind.POINTS_WITHOUT_ROWS, TaskQueue.CLEANUP, "delete lone points"),
    (RestoreActivities.restore_points, FindingKind.ROWS_WITHOUT_POINTS, TaskQueue.EXTRACT, "make lost points anew"),
)


@workflow.defn(name=RECONCILE_WORKFLOW)
class ReconcileWorkflow:
    """One run of it; under its one id there is never another beside it.

    First everything is looked at and counted. If a repair would delete more than the share that is allowed, nothing
    is repaired at all: a store of which so much is wrong may be another one than it should be.
    """

    def __init__(self) -> None:
        """Has found nothing yet."""
        self._findings: dict[FindingKind, Finding] = {}
        self._record = ""

    @workflow.run
    async def run(self, request: ReconcileInput) -> Reconciliation:
        """Compares, and repairs where it is asked to.

        Returns:
            The record.

        Raises:
            ApplicationError: It could not be done; the record says so, with what was found until then.
            asyncio.CancelledError: It was cancelled; the same.
        """
        self._record = reconciliation_id(workflow.info().run_id)
        try:
            await workflow.execute_activity_method(
                ReconcileActivities.open_reconciliation,
                OpenReconciliation(self._record, request),
                **policies.reconcile_record("open the record"),
            )
            status, error = await self._reconcile(request)
            # The last step may have been cut short in good order, and what it found is not all there is.
            _check_wanted()
        except (ActivityError, asyncio.CancelledError) as failure:
            # A cancel is delivered once, so what follows is not cancelled again.
            message = _message(failure)
            await self._close(ReconcileStatus.FAILED, message)
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError(message) from failure
            raise ApplicationError(message, type="reconcile-failed", non_retryable=True) from failure
        return await self._close(status, error)

    async def _reconcile(self, request: ReconcileInput) -> tuple[ReconcileStatus, str | None]:
        await self._look(_LOOKS)
        if not request.repair:
            return ReconcileStatus.COMPLETED, None
        brake = self._brake(request)
        if brake:
            return ReconcileStatus.STOPPED, brake
        step = ReconcileStep(self._record, repair=True, anything_goes=request.max_share >= 1)
        await self._repair(_ENDINGS, step)
        if self._findings[FindingKind.OPEN_JOBS].repaired or self._findings[FindingKind.RETRIES].repaired:
            # What these had not finished is nobody's now, and counts against the share like the rest.
            await self._look(_LOOKS[-1:])
            brake = self._brake(request)
            if brake:
                return ReconcileStatus.STOPPED, brake
        await self._repair(_DELETIONS, step)
        return ReconcileStatus.COMPLETED, None

    def _brake(self, request: ReconcileInput) -> str:
        # What was ended as lost already is not at stake any more.
        at_stake = (finding for finding in self._findings.values() if not finding.repaired)
        return brake_message(at_stake, request.max_share)

    async def _look(self, looks: Sequence[tuple[_Look, str]]) -> None:
        step = ReconcileStep(self._record)
        for look, summary in looks:
            for finding in await self._do(look, step, policies.reconcile_step(TaskQueue.CLEANUP, summary)):
                self._findings[finding.kind] = finding
            self._show(summary)

    async def _repair(self, repairs: Sequence[_Repair], step: ReconcileStep) -> None:
        for look, kind, queue, summary in repairs:
            if self._findings[kind].found:
                for finding in await self._do(look, step, policies.reconcile_step(queue, summary)):
                    self._findings[finding.kind] = self._findings[finding.kind].after_repair(finding)
                self._show(summary)

    async def _do(self, look: _Look, step: ReconcileStep, config: ActivityConfig) -> list[Finding]:
        _check_wanted()
        return await workflow.execute_activity_method(look, step, **config)

    async def _close(self, status: ReconcileStatus, error: str | None) -> Reconciliation:
        close = CloseReconciliation(self._record, status, tuple(self._findings.values()), error)
        workflow.set_current_details(f"**{status}** · {self._summary()}" + (f"\n\n{error}" if error else ""))
        return await workflow.execute_activity_method(
            ReconcileActivities.close_reconciliation, close, **policies.reconcile_record("close the record")
        )

    def _show(self, summary: str) -> None:
        workflow.set_current_details(f"**{summary}** · {self._summary()}")

    def _summary(self) -> str:
        wrong = [f"{f.found} {f.kind}, {f.repaired} repaired" for f in self._findings.values() if f.found]
        return "; ".join(wrong) or "nothing found"


@workflow.defn(name=SCHEDULED_RECONCILE_WORKFLOW)
class ScheduledReconcileWorkflow:
    """What the Schedule starts: Temporal gives each start an id of its own, and a reconciliation has but one."""

    @workflow.run
    async def run(self, request: ReconcileInput) -> str:
        """Runs a reconciliation, unless there is one at work that somebody asked for.

        Returns:
            The state in which it ended, or that there was one.
        """
        try:
            done: Reconciliation = await workflow.execute_child_workflow(
                ReconcileWorkflow.run,
                request,
                id=RECONCILE_ID,
                task_queue=TaskQueue.CLEANUP,
                static_summary="scheduled",
            )
        except WorkflowAlreadyStartedError:
            return "there is one at work"
        return done.status


def _check_wanted() -> None:
    """Goes no further after a cancel, which an activity may have answered in good order."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def _message(error: BaseException) -> str:
    reason = workflow.cancellation_reason()
    if reason is not None:
        return "It was cancelled" + (f": {reason}." if reason else ".")
    cause = error.cause if isinstance(error, ActivityError) else None
    return cause.message if isinstance(cause, ApplicationError) else str(cause or error)
