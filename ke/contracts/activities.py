"""The activities as a workflow sees them: names, arguments and results, without their code.

Workflows call these signatures. The classes in `activities/` subclass them and repeat `@activity.defn` with the
same name, so the workflow sandbox never loads a database driver.
"""

from dataclasses import dataclass
from typing import Protocol

from temporalio import activity

from ke.contracts.cleanup import (
    CleanupFailure,
    CleanupInput,
    CleanupReceipt,
    ProjectCleanup,
    ProjectEnd,
    ProjectJobs,
    ProjectPage,
    ReplacedPage,
    ReplacedSources,
)
from ke.contracts.jobs import (
    CancellationReceipt,
    CollectSpec,
    Counters,
    ExtractSpec,
    JobError,
    JobInput,
    JobOutcome,
    JobStatus,
)
from ke.contracts.reconciling import (
    CloseReconciliation,
    Finding,
    OpenReconciliation,
    ReconcileStep,
    Reconciliation,
)
from ke.contracts.retries import CloseRetry, OpenedRetry, RetryInput, RetryOutcome


@dataclass(frozen=True, slots=True)
class OpenedJob:
    """What the workflow needs to know of the row it works for."""

    epoch: int
    status: JobStatus
    """Running; or cancelling, when the cancel came before the start; or terminal, when there is nothing to do."""
    started_at: str
    entities: str | None = None
    """The finder of the job's entities lane; None: there is no such lane. A history from before there was one has none
    either, so that it replays, and its job goes on, with the two lanes it began with."""


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A compare-and-set of a job's state."""

    job_id: str
    status: JobStatus
    reason: str = ""
    unopened: JobInput | None = None
    """The job, when its workflow has not opened it: its row may be lost with the commit of its submit, and is then
    written first."""


@dataclass(frozen=True, slots=True)
class CloseJob:
    """How a job ended; the row gets its result with it."""

    job_id: str
    cancelled: bool = False
    error: JobError | None = None
    cancellation: CancellationReceipt | None = None
    cleanup: bool = False
    """Whether a cleanup follows at once: the job's artifacts become `cleaning` with its last state."""


@dataclass(frozen=True, slots=True)
class CollectSlice:
    """One activity's share of a collect lane."""

    job_id: str
    epoch: int
    spec: CollectSpec
    extract: bool
    """Whether the job has an extract lane, which is told of every new source."""
    started_at: str
    """When the job started, ISO 8601: `max_seconds` counts from there."""
    max_pages: int = 500
    """Pages in this slice."""
    max_seconds: float = 120.0
    """Seconds in this slice."""
    retrying: bool = False
    """Whether dead letters are retried: their pages come first, and other ones only as the page limit allows."""
    shard: int = 0
    """Which of the lane's shards this slice works on: the hosts whose hash, modulo `shards`, is this."""
    shards: int = 1
    """Into how many shards the lane is split; 1: this slice has all hosts."""
    may_split: bool = False
    """Whether the slice may end early to have the lane split, where there is work on several hosts."""


@dataclass(frozen=True, slots=True)
class ExtractSlice:
    """One activity's share of an extract lane."""

    job_id: str
    epoch: int
    spec: ExtractSpec
    collecting: bool
    """Whether the job has a collect lane, so that more sources may come until that is done."""
    max_seconds: float = 120.0
    """Seconds in this slice."""
    entities_apart: bool = False
    """Whether a lane of their own finds the entities. Without it, as in a workflow that began before there was one,
    this lane finds them after it has extracted."""


@dataclass(frozen=True, slots=True)
class EntitySlice:
    """One activity's share of an entities lane."""

    job_id: str
    epoch: int
    finder: str
    """The name of the finder of entities."""
    extracting: bool
    """Whether the job's extract lane is still at work, so that more sources may come until that is done."""
    max_seconds: float = 120.0
    """Seconds in this slice."""


