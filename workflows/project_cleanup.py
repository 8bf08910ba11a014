"""The cleanup of a project: the cleanup of each of its jobs, a few at a time, and one receipt."""

import asyncio
from dataclasses import replace
from typing import Final

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError, WorkflowAlreadyStartedError

from ke.contracts.activities import ProjectCleanupActivities
from ke.contracts.cleanup import (
    CleanupInput,
    CleanupReceipt,
    CleanupStatus,
    ProjectCleanup,
    ProjectCleanupInput,
    ProjectEnd,
    ProjectPage,
    ProjectProgress,
)
from ke.contracts.counted import counted
from ke.contracts.naming import CLEANUP_WORKFLOW, PROJECT_CLEANUP_WORKFLOW, cleanup_id, project_cleanup_id
from workflows import policies

MAX_REASONS: Final = 10
"""Jobs that could not be cleaned and that the receipt names with the reason."""


@workflow.defn(name=PROJECT_CLEANUP_WORKFLOW)
class ProjectCleanupWorkflow:
    """One run takes up some of the project's jobs and continues as new, until there is none left.

    What one job's cleanup meets is no reason to leave the others: the receipt tells it in the end. A cancellation
    takes up no further job; the cleanups that are at work go on by themselves.
    """

    @workflow.run
    async def run(self, cleanup: ProjectCleanupInput) -> CleanupReceipt:
        """Cleans up.

        Returns:
            The receipt, with nothing remaining.

        Raises:
            ApplicationError: Some jobs could not be cleaned (`cleanup-incomplete`; the receipt says which and why), or
                the project has active jobs (`conflict`).
            asyncio.CancelledError: It was cancelled; the receipt says so.
        """
        progress = cleanup.carried or await self._begin(cleanup)
        try:
            check_wanted()
            progress, is_more = await self._clean_some(cleanup, progress)
            check_wanted()
        except (ActivityError, asyncio.CancelledError) as error:
            # A cancel is delivered once, so what follows is not cancelled again.
            await self._give_up(cleanup, progress, _interruption(error))
            if workflow.cancellation_reason() is not None:
                raise asyncio.CancelledError from error
            raise
        if is_more:
            workflow.continue_as_new(replace(cleanup, carried=progress))
        receipt = await self._close(cleanup, progress, _told(progress))
        if receipt.status is not CleanupStatus.CLEANED:
            raise ApplicationError(receipt.error or "Something is left.", type="cleanup-incomplete", non_retryable=True)
        return receipt

    async def _begin(self, cleanup: ProjectCleanupInput) -> ProjectProgress:
        receipt_id = project_cleanup_id(cleanup.project, workflow.info().first_execution_run_id)
        receipt = await workflow.execute_activity_method(
            ProjectCleanupActivities.begin_project_cleanup,
            ProjectCleanup(cleanup.project, receipt_id, cleanup.delete_record),
            **policies.cleanup_delete("count what there is"),
        )
        if receipt.status is not CleanupStatus.RUNNING:
            raise ApplicationError(receipt.error or "The project is busy.", type="conflict", non_retryable=True)
        return ProjectProgress(receipt_id)

    async def _clean_some(
        self, cleanup: ProjectCleanupInput, progress: ProjectProgress
    ) -> tuple[ProjectProgress, bool]:
        """Takes up the next jobs; returns how far it is then, and whether there may be more."""
        page = await workflow.execute_activity_method(
            ProjectCleanupActivities.list_project_jobs,
            ProjectPage(
                cleanup.project, progress.after, cleanup.jobs_a_run, cleanup.delete_record, progress.receipt_id
            ),
            **policies.cleanup_count("find the next jobs"),
        )
        self._show(progress, f"cleaning the next {counted(len(page.job_ids), 'job')}")
        few_at_once = asyncio.Semaphore(policies.CLEANUPS_AT_ONCE)

        async def clean(job_id: str) -> str | None:
            async with few_at_once:
                part = CleanupInput(job_id, delete_record=cleanup.delete_record, part_of=progress.receipt_id)
                reason = await run_cleanup(part, cleanup_id(job_id))
                return f"job {job_id}: {reason}" if reason is not None else None

        failures = [reason for reason in await asyncio.gather(*map(clean, page.job_ids)) if reason is not None]
        progress = replace(
            progress,
            after=page.after,
            jobs=progress.jobs + len(page.job_ids),
            failed=progress.failed + len(failures),
            reasons=(*progress.reasons, *failures)[:MAX_REASONS],
        )
        return progress, len(page.job_ids) == cleanup.jobs_a_run

    async def _close(
        self, cleanup: ProjectCleanupInput, progress: ProjectProgress, error: str | None
    ) -> CleanupReceipt:
        self._show(progress, "verify that nothing is left")
        return await workflow.execute_activity_method(
            ProjectCleanupActivities.close_project_cleanup,
            ProjectEnd(cleanup.project, progress.receipt_id, progress.jobs, progress.after, error),
            **policies.cleanup_delete("verify that nothing is left"),
        )

    async def _give_up(self, cleanup: ProjectCleanupInput, progress: ProjectProgress, error: str) -> None:
        """Closes the receipt as failed. When even that cannot be done, whoever reads it next does it."""
        try:
            await workflow.execute_activity_method(
                ProjectCleanupActivities.close_project_cleanup,
                ProjectEnd(cleanup.project, progress.receipt_id, progress.jobs, progress.after, error),
                **policies.cleanup_fail("record that the cleanup was stopped"),
            )
        except ActivityError:
            workflow.logger.exception("The receipt could not be closed; who reads it next closes it.")

    def _show(self, progress: ProjectProgress, step: str) -> None:
        workflow.set_current_details(
            f"**{step}** · {counted(progress.jobs, 'job')} done, {progress.failed:,} could not be cleaned"
        )


