"""The job: two lanes of activities, pause, limits, cancellation, and an outcome on every path."""

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, WorkflowAlreadyStartedError
from temporalio.exceptions import CancelledError as ActivityCancelledError
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

from ke.contracts.activities import (
    CloseJob,
    CollectActivities,
    CollectSlice,
    ExtractActivities,
    ExtractSlice,
    OpenedJob,
    RecordActivities,
    SliceReport,
    StatusChange,
)
from ke.contracts.cleanup import CleanupInput
from ke.contracts.jobs import (
    CancellationReceipt,
    CancelRequest,
    CarriedState,
    Counters,
    CrawlLimits,
    JobError,
    JobInput,
    JobOutcome,
    JobProgress,
    JobStatus,
    Lane,
    LimitsChange,
)
from ke.contracts.naming import CLEANUP_WORKFLOW, JOB_KIND, JOB_STATUS, JOB_WORKFLOW, PROJECT, TaskQueue, cleanup_id
from workflows import policies


@workflow.defn(name=JOB_WORKFLOW)
class JobWorkflow:
    """One job. All that must outlive a run is in Postgres; this only decides what runs next.

    A job runs in stretches: both lanes start, each a loop of slices, and run until they are done or something asks
    them to yield: a cancel, a pause, new limits, a history that grows long. Then the running slices are cancelled,
    they commit what they have, and the stretch ends. So a stop of any kind is one thing, done in one place.
    """

    @workflow.init
    def __init__(self, job: JobInput) -> None:
        """Takes up what the run before carried over, if there was one."""
        carried = job.carried or CarriedState(epoch=0)
        self._job = job
        self._status = JobStatus.QUEUED
        self._opened: OpenedJob | None = None
        self._done = {Lane.COLLECT: carried.collect_done, Lane.EXTRACT: carried.extract_done}
        self._lanes = [
            lane for lane, spec in ((Lane.COLLECT, job.collect), (Lane.EXTRACT, job.extract)) if spec is not None
        ]
        self._limits: CrawlLimits = carried.limits or (job.collect.limits if job.collect else CrawlLimits())
        self._limits_changed = False
        self._yielding = False
        self._paused = carried.paused
        self._cancel: CancelRequest | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[Lane, workflow.ActivityHandle[SliceReport]] = {}
        self._totals: dict[Lane, Counters] = {}
        self._notes: dict[Lane, str] = {}
        self._slices = 0
        self._stop_seen_at: datetime | None = None
        self._drained = 0
        self._timed_out = 0

    # What people and the gateway may ask

    @workflow.signal(description="Finish what is in flight and wait; `resume` goes on.")
    def pause(self) -> None:
        """Stops the lanes until `resume`."""
        self._paused = True

    @workflow.signal(description="Go on after `pause`.")
    def resume(self) -> None:
        """Starts the lanes again."""
        self._paused = False

    @workflow.signal(description="Cancel the job and then delete all it made.")
    def cancel_and_clean(self, request: CancelRequest = CancelRequest()) -> None:  # noqa: B008  (frozen)
        """Stops the job for good and starts its cleanup."""
        self._cancel = self._cancel or request
        self._stop_seen_at = self._stop_seen_at or workflow.now()

    @workflow.update(description="Change the limits of a running crawl; what is left out stays as it is.")
    def set_limits(self, change: LimitsChange) -> CrawlLimits:
        """Changes the crawl's limits from the next page on; returns the limits now in force."""
        self._limits = _merge(self._limits, change)
        self._limits_changed = True
        return self._limits

    @set_limits.validator
    def _validate_limits(self, change: LimitsChange) -> None:
        if self._job.collect is None or not self._job.collect.follow:
            raise ApplicationError("Only a crawl has limits.", type="invalid-input", non_retryable=True)
        if self._done[Lane.COLLECT] or self._stopping:
            raise ApplicationError("The crawl fetches no more pages.", type="conflict", non_retryable=True)
        for name, value, least in (
            ("max_pages", change.max_pages, 1),
            ("max_depth", change.max_depth, 0),
            ("max_bytes", change.max_bytes, 1),
            ("max_seconds", change.max_seconds, 1),
        ):
            if value is not None and value < least:
                raise ApplicationError(f"{name} must be at least {least}.", type="invalid-input", non_retryable=True)

    @workflow.query(description="What the job has done as of its last finished slices.")
    def progress(self) -> JobProgress:
        """The workflow's view of the job; `GET /jobs/{id}` reads the newer one from Postgres."""
        return JobProgress(
            status=self._status,
            counters=self._counters(),
            collect_done=self._done[Lane.COLLECT] or Lane.COLLECT not in self._lanes,
            extract_done=self._done[Lane.EXTRACT] or Lane.EXTRACT not in self._lanes,
            slices=self._slices,
            waiting_for="resume" if self._paused else "; ".join(note for note in self._notes.values() if note),
        )

    # The run

    @workflow.run
    async def run(self, _job: JobInput) -> JobOutcome:
        """Runs the job to its end.

        Returns:
            The outcome of a completed job, or of one cancelled by the `cancel_and_clean` signal alone.

        Raises:
            asyncio.CancelledError: The job was cancelled through Temporal; its row says `cancelled`.
            ApplicationError: The job failed; its row says `failed`, with the same type and message.
        """
        failure: BaseException | None = None
        try:
            await self._open()
            if self._status in {JobStatus.RUNNING, JobStatus.PAUSED}:
                await self._work()
        except (ActivityError, asyncio.CancelledError) as error:
            failure = error
        return self._answer(await self._shielded(self._finish(failure)))

    @staticmethod
    async def _shielded(end: Coroutine[Any, Any, JobOutcome]) -> JobOutcome:
        """Awaits the end of the job, which a cancel that comes only now must not cut short."""
        task = asyncio.create_task(end, name="finish")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # It is delivered once, so this is not cancelled again.
            return await task

    @property
    def _stopping(self) -> bool:
        """Whether the job was cancelled, by whatever way. A bare cancel has the reason ""."""
        return self._cancel is not None or workflow.cancellation_reason() is not None

    @property
    def _cancelling(self) -> bool:
        """Whether the job ends as cancelled: it was cancelled, or its row says so already, and work is left."""
        return (self._stopping or self._status is JobStatus.CANCELLING) and not self._all_done

    @property
    def _all_done(self) -> bool:
        return self._opened is not None and all(self._done[lane] for lane in self._lanes)

    async def _open(self) -> None:
        self._opened = await workflow.execute_activity_method(
            RecordActivities.open_job, self._job, **policies.record("open the record")
        )
        self._show(self._opened.status)

    async def _work(self) -> None:
        while not (self._all_done or self._stopping):
            if self._paused:
                await self._rest()
                continue
            if workflow.info().is_continue_as_new_suggested():
                self._continue_as_new()
            self._limits_changed = self._yielding = False
            self._tasks = [
                asyncio.create_task(self._run_lane(lane), name=lane) for lane in self._lanes if not self._done[lane]
            ]
            await workflow.wait_condition(lambda: self._interrupted or all(task.done() for task in self._tasks))
            self._stop_slices()
            if self._stopping:
                return
            failure = await self._drain()
            if failure is not None:
                raise failure

    @property
    def _interrupted(self) -> bool:
        failed = any(task.done() and task.exception() is not None for task in self._tasks)
        return self._stopping or self._paused or self._limits_changed or failed

    async def _run_lane(self, lane: Lane) -> None:
        """Runs slices of one lane until it is done or the stretch ends."""
        # `_yielding` outlasts what it is for: a `resume` may come before the slice has answered to the `pause`.
        while not (
            self._done[lane] or self._yielding or self._interrupted or workflow.info().is_continue_as_new_suggested()
        ):
            handle = self._start_slice(lane)
            self._running[lane] = handle
            try:
                report = await handle
            except ActivityError as error:
                final = isinstance(error.cause, ApplicationError) and error.cause.non_retryable
                if final or not (self._yielding or self._interrupted):
                    raise
                # It was cancelled before a worker had it, its worker is dead and cannot acknowledge, or a store was
                # out of reach when it stopped: what it had not committed is done again by the next slice.
                self._count_answer(error.cause)
                return
            finally:
                del self._running[lane]
            self._slices += 1
            self._done[lane] = report.done
            self._totals[lane] = report.counters
            self._notes[lane] = report.note
            self._count_answer()
            self._show(self._status)

    def _count_answer(self, cause: BaseException | None = None) -> None:
        """Counts a slice that ended after the cancel. One that Temporal itself cancelled was not running."""
        if self._stop_seen_at is None or isinstance(cause, ActivityCancelledError):
            return
        timed_out = isinstance(cause, ActivityTimeoutError)
        self._timed_out += timed_out
        self._drained += not timed_out

    def _start_slice(self, lane: Lane) -> workflow.ActivityHandle[SliceReport]:
        opened = self._opened
        assert opened is not None  # noqa: S101  (lanes start after `_open`)
        if lane is Lane.COLLECT and self._job.collect is not None:
            return workflow.start_activity_method(
                CollectActivities.collect_pages,
                CollectSlice(
                    job_id=self._job.job_id,
                    epoch=opened.epoch,
                    spec=replace(self._job.collect, limits=self._limits),
                    extract=self._job.extract is not None,
                    started_at=opened.started_at,
                    max_pages=policies.SLICE_MAX_PAGES,
                    max_seconds=policies.SLICE_MAX_SECONDS,
                ),
                **policies.lane_slice(TaskQueue.COLLECT, f"collect, slice {self._slices + 1}"),
            )
        assert self._job.extract is not None  # noqa: S101  (the other lane there is)
        return workflow.start_activity_method(
            ExtractActivities.extract_sources,
            ExtractSlice(
                job_id=self._job.job_id,
                epoch=opened.epoch,
                spec=self._job.extract,
                collecting=self._job.collect is not None,
                max_seconds=policies.SLICE_MAX_SECONDS,
            ),
            **policies.lane_slice(TaskQueue.EXTRACT, f"extract, slice {self._slices + 1}"),
        )

    def _stop_slices(self) -> None:
        """Cancels the running slices; asking twice is asking once."""
        if self._stopping and self._stop_seen_at is None:
            self._stop_seen_at = workflow.now()
        self._yielding = True
        for handle in self._running.values():
            handle.cancel()

    async def _drain(self) -> BaseException | None:
        """Waits until each running slice has acknowledged or timed out; returns the failure of a lane."""
        await workflow.wait_condition(lambda: all(task.done() for task in self._tasks))
        failures = [task.exception() for task in self._tasks]
        return next((failure for failure in failures if failure is not None), None)

    async def _rest(self) -> None:
        await self._record(JobStatus.PAUSED)
        await workflow.wait_condition(lambda: not self._paused or self._stopping)
        if not self._stopping:
            await self._record(JobStatus.RUNNING)

    async def _record(self, status: JobStatus, reason: str = "") -> None:
        now = await workflow.execute_activity_method(
            RecordActivities.set_job_status,
            StatusChange(self._job.job_id, status, reason, unopened=None if self._opened else self._job),
            **policies.record(f"record {status}"),
        )
        self._show(now)

    def _continue_as_new(self) -> None:
        assert self._opened is not None  # noqa: S101  (work begins after `_open`)
        carried = CarriedState(
            epoch=self._opened.epoch,
            paused=self._paused,
            limits=self._limits,
            collect_done=self._done[Lane.COLLECT],
            extract_done=self._done[Lane.EXTRACT],
        )
        workflow.continue_as_new(replace(self._job, carried=carried))

    # The end

    async def _finish(self, failure: BaseException | None) -> JobOutcome:
        """Brings the job to rest, writes its end, and starts its cleanup when that was asked for."""
        # First of all: the database may be slow or away, and no slice goes on meanwhile.
        self._stop_slices()
        if self._cancelling:
            await self._record(JobStatus.CANCELLING, self._reason)
        await self._drain()
        # Asked again: the last slice may have ended with all done, and then the completion came first.
        cancelled = self._cancelling
        close = CloseJob(
            job_id=self._job.job_id,
            cancelled=cancelled,
            error=None if cancelled or self._all_done else _job_error(failure),
            cancellation=self._receipt() if cancelled else None,
            cleanup=self._cancel is not None,
        )
        outcome = await workflow.execute_activity_method(
            RecordActivities.close_job, close, **policies.close("close the record")
        )
        self._totals = {Lane.COLLECT: outcome.counters}
        self._show(outcome.status)
        if self._cancel is not None:
            await self._start_cleanup(self._cancel)
        return outcome

    def _answer(self, outcome: JobOutcome) -> JobOutcome:
        if outcome.status is JobStatus.CANCELLED and workflow.cancellation_reason() is not None:
            raise asyncio.CancelledError(self._reason)
        if outcome.status is JobStatus.FAILED:
            error = outcome.error or JobError("internal", "The job failed.")
            raise ApplicationError(error.message, type=error.type, non_retryable=True)
        return outcome

    @property
    def _reason(self) -> str:
        signalled = self._cancel.reason if self._cancel else ""
        return signalled or workflow.cancellation_reason() or ""

    def _receipt(self) -> CancellationReceipt:
        seen, now = self._stop_seen_at or workflow.now(), workflow.now()
        return CancellationReceipt(
            requested_at=seen.isoformat(),
            quiescent_at=now.isoformat(),
            latency_s=round((now - seen).total_seconds(), 3),
            activities_drained=self._drained,
            activities_timed_out=self._timed_out,
            reason=self._reason,
        )

    async def _start_cleanup(self, request: CancelRequest) -> None:
        """Starts the cleanup as a child that neither this job's end nor its cancellation touches."""
        try:
            await workflow.start_child_workflow(
                CLEANUP_WORKFLOW,
                CleanupInput(self._job.job_id, delete_record=request.delete_record),
                id=cleanup_id(self._job.job_id),
                task_queue=TaskQueue.CLEANUP,
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
                static_summary=f"clean up job {self._job.job_id}",
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.info("A cleanup of this job is running already.")

    # What the web UI shows

    def _counters(self) -> Counters:
        return sum(self._totals.values(), Counters())

    def _show(self, status: JobStatus) -> None:
        if status is not self._status:
            self._status = status
            workflow.upsert_search_attributes(
                [
                    JOB_STATUS.value_set(status.value),
                    JOB_KIND.value_set(self._job.kind.value),
                    PROJECT.value_set(self._job.project),
                ]
            )
        c = self._counters()
        workflow.set_current_details(
            f"**{status}** · {c.pages_fetched} pages fetched, {c.pages_failed} failed, {c.sources} sources · "
            f"{c.sources_extracted} extracted, {c.extractions} chunks, {c.entities} entities, "
            f"{c.dead_letters} dead letters"
        )


def _merge(limits: CrawlLimits, change: LimitsChange) -> CrawlLimits:
    return CrawlLimits(
        max_pages=limits.max_pages if change.max_pages is None else change.max_pages,
        max_depth=limits.max_depth if change.max_depth is None else change.max_depth,
        max_bytes=limits.max_bytes if change.max_bytes is None else change.max_bytes,
        max_seconds=limits.max_seconds if change.max_seconds is None else change.max_seconds,
    )


def _job_error(failure: BaseException | None) -> JobError | None:
    if failure is None:
        return None
    cause = failure.cause if isinstance(failure, ActivityError) else None
    if isinstance(cause, ApplicationError):
        return JobError(type=cause.type or "internal", message=cause.message)
    return JobError(type="internal", message=str(cause or failure) or type(failure).__name__)