@dataclass(frozen=True, slots=True)
class StructuredSlice:
    """One activity's share of a records lane. What it is to ask for is in the job's row: a schema may be long."""

    job_id: str
    epoch: int
    collecting: bool
    """Whether the job has a collect lane, so that more sources may come until that is done."""
    max_seconds: float = 120.0
    """Seconds in which this slice begins new calls."""


@dataclass(frozen=True, slots=True)
class SliceReport:
    """What a slice did, and whether its lane is at its end."""

    done: bool
    counters: Counters
    """The lane's totals after this slice."""
    interrupted: bool = False
    """Whether a cancellation ended the slice; what it had was committed first."""
    note: str = ""
    """For people: what the lane waits for, or why it ended."""
    shards: int = 1
    """Into how many shards a collect lane is to be split from now on; 1: it stays as it is."""
    idle: bool = False
    """Whether this slice of a shard had no page to fetch, while others are at work and may find some for it."""


class RecordActivities(Protocol):
    """Short activities that keep the job's row true."""

    @activity.defn(name="open_job")
    async def open_job(self, job: JobInput) -> OpenedJob:
        """Writes the row when it is missing and sets it running."""
        ...

    @activity.defn(name="set_job_status")
    async def set_job_status(self, change: StatusChange) -> JobStatus:
        """Changes the state if that is allowed from where it is; returns the state it is in then."""
        ...

    @activity.defn(name="close_job")
    async def close_job(self, close: CloseJob) -> JobOutcome:
        """Counts, and writes the terminal state with its result."""
        ...


class CollectActivities(Protocol):
    """Fetching."""

    @activity.defn(name="collect_pages")
    async def collect_pages(self, piece: CollectSlice) -> SliceReport:
        """Fetches pages of the frontier until the slice or the frontier ends."""
        ...

    @activity.defn(name="collect_shard")
    async def collect_shard(self, piece: CollectSlice) -> SliceReport:
        """The same for one shard of a lane that is split: a worker of before there were any does not know this name."""
        ...


class ExtractActivities(Protocol):
    """Chunks and vectors."""

    @activity.defn(name="extract_sources")
    async def extract_sources(self, piece: ExtractSlice) -> SliceReport:
        """Extracts sources until the slice ends or none is left."""
        ...


class EntityActivities(Protocol):
    """Entities."""

    @activity.defn(name="find_entities")
    async def find_entities(self, piece: EntitySlice) -> SliceReport:
        """Finds the entities of extracted sources until the slice ends or none is left."""
        ...


class StructuredActivities(Protocol):
    """Records by a JSON Schema."""

    @activity.defn(name="extract_records")
    async def extract_records(self, piece: StructuredSlice) -> SliceReport:
        """Asks a language model for the records of sources until the slice ends or none is left."""
        ...


class RetryActivities(Protocol):
    """How a retry of dead letters begins and ends."""

    @activity.defn(name="open_retry")
    async def open_retry(self, retry: RetryInput) -> OpenedRetry:
        """Writes the retry's row when it is missing, fences the job, and queues what the letters are of."""
        ...

    @activity.defn(name="close_retry")
    async def close_retry(self, close: CloseRetry) -> RetryOutcome:
        """Buries again what was not tried, counts the job anew, and closes the retry's row."""
        ...