async def run_cleanup(cleanup: CleanupInput, workflow_id: str) -> str | None:
    """Cleans a job or a source up as a child, waiting for a cleanup of it that is at work.

    Another try comes when something was left: two that share points may have met.

    Returns:
        Why it could not be cleaned; None when it is.
    """
    subject = f"job {cleanup.job_id}" if cleanup.source_id is None else f"source {cleanup.source_id}"
    reason = "another cleanup of it is at work"
    tries = 0
    for number in range(policies.CLEANUP_WAITS):
        try:
            await workflow.execute_child_workflow(
                CLEANUP_WORKFLOW,
                cleanup,
                id=workflow_id,
                result_type=CleanupReceipt,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"clean up {subject}",
            )
        except WorkflowAlreadyStartedError:
            await workflow.sleep(policies.cleanup_wait(number), summary="wait for another cleanup of the job")
        except ChildWorkflowError as error:
            reason = str(error.cause or error)
            tries += 1
            if tries == policies.CLEANUP_TRIES or not _may_pass(error):
                break
        else:
            return None
    return reason


def check_wanted() -> None:
    """Goes no further after a cancel, which an activity or a child may have answered in good order."""
    if workflow.cancellation_reason() is not None:
        raise asyncio.CancelledError


def _may_pass(error: ChildWorkflowError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == "cleanup-incomplete"


def _told(progress: ProjectProgress) -> str | None:
    if not progress.failed:
        return None
    unnamed = progress.failed - len(progress.reasons)
    more = f"; and {unnamed} more" if unnamed else ""
    jobs = counted(progress.jobs, "job")
    return f"{progress.failed:,} of {jobs} could not be cleaned: {'; '.join(progress.reasons)}{more}"


def _interruption(error: BaseException) -> str:
    reason = workflow.cancellation_reason()
    if reason is not None:
        return "The cleanup was cancelled" + (f": {reason}." if reason else ".") + " Start it again to go on."
    cause = error.cause if isinstance(error, ActivityError) else None
    return f"The cleanup failed: {cause or error}. Start it again to go on."
