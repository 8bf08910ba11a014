"""Small working twins of all activities: rows in memory, slices that run until they are told or cancelled."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from temporalio import activity
from temporalio.exceptions import ApplicationError

from ke.contracts import activities as contract
from ke.contracts.activities import (
    CloseJob,
    CollectSlice,
    EntitySlice,
    ExtractSlice,
    OpenedJob,
    SliceReport,
    StatusChange,
    StructuredSlice,
)
from ke.contracts.cleanup import (
    CleanupFailure,
    CleanupInput,
    CleanupReceipt,
    CleanupStatus,
    ProjectCleanup,
    ProjectEnd,
    ProjectJobs,
    ProjectPage,
    ReplacedPage,
    ReplacedSources,
    StoreCounts,
)
from ke.contracts.jobs import (
    TRANSITIONS,
    CancellationReceipt,
    Counters,
    JobError,
    JobInput,
    JobOutcome,
    JobStatus,
    Lane,
)
from ke.contracts.naming import cleanup_id
from ke.contracts.retries import CloseRetry, OpenedRetry, RetryInput, RetryOutcome
from ke.storage import closing

BEAT_S = 0.05


@dataclass
class Row:
    """What the `jobs` table holds of one job."""

    status: JobStatus = JobStatus.QUEUED
    seen: list[JobStatus] = field(default_factory=lambda: [JobStatus.QUEUED])
    """Every state it was in, in order."""
    cancel_requested_at: datetime | None = None
    cancel_reason: str | None = None
    counters: Counters | None = None
    receipt: CancellationReceipt | None = None
    error: JobError | None = None
    cleaning: bool = False

    def move(self, target: JobStatus) -> bool:
        """The compare-and-set of `ke.storage.jobs.move_job`."""
        if target not in TRANSITIONS[self.status]:
            return False
        self.status = target
        self.seen.append(target)
        return True


@dataclass
class Script:
    """How the slices of one lane behave."""

    slices: int | None = None
    """After so many slices the lane is done; None: a slice runs until `finish` is set."""
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, one slice ends and leaves work to the next one."""
    on_finish: ApplicationError | None = None
    """Raised when a slice is told to finish."""
    on_stop: ApplicationError | None = None
    """Raised instead of handing back when a slice is cancelled."""
    answer: asyncio.Event | None = None
    """What a cancelled slice waits for before it answers."""
    done_on_stop: bool = False
    """Whether a cancelled slice happens to have just finished its lane."""
    deaf: bool = False
    """Neither beats nor hears a cancellation, as if its worker were dead."""
    shards: int = 1
    """Into how many shards the first slice asks to have its lane split."""
    idle: set[int] = field(default_factory=set)
    """Shards whose slices find nothing to do."""
    failing: dict[int, ApplicationError] = field(default_factory=dict)
    """Shards whose slices fail."""
    started: list[CollectSlice | ExtractSlice | EntitySlice | StructuredSlice] = field(default_factory=list)
    handed_back: int = 0
    running: int = 0