class CleanupActivities(Protocol):
    """The steps of a cleanup, each of which may be repeated at any point without changing the receipt."""

    @activity.defn(name="begin_cleanup")
    async def begin_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Refuses an active job, raises the write epoch, counts what there is and opens the receipt."""
        ...

    @activity.defn(name="delete_vectors")
    async def delete_vectors(self, cleanup: CleanupInput) -> None:
        """Deletes the job's points, at most 1,000 ids a batch."""
        ...

    @activity.defn(name="delete_sources")
    async def delete_sources(self, cleanup: CleanupInput) -> None:
        """Deletes the job's sources; extractions and entities go by cascade and are counted."""
        ...

    @activity.defn(name="purge_dead_letters")
    async def purge_dead_letters(self, cleanup: CleanupInput) -> None:
        """Deletes the job's dead letters and its frontier."""
        ...

    @activity.defn(name="verify_cleanup")
    async def verify_cleanup(self, cleanup: CleanupInput) -> CleanupReceipt:
        """Counts every store exactly and closes the receipt, as cleaned or as failed."""
        ...

    @activity.defn(name="erase_history")
    async def erase_history(self, cleanup: CleanupInput) -> None:
        """Deletes the job's workflow from Temporal: its history holds the URLs that were asked for."""
        ...

    @activity.defn(name="fail_cleanup")
    async def fail_cleanup(self, failure: CleanupFailure) -> None:
        """Closes the receipt of a run that was stopped, so that the next one can go on from there."""
        ...


class ProjectCleanupActivities(Protocol):
    """What the cleanup of a project needs beside those of its jobs."""

    @activity.defn(name="begin_project_cleanup")
    async def begin_project_cleanup(self, cleanup: ProjectCleanup) -> CleanupReceipt:
        """Opens the receipt and counts what there is, or refuses a project with active jobs."""
        ...

    @activity.defn(name="list_project_jobs")
    async def list_project_jobs(self, page: ProjectPage) -> ProjectJobs:
        """The next ended jobs that are to be cleaned."""
        ...

    @activity.defn(name="close_project_cleanup")
    async def close_project_cleanup(self, end: ProjectEnd) -> CleanupReceipt:
        """Closes the receipt with the sums over the jobs' receipts."""
        ...


class ForgettingActivities(Protocol):
    """What the forgetting of replaced documents needs beside their cleanups."""

    @activity.defn(name="list_replaced_sources")
    async def list_replaced_sources(self, page: ReplacedPage) -> ReplacedSources:
        """The next documents that a re-crawl which ended well has replaced, and that are still there."""
        ...


class ReconcileActivities(Protocol):
    """The looks of a reconciliation at points and rows; with `repair` a look mends what it finds."""

    @activity.defn(name="open_reconciliation")
    async def open_reconciliation(self, opened: OpenReconciliation) -> None:
        """Writes the record of a run that begins."""
        ...

    @activity.defn(name="compare_points")
    async def compare_points(self, step: ReconcileStep) -> list[Finding]:
        """Walks over all points and looks for those without a row."""
        ...

    @activity.defn(name="compare_rows")
    async def compare_rows(self, step: ReconcileStep) -> list[Finding]:
        """Walks over all extractions and looks for those without a point, and for those never finished."""
        ...

    @activity.defn(name="delete_pending_rows")
    async def delete_pending_rows(self, step: ReconcileStep) -> list[Finding]:
        """Deletes the extractions that ended jobs never finished, their points first."""
        ...

    @activity.defn(name="close_reconciliation")
    async def close_reconciliation(self, close: CloseReconciliation) -> Reconciliation:
        """Writes what was found and repaired."""
        ...


class SettleActivities(Protocol):
    """The looks of a reconciliation at workflows."""

    @activity.defn(name="settle_jobs")
    async def settle_jobs(self, step: ReconcileStep) -> list[Finding]:
        """Holds every open job against its workflow."""
        ...

    @activity.defn(name="settle_cleanups")
    async def settle_cleanups(self, step: ReconcileStep) -> list[Finding]:
        """Looks for cleanups that nobody works on, and starts them again."""
        ...

    @activity.defn(name="settle_retries")
    async def settle_retries(self, step: ReconcileStep) -> list[Finding]:
        """Looks for retries whose workflow is closed."""
        ...


class RestoreActivities(Protocol):
    """What a reconciliation does with the process pool."""

    @activity.defn(name="restore_points")
    async def restore_points(self, step: ReconcileStep) -> list[Finding]:
        """Makes the points of extractions that lost them anew."""
        ...
