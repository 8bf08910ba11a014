"""What a re-crawl has replaced is forgotten: the cleanup of each earlier document, a few at a time."""

import asyncio
from dataclasses import replace
from typing import Final

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from ke.contracts.activities import ForgettingActivities
from ke.contracts.cleanup import ForgettingInput, ReplacedPage, ReplacedSources
from ke.contracts.naming import FORGETTING_WORKFLOW, source_cleanup_id
from workflows import policies
from workflows.project_cleanup import check_wanted, run_cleanup

MAX_REASONS: Final = 10
"""Documents that could not be forgotten and that the workflow's failure names with the reason."""


@workflow.defn(name=FORGETTING_WORKFLOW)
class ForgettingWorkflow:
    """One run takes up some of the replaced documents and continues as new, until there is none left.

    Each is deleted by its own cleanup, with its own receipt, as if a person had asked for it. As many are listed as are
    deleted at once, so that each list is of what is replaced then: of nothing, once the re-crawl is cleaned up. What
    one meets is no reason to leave the others; a reconciliation goes on with what was begun and failed.
    """

    @workflow.run
    async def run(self, forgetting: ForgettingInput) -> int:
        """Forgets.

        Returns:
            How many documents were taken up, all of which are gone.

        Raises:
            ApplicationError: Some could not be forgotten (`cleanup-incomplete`).
            asyncio.CancelledError: It was cancelled; the cleanups that are at work go on by themselves.
        """
        goal = forgetting.taken + forgetting.sources_a_run
        is_more = True
        while is_more and forgetting.taken < goal:
            number = min(policies.CLEANUPS_AT_ONCE, goal - forgetting.taken)
            page = await workflow.execute_activity_method(
                ForgettingActivities.list_replaced_sources,
                ReplacedPage(forgetting.job_id, forgetting.after, number, forgetting.back),
                **policies.cleanup_count("find the next replaced documents"),
            )
            check_wanted()
            forgetting = await self._forget(forgetting, page)
            is_more = len(page.cleanups) == number if page.is_more is None else page.is_more
        check_wanted()
        if is_more:
            workflow.continue_as_new(forgetting)
        if forgetting.failed:
            told = f"{forgetting.failed} of {forgetting.taken} documents are left: {'; '.join(forgetting.reasons)}"
            raise ApplicationError(told, type="cleanup-incomplete", non_retryable=True)
        return forgetting.taken

    async def _forget(self, forgetting: ForgettingInput, page: ReplacedSources) -> ForgettingInput:
        """Deletes these documents side by side; returns how far it is then."""
        cleanups = [run_cleanup(source, source_cleanup_id(str(source.source_id))) for source in page.cleanups]
        answers = zip(page.cleanups, await asyncio.gather(*cleanups), strict=True)
        reasons = [f"source {source.source_id}: {reason}" for source, reason in answers if reason is not None]
        forgetting = replace(
            forgetting,
            after=page.after,
            back=page.back,
            taken=forgetting.taken + len(page.cleanups),
            failed=forgetting.failed + len(reasons),
            reasons=(*forgetting.reasons, *reasons)[:MAX_REASONS],
        )
        workflow.set_current_details(f"{forgetting.taken} documents taken up, {forgetting.failed} not forgotten")
        return forgetting