class Twin(
    contract.RecordActivities,
    contract.CollectActivities,
    contract.ExtractActivities,
    contract.EntityActivities,
    contract.StructuredActivities,
    contract.RetryActivities,
    contract.CleanupActivities,
    contract.ProjectCleanupActivities,
    contract.ForgettingActivities,
):
    """All activities of one test."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all jobs and all that was set up for them."""
        self.rows: dict[str, Row] = {}
        self.lanes = {lane: Script() for lane in Lane}
        self.failing: dict[str, ApplicationError] = {}
        """Activities that fail, by name, for as long as they stand here."""
        self.holding: dict[str, asyncio.Event] = {}
        """Activities that wait for an event, by name."""
        self.attempts: Counter[str] = Counter()
        self.cleaned: list[CleanupInput] = []
        self.retry = OpenedRetry(epoch=2, started_at="2026-01-01T00:00:00+00:00", letters=3)
        """What a retry finds when it opens."""
        self.closed: list[CloseRetry] = []
        self.project_jobs: list[str] = []
        """The ended jobs of the only project, in order."""
        self.project_ends: list[ProjectEnd] = []
        self.replaced: list[CleanupInput] = []
        """The documents that the only re-crawl has replaced, in order."""
        self.fenced = True
        """Whether the vector store refuses late writes itself."""

    @property
    def row(self) -> Row:
        """The row of the only job."""
        (row,) = self.rows.values()
        return row

    def ended_before(self, job_id: str) -> None:
        """Writes the row of a job that has completed."""
        self.rows[job_id] = row = Row()
        assert row.move(JobStatus.RUNNING)
        assert row.move(JobStatus.COMPLETED)

    async def _enter(self, name: str) -> None:
        self.attempts[name] += 1
        if name in self.holding:
            await self.holding[name].wait()
        if name in self.failing:
            raise self.failing[name]

    # The job's row

    @activity.defn(name="open_job")
    async def open_job(self, job: JobInput) -> OpenedJob:
        """As `ke.storage.jobs.open_job`."""
        await self._enter("open_job")
        row = self.rows.setdefault(job.job_id, Row())
        if row.status is JobStatus.QUEUED:
            row.move(JobStatus.RUNNING)
        finder = job.extract.entities if job.extract is not None else None
        return OpenedJob(epoch=1, status=row.status, started_at="2026-01-01T00:00:00+00:00", entities=finder)

    @activity.defn(name="set_job_status")
    async def set_job_status(self, change: StatusChange) -> JobStatus:
        """As `activities.record`."""
        await self._enter("set_job_status")
        row = self.rows[change.job_id]
        if row.move(change.status) and change.status is JobStatus.CANCELLING:
            row.cancel_requested_at, row.cancel_reason = datetime.now(UTC), change.reason
        return row.status

    @activity.defn(name="close_job")
    async def close_job(self, close: CloseJob) -> JobOutcome:
        """As `ke.storage.closing`, with its own rules for the last state, the way there and the receipt."""
        await self._enter("close_job")
        row = self.rows[close.job_id]
        if not row.status.is_terminal:
            counters = sum((self._counters(lane) for lane in Lane), Counters())
            status = closing._final_status(close, has_failures=False)
            receipt = closing._receipt(row, close, datetime.now(UTC))
            for step in (*closing._path(row.status, status), status):
                assert row.move(step), f"{row.status} -> {step}"
            row.counters, row.receipt, row.cleaning = counters, receipt, close.cleanup
            row.error = close.error if status is JobStatus.FAILED else None
        return JobOutcome(close.job_id, row.status, row.counters or Counters(), row.receipt, row.error)

    # A retry

    @activity.defn(name="open_retry")
    async def open_retry(self, _retry: RetryInput) -> OpenedRetry:
        """Finds what the test has laid out."""
        await self._enter("open_retry")
        return self.retry

    @activity.defn(name="close_retry")
    async def close_retry(self, close: CloseRetry) -> RetryOutcome:
        """Ends it once."""
        await self._enter("close_retry")
        self.closed.append(close)
        return RetryOutcome(close.id, close.job_id, close.status, letters=self.retry.letters, error=close.error)

    # The lanes

    @activity.defn(name="collect_pages")
    async def collect_pages(self, piece: CollectSlice) -> SliceReport:
        """Fetches nothing; each slice counts one page."""
        await self._enter("collect_pages")
        if piece.may_split and self.lanes[Lane.COLLECT].shards > 1:
            self.lanes[Lane.COLLECT].started.append(piece)
            shards = self.lanes[Lane.COLLECT].shards
            return SliceReport(done=False, counters=self._counters(Lane.COLLECT), shards=shards)
        return await self._slice(Lane.COLLECT, piece)

    @activity.defn(name="collect_shard")
    async def collect_shard(self, piece: CollectSlice) -> SliceReport:
        """The same for a shard."""
        await self._enter("collect_shard")
        script = self.lanes[Lane.COLLECT]
        if piece.shard in script.failing:
            raise script.failing[piece.shard]
        if piece.shard in script.idle:
            script.started.append(piece)
            return SliceReport(done=False, counters=self._counters(Lane.COLLECT), idle=True)
        return await self._slice(Lane.COLLECT, piece)

    @activity.defn(name="extract_sources")
    async def extract_sources(self, piece: ExtractSlice) -> SliceReport:
        """Extracts nothing; each slice counts one source."""
        await self._enter("extract_sources")
        return await self._slice(Lane.EXTRACT, piece)

    @activity.defn(name="find_entities")
    async def find_entities(self, piece: EntitySlice) -> SliceReport:
        """Finds nothing; each slice counts one source."""
        await self._enter("find_entities")
        return await self._slice(Lane.ENTITIES, piece)

    @activity.defn(name="extract_records")
    async def extract_records(self, piece: StructuredSlice) -> SliceReport:
        """Asks nobody; each slice counts one record."""
        await self._enter("extract_records")
        return await self._slice(Lane.RECORDS, piece)

    async def _slice(
        self, lane: Lane, piece: CollectSlice | ExtractSlice | EntitySlice | StructuredSlice
    ) -> SliceReport:
        script = self.lanes[lane]
        script.started.append(piece)
        script.running += 1
        try:
            await self._run(script)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if details is None or not details.cancel_requested:
                raise
            if script.answer is not None:
                await script.answer.wait()
            if script.on_stop is not None:
                raise script.on_stop from None
            script.handed_back += 1
            return SliceReport(done=script.done_on_stop, counters=self._counters(lane), interrupted=True)
        finally:
            script.running -= 1
        if script.on_finish is not None:
            raise script.on_finish
        done = script.finish.is_set() if script.slices is None else len(script.started) >= script.slices
        return SliceReport(done=done, counters=self._counters(lane), note="" if done else f"more to {lane}")

    async def _run(self, script: Script) -> None:
        if script.deaf:
            while not script.finish.is_set():
                try:
                    await asyncio.sleep(BEAT_S)
                except asyncio.CancelledError:
                    continue
        elif script.slices is not None:
            activity.heartbeat()
        else:
            while not (script.finish.is_set() or script.more.is_set()):
                activity.heartbeat()
                await asyncio.sleep(BEAT_S)
            script.more.clear()

    def _counters(self, lane: Lane) -> Counters:
        number = len(self.lanes[lane].started)
        match lane:
            case Lane.COLLECT:
                return Counters(pages_fetched=number)
            case Lane.EXTRACT:
                return Counters(sources_extracted=number)
            case Lane.ENTITIES:
                return Counters(entity_sources=number)
            case Lane.RECORDS:
                return Counters(records=number)

    # The cleanup

    @activity.defn(name="begin_cleanup")
    async def begin_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Opens the receipt."""
        await self._enter("begin_cleanup")
        return self._receipt(cleanup, CleanupStatus.RUNNING)

    @activity.defn(name="delete_vectors")
    async def delete_vectors(self, _cleanup: CleanupInput) -> None:
        """There are none."""
        await self._enter("delete_vectors")

    @activity.defn(name="delete_sources")
    async def delete_sources(self, _cleanup: CleanupInput) -> None:
        """There are none."""
        await self._enter("delete_sources")

    @activity.defn(name="purge_dead_letters")
    async def purge_dead_letters(self, _cleanup: CleanupInput) -> None:
        """There are none."""
        await self._enter("purge_dead_letters")

    @activity.defn(name="verify_cleanup")
    async def verify_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Nothing is left."""
        await self._enter("verify_cleanup")
        self.cleaned.append(cleanup)
        return replace(self._receipt(cleanup, CleanupStatus.CLEANED), completed_at="2026-01-01T00:00:01+00:00")

    @activity.defn(name="erase_history")
    async def erase_history(self, _cleanup: CleanupInput) -> None:
        """Erases nothing: a twin's histories are looked at afterwards."""
        await self._enter("erase_history")

    @activity.defn(name="fail_cleanup")
    async def fail_cleanup(self, _failure: CleanupFailure) -> None:
        """Closes the receipt."""
        await self._enter("fail_cleanup")

    def _receipt(self, cleanup: CleanupInput, status: CleanupStatus) -> CleanupReceipt:
        return CleanupReceipt(
            id=cleanup_id(cleanup.job_id),
            job_id=cleanup.job_id,
            status=status,
            planned=StoreCounts(sources=2),
            deleted=StoreCounts(sources=2),
            remaining=StoreCounts(),
            started_at="2026-01-01T00:00:00+00:00",
            delete_record=cleanup.delete_record,
            fenced=self.fenced,
        )

    # The cleanup of a project

    @activity.defn(name="begin_project_cleanup")
    async def begin_project_cleanup(self, cleanup: ProjectCleanup) -> CleanupReceipt:
        """Opens the receipt."""
        await self._enter("begin_project_cleanup")
        return self._project_receipt(cleanup.receipt_id, CleanupStatus.RUNNING)

    @activity.defn(name="list_project_jobs")
    async def list_project_jobs(self, page: ProjectPage) -> ProjectJobs:
        """The next ones; a job's number in the list is its `seq`."""
        await self._enter("list_project_jobs")
        found = self.project_jobs[page.after : page.after + page.limit]
        return ProjectJobs(tuple(found), page.after + len(found))

    @activity.defn(name="close_project_cleanup")
    async def close_project_cleanup(self, end: ProjectEnd) -> CleanupReceipt:
        """Closes the receipt."""
        await self._enter("close_project_cleanup")
        self.project_ends.append(end)
        status = CleanupStatus.FAILED if end.error else CleanupStatus.CLEANED
        return replace(self._project_receipt(end.receipt_id, status), jobs=end.jobs, error=end.error)

    def _project_receipt(self, receipt_id: str, status: CleanupStatus) -> CleanupReceipt:
        counts = StoreCounts(sources=2)
        return CleanupReceipt(receipt_id, None, status, counts, counts, StoreCounts(), "2026-01-01T00:00:00+00:00")

    # What a re-crawl has replaced

    @activity.defn(name="list_replaced_sources")
    async def list_replaced_sources(self, page: ReplacedPage) -> ReplacedSources:
        """The next ones; a document's number in the list is its `seq`, and each three are of one job."""
        await self._enter("list_replaced_sources")
        assert page.back == (page.after // 3 if page.after else None)
        found = self.replaced[page.after : page.after + page.limit]
        after = page.after + len(found)
        return ReplacedSources(tuple(found), after, after // 3, is_more=after < len(self.replaced))
