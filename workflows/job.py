"""The job: lanes of activities, pause, limits, cancellation, and an outcome on every path."""

import asyncio
from dataclasses import replace

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from ke.contracts.activities import CloseJob, OpenedJob, RecordActivities, StatusChange
from ke.contracts.counted import counted
from ke.contracts.errors import Stopping
from ke.contracts.jobs import (
    ENDED_WELL,
    PAUSED_NOTE,
    CancellationReceipt,
    CancelRequest,
    CarriedState,
    CrawlLimits,
    JobError,
    JobInput,
    JobOutcome,
    JobProgress,
    JobStatus,
    Lane,
    LimitsChange,
)
from ke.contracts.naming import (
    JOB_KIND,
    JOB_STATUS,
    JOB_WORKFLOW,
    PROJECT,
    job_workflow_id,
)
from workflows import policies
from workflows.children import start_cleanup, start_forgetting
from workflows.lanes import Lanes, error_of, shielded
from workflows.recording import record_at_once


@workflow.defn(name=JOB_WORKFLOW)
class JobWorkflow:
    """One job. All that must outlive a run is in Postgres; this only decides what runs next.

    A job runs in stretches: its lanes start, each a loop of slices, and run until they are done or something asks
    them to yield: a cancel, a pause, new limits, a history that grows long. Then the running slices are cancelled,
    they commit what they have, and the stretch ends. So a stop of any kind is one thing, done in one place.
    """

    @workflow.init
    def __init__(self, job: JobInput) -> None:
        """Takes up what the run before carried over, if there was one."""
        carried = job.carried or CarriedState(epoch=0)
        done = {
            Lane.COLLECT: carried.collect_done,
            Lane.EXTRACT: carried.extract_done,
            Lane.ENTITIES: carried.entities_done,
            Lane.RECORDS: carried.records_done,
        }
        self._job = job
        self._status = JobStatus.QUEUED
        self._opened: OpenedJob | None = None
        self._lanes = Lanes(
            job.job_id,
            job.collect,
            job.extract,
            must_yield=lambda: self._stopping or self._paused or self._limits_changed,
            show=lambda: self._show(self._status),
            done=[lane for lane, is_done in done.items() if is_done],
            shards=carried.shards,
        )
        self._lanes.limits = carried.limits or self._lanes.limits
        self._limits_changed = False
        self._paused = False
        self._cancel: CancelRequest | None = None

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
        self._lanes.stop_seen_at = self._lanes.stop_seen_at or workflow.now()

    @workflow.update(description="Change the limits of a running crawl; what is left out stays as it is.")
    def set_limits(self, change: LimitsChange) -> CrawlLimits:
        """Changes the crawl's limits from the next page on; returns the limits now in force."""
        self._lanes.limits = _merge(self._lanes.limits, change)
        self._limits_changed = True
        return self._lanes.limits

    @set_limits.validator
    def _validate_limits(self, change: LimitsChange) -> None:
        if self._job.collect is None or not self._job.collect.follow:
            raise ApplicationError("Only a crawl has limits.", type="invalid-input", non_retryable=True)
        if self._lanes.done[Lane.COLLECT] or self._stopping:
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
            counters=self._lanes.counters,
            collect_done=self._lanes.is_over(Lane.COLLECT),
            extract_done=self._lanes.is_over(Lane.EXTRACT),
            records_done=self._lanes.is_over(Lane.RECORDS),
            slices=self._lanes.slices,
            waiting_for=self._waiting_for,
            entities_done=self._lanes.is_over(Lane.ENTITIES),
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
            if _is_stopping(error):
                # This run was reset to a moment before the cancel, which the row has kept.
                self._show(JobStatus.CANCELLING)
        return self._answer(await shielded(self._finish(failure)))

    @property
    def _stopping(self) -> bool:
        """Whether the job was cancelled, by whatever way. A bare cancel has the reason ""."""
        return self._cancel is not None or workflow.cancellation_reason() is not None

    @property
    def _cancelling(self) -> bool:
        """Whether the job ends as cancelled: it was cancelled, or its row says so already, and work is left."""
        return (self._stopping or self._status is JobStatus.CANCELLING) and not self._all_done

    @property
    def _waiting_for(self) -> str:
        """What the job waits for before it goes on; one that is being stopped, or has ended, goes on no more."""
        if self._stopping or self._status is JobStatus.CANCELLING or self._status.is_terminal:
            return ""
        return PAUSED_NOTE if self._paused else self._lanes.note

    @property
    def _all_done(self) -> bool:
        return self._opened is not None and self._lanes.all_done

    async def _open(self) -> None:
        self._opened = await record_at_once(
            RecordActivities.open_job, self._job, otherwise=policies.record("open the record")
        )
        self._lanes.open(self._opened.epoch, self._opened.started_at, self._opened.entities)
        self._show(self._opened.status)

    async def _work(self) -> None:
        if self._status is JobStatus.PAUSED and not self._paused:
            # This run was reset to a moment before the pause, and without its signal.
            await self._record(JobStatus.RUNNING)
        while not (self._all_done or self._stopping):
            if self._paused:
                await self._rest()
                continue
            if workflow.info().is_continue_as_new_suggested():
                self._continue_as_new()
            self._limits_changed = False
            await self._lanes.run_stretch()
            self._stop_slices()
            if self._stopping:
                return
            failure = await self._lanes.drain()
            if failure is not None:
                raise failure

    def _stop_slices(self) -> None:
        if self._stopping:
            self._lanes.stop_for_good()
        else:
            self._lanes.stop()

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
            limits=self._lanes.limits,
            collect_done=self._lanes.done[Lane.COLLECT],
            extract_done=self._lanes.done[Lane.EXTRACT],
            entities_done=self._lanes.done[Lane.ENTITIES],
            records_done=self._lanes.done[Lane.RECORDS],
            shards=self._lanes.shards,
        )
        workflow.continue_as_new(replace(self._job, carried=carried))

    # The end

    async def _finish(self, failure: BaseException | None) -> JobOutcome:
        """Brings the job to rest, writes its end, and starts its cleanup when that was asked for."""
        # First of all: the database may be slow or away, and no slice goes on meanwhile.
        self._stop_slices()
        if self._cancelling:
            await self._record(JobStatus.CANCELLING, self._reason)
        await self._lanes.drain()
        # Asked again: the last slice may have ended with all done, and then the completion came first.
        cancelled = self._cancelling
        close = CloseJob(
            job_id=self._job.job_id,
            cancelled=cancelled,
            error=None if cancelled or self._all_done else error_of(failure),
            cancellation=self._receipt() if cancelled else None,
            cleanup=self._cancel is not None,
        )
        outcome = await record_at_once(RecordActivities.close_job, close, otherwise=policies.close("close the record"))
        self._lanes.count_anew(outcome.counters)
        self._show(outcome.status)
        if self._cancel is not None:
            await start_cleanup(self._job.job_id, delete_record=self._cancel.delete_record)
        elif outcome.status in ENDED_WELL and self._job.collect is not None and self._job.collect.forget_replaced:
            await start_forgetting(self._job.job_id, job_workflow_id(self._job.job_id))
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
        seen, now = self._lanes.stop_seen_at or workflow.now(), workflow.now()
        return CancellationReceipt(
            requested_at=seen.isoformat(),
            quiescent_at=now.isoformat(),
            latency_s=round((now - seen).total_seconds(), 3),
            activities_drained=self._lanes.drained,
            activities_timed_out=len(self._lanes.timed_out),
            timed_out=tuple(self._lanes.timed_out),
            reason=self._reason,
        )

    # What the web UI shows

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
        c = self._lanes.counters
        workflow.set_current_details(
            f"**{status}** · {counted(c.pages_fetched, 'page')} fetched, {c.pages_failed:,} failed, "
            f"{counted(c.sources, 'source')} · {c.sources_extracted:,} extracted, {counted(c.extractions, 'chunk')}, "
            f"{counted(c.entities, 'entity', 'entities')}, {counted(c.dead_letters, 'dead letter')}"
        )


def _merge(limits: CrawlLimits, change: LimitsChange) -> CrawlLimits:
    return CrawlLimits(
        max_pages=limits.max_pages if change.max_pages is None else change.max_pages,
        max_depth=limits.max_depth if change.max_depth is None else change.max_depth,
        max_bytes=limits.max_bytes if change.max_bytes is None else change.max_bytes,
        max_seconds=limits.max_seconds if change.max_seconds is None else change.max_seconds,
    )


def _is_stopping(error: BaseException) -> bool:
    """Whether a slice was refused because the job's row says `cancelling`."""
    cause = error.cause if isinstance(error, ActivityError) else None
    return isinstance(cause, ApplicationError) and cause.type == Stopping.code
