"""The retry of a job's dead letters: the job's own lanes once more, for what had failed for good."""

import asyncio
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from ke.contracts.activities import RetryActivities
from ke.contracts.counted import counted
from ke.contracts.jobs import JobError, Lane
from ke.contracts.naming import RETRY_WORKFLOW
from ke.contracts.retries import (
    CarriedRetry,
    CloseRetry,
    OpenedRetry,
    RetryInput,
    RetryOutcome,
    RetryProgress,
    RetryStatus,
)
from workflows import policies
from workflows.children import start_forgetting
from workflows.lanes import Lanes, error_of, shielded


@workflow.defn(name=RETRY_WORKFLOW)
class RetryWorkflow:
    """One retry of dead letters, the only one of its job at this time.

    It runs the lanes as the job did, stretch by stretch, follows new links, and extracts. The job's state never changes
    by it; its counters do.
    """

    @workflow.init
    def __init__(self, retry: RetryInput) -> None:
        """Takes up what the run before carried over, if there was one."""
        self._retry = retry
        self._lanes: Lanes | None = None
        self._opened: OpenedRetry | None = None
        if retry.carried is not None:
            self._take(retry.carried)

    @workflow.query(description="What the job has done as of the retry's last finished slices.")
    def progress(self) -> RetryProgress:
        """The workflow's view of the retry; `GET /retries/{id}` reads the newer one from Postgres."""
        lanes = self._lanes or Lanes(self._retry.job_id, None, None, must_yield=lambda: False, show=lambda: None)
        return RetryProgress(
            letters=self._opened.letters if self._opened else 0,
            counters=lanes.counters,
            collect_done=lanes.is_over(Lane.COLLECT),
            extract_done=lanes.is_over(Lane.EXTRACT),
            records_done=lanes.is_over(Lane.RECORDS),
            slices=lanes.slices,
            waiting_for=lanes.note,
            entities_done=lanes.is_over(Lane.ENTITIES),
        )

    @workflow.run
    async def run(self, _retry: RetryInput) -> RetryOutcome:
        """Runs the retry to its end.

        Returns:
            The outcome of a completed retry.

        Raises:
            asyncio.CancelledError: It was cancelled; its row says so.
            ApplicationError: It failed; its row says `failed`, with the same type and message.
        """
        failure: BaseException | None = None
        try:
            await self._work(await self._open())
        except (ActivityError, asyncio.CancelledError) as error:
            failure = error
        return self._answer(await shielded(self._finish(failure)))

    @property
    def _stopping(self) -> bool:
        return workflow.cancellation_reason() is not None

    @property
    def _all_done(self) -> bool:
        return self._lanes is not None and self._lanes.all_done

    @property
    def _has_lanes(self) -> bool:
        """Whether anything was queued; a cancel may have come before that."""
        opened = self._opened
        return opened is not None and (opened.collect, opened.extract, opened.entities) != (None, None, None)

    def _take(self, carried: CarriedRetry) -> Lanes:
        opened = carried.opened
        done = {
            Lane.COLLECT: carried.collect_done,
            Lane.EXTRACT: carried.extract_done,
            Lane.ENTITIES: carried.entities_done,
            Lane.RECORDS: carried.records_done,
        }
        lanes = Lanes(
            self._retry.job_id,
            opened.collect,
            opened.extract,
            must_yield=lambda: self._stopping,
            show=self._show,
            done=[lane for lane, is_done in done.items() if is_done],
            retrying=True,
        )
        lanes.open(opened.epoch, opened.started_at, opened.entities)
        self._opened, self._lanes = opened, lanes
        return lanes

    async def _open(self) -> Lanes:
        if self._lanes is not None:
            return self._lanes
        opened = await workflow.execute_activity_method(
            RetryActivities.open_retry, self._retry, **policies.close("queue what had failed")
        )
        lanes = self._take(CarriedRetry(opened))
        self._show()
        return lanes

    async def _work(self, lanes: Lanes) -> None:
        while not (lanes.all_done or self._stopping):
            if workflow.info().is_continue_as_new_suggested():
                self._continue_as_new(lanes)
            await lanes.run_stretch()
            self._stop_slices(lanes)
            if self._stopping:
                return
            failure = await lanes.drain()
            if failure is not None:
                raise failure

    def _stop_slices(self, lanes: Lanes) -> None:
        if self._stopping:
            lanes.stop_for_good()
        else:
            lanes.stop()

    def _continue_as_new(self, lanes: Lanes) -> None:
        assert self._opened is not None  # noqa: S101  (work begins after `_open`)
        carried = CarriedRetry(
            self._opened,
            collect_done=lanes.done[Lane.COLLECT],
            extract_done=lanes.done[Lane.EXTRACT],
            entities_done=lanes.done[Lane.ENTITIES],
            records_done=lanes.done[Lane.RECORDS],
        )
        workflow.continue_as_new(replace(self._retry, carried=carried))

    # The end

    async def _finish(self, failure: BaseException | None) -> RetryOutcome:
        """Brings the retry to rest and writes its end."""
        if self._lanes is not None:
            self._stop_slices(self._lanes)
            await self._lanes.drain()
        # Asked after the drain: the last slice may have ended with all done, and then the completion came first.
        close = CloseRetry(self._retry.id, self._retry.job_id, RetryStatus.COMPLETED)
        if not self._all_done or (self._stopping and not self._has_lanes):
            cancelled = self._stopping
            close = replace(
                close,
                status=RetryStatus.CANCELLED if cancelled else RetryStatus.FAILED,
                error=None if cancelled else error_of(failure),
            )
        outcome = await workflow.execute_activity_method(
            RetryActivities.close_retry, close, **policies.close("close the retry")
        )
        workflow.set_current_details(
            f"**{outcome.status}** · {counted(outcome.letters, 'dead letter')} taken up, "
            f"{outcome.succeeded:,} succeeded, {outcome.failed:,} failed again"
        )
        collected = self._opened.collect if self._opened is not None else None
        if outcome.status is RetryStatus.COMPLETED and collected is not None and collected.forget_replaced:
            # A page that failed may have turned out to be changed, or gone.
            await start_forgetting(self._retry.job_id, self._retry.id)
        return outcome

    def _answer(self, outcome: RetryOutcome) -> RetryOutcome:
        if outcome.status is RetryStatus.CANCELLED and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError(workflow.cancellation_reason() or "")
        if outcome.status is RetryStatus.FAILED:
            error = outcome.error or JobError("internal", "The retry failed.")
            raise ApplicationError(error.message, type=error.type, non_retryable=True)
        return outcome

    # What the web UI shows

    def _show(self) -> None:
        if self._lanes is None or self._opened is None:
            return
        c = self._lanes.counters
        workflow.set_current_details(
            f"**retrying** {counted(self._opened.letters, 'dead letter')} · "
            f"{counted(c.pages_fetched, 'page')} fetched, {c.pages_failed:,} failed, {counted(c.sources, 'source')} · "
            f"{c.sources_extracted:,} extracted, {counted(c.extractions, 'chunk')}"
        )
