"""Rows whose workflow ended without writing it down, as one that was terminated does.

Whoever reads such a row settles it: the gateway on each read, the worker when it reconciles.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import structlog
from temporalio.client import WorkflowExecutionStatus

from ke.contracts.activities import CloseJob
from ke.contracts.cleanup import CleanupReceipt, CleanupStatus, ProjectEnd, StoreCounts
from ke.contracts.errors import RowLocked, TemporalUnavailable, VectorStoreUnavailable
from ke.contracts.jobs import JobError, JobStatus
from ke.contracts.retries import CloseRetry, RetryStatus
from ke.runtime.engine import GLANCE_S, Engine
from ke.runtime.executions import Execution
from ke.storage.cleanup_projects import close_project_receipt
from ke.storage.cleanup_runs import fail_ended_run, find_open_run
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import row_counts, vector_counts
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import JobRow, get_job, request_cancel
from ke.storage.retries import end_retry
from ke.storage.vectors.base import VectorStore

_ENDS: Final[Mapping[WorkflowExecutionStatus, str]] = {
    WorkflowExecutionStatus.TERMINATED: "was terminated from outside",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
    WorkflowExecutionStatus.FAILED: "failed, and could not write down why",
    WorkflowExecutionStatus.TIMED_OUT: "ran out of time",
}
"""The ends after which the same cleanup can be started again."""

PATIENCE_S: Final = 0.5
"""Seconds for which someone who only reads a job waits for its row."""

log = structlog.get_logger(__name__)


class Backends(Protocol):
    """Who is asked; a gateway is one."""

    @property
    def database(self) -> Database:
        """The rows."""
        ...

    @property
    def engine(self) -> Engine:
        """The workflows."""
        ...

    @property
    def vectors(self) -> VectorStore:
        """The points."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerBackends:
    """The `Backends` of a worker."""

    database: Database
    engine: Engine
    vectors: VectorStore


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as Postgres and Temporal have it together."""

    row: JobRow
    """As it is true: its workflow may know more than was written so far."""
    execution: Execution | None = None
    """Its workflow; None when the job has ended, or Temporal cannot tell."""
    trouble: str | None = None
    """Why the row could not be held against Temporal, for people."""


async def settle(backends: Backends, row: JobRow) -> tuple[JobRow, Execution | None]:
    """The row and the workflow of `look`."""
    sighting = await look(backends, row)
    return sighting.row, sighting.execution


async def look(backends: Backends, row: JobRow) -> Sighting:
    """Holds an open job against its workflow, and makes the row true where that was stopped from elsewhere.

    A workflow that is closed ends the row. So does one that Temporal does not know, where the job was started in this
    very namespace: a gateway that is set up for the wrong Temporal must not end every job that someone reads. One
    that was asked to cancel makes the row `cancelling`. The run is the workflow's, which a reset has changed.

    Raises:
        NotFound: The job was deleted meanwhile.
        DatabaseUnavailable: Postgres does not answer.
    """
    if row.status.is_terminal:
        return Sighting(await settle_retry(backends, row))
    try:
        execution = await backends.engine.describe_job(str(row.id), timeout_s=GLANCE_S)
        if execution is None and not await is_lost(backends, row):
            return Sighting(row, trouble=_unknown(row))
        if execution is not None and execution.is_open:
            return Sighting(await _as_asked(backends, row, execution), execution)
        return Sighting(await repair(backends, row, execution, lock_timeout_s=PATIENCE_S), execution)
    except TemporalUnavailable as error:
        return Sighting(row, trouble=f"Temporal cannot be asked at the moment: {error.message}")
    except RowLocked:
        return Sighting(row, trouble="its workflow has ended, and a transaction that does not move holds its row")


async def is_lost(backends: Backends, row: JobRow) -> bool:
    """Whether a job's workflow, which Temporal does not know, was started in this very namespace, and is gone.

    A row is committed after its workflow was started, so a workflow that is not there yet has no row.

    Raises:
        TemporalUnavailable: Temporal does not answer.
    """
    if row.namespace_id is None:
        return False
    return row.namespace_id == await backends.engine.namespace_id(is_fresh=True, timeout_s=GLANCE_S)


def _unknown(row: JobRow) -> str:
    where = "where it was started was not recorded" if row.namespace_id is None else "it was started in another one"
    return f"its workflow is unknown to this Temporal and namespace: {where}; a cancel ends the job"


async def _as_asked(backends: Backends, row: JobRow, execution: Execution) -> JobRow:
    """The row of a job that goes on: of the run that is at work, and `cancelling` once that was asked for."""
    if execution.cancel_requested and row.status is not JobStatus.CANCELLING:
        try:
            async with backends.database.transaction(lock_timeout_s=PATIENCE_S) as connection:
                # Where it was moved on meanwhile, it is as it is now.
                row = await request_cancel(connection, row.id, "") or await get_job(connection, row.id)
        except RowLocked:
            # What is true is told, and written by the workflow or the next who looks.
            row = replace(row, status=JobStatus.CANCELLING, cancel_requested_at=datetime.now(UTC))
    return row if row.status.is_terminal else replace(row, run_id=execution.run_id)


async def repair(
    backends: Backends,
    row: JobRow,
    execution: Execution | None,
    progress: Callable[[], None] = lambda: None,
    *,
    lock_timeout_s: float | None = None,
) -> JobRow:
    """Ends the row of a job whose workflow is closed, or lost, as that ended; `progress` is called on the way.

    Raises:
        TemporalUnavailable: How it ended cannot be told now.
        RowLocked: Another transaction holds the row.
        NotFound: The job was deleted meanwhile.
    """
    close = await _how_it_ended(backends, row, execution)
    run_id = execution.run_id if execution is not None else None
    await end_job(backends.database, close, progress, run_id=run_id, lock_timeout_s=lock_timeout_s)
    async with backends.database.transaction() as connection:
        repaired = await get_job(connection, row.id)
    log.warning("repaired an open job whose workflow is closed", job_id=str(row.id), status=repaired.status.value)
    return repaired


async def _how_it_ended(backends: Backends, row: JobRow, execution: Execution | None) -> CloseJob:
    job_id = str(row.id)
    if execution is None:
        return CloseJob(job_id, error=JobError("workflow-lost", "Temporal does not know the job's workflow any more."))
    end = await backends.engine.end_of_job(job_id, execution)
    if isinstance(end, JobError):
        return CloseJob(job_id, error=end)
    return CloseJob(job_id, cancelled=end.status is JobStatus.CANCELLED, error=end.error, cancellation=end.cancellation)


async def settle_retry(backends: Backends, row: JobRow) -> JobRow:
    """The row of an ended job, without a retry of dead letters that should be at work and is not.

    As with a job, a workflow that is closed ends the retry, and so does one that Temporal does not know, where the
    job was started in this very namespace. A row that somebody holds is left to the next who looks.

    Raises:
        NotFound: The job was deleted meanwhile.
        DatabaseUnavailable: Postgres does not answer.
    """
    if row.retry_id is None:
        return row
    try:
        execution = await backends.engine.retries.find(row.retry_id, timeout_s=GLANCE_S)
        if execution is None:
            if not await is_lost(backends, row):
                return row
            lost = JobError("workflow-lost", "Temporal does not know the retry's workflow any more.")
            close = CloseRetry(row.retry_id, str(row.id), RetryStatus.FAILED, lost)
        elif execution.is_open:
            return row
        else:
            close = await backends.engine.retries.end_of(row.retry_id, str(row.id), execution)
        await end_retry(backends.database, close, lock_timeout_s=PATIENCE_S)
    except (TemporalUnavailable, RowLocked):
        return row
    log.warning("closed a retry whose workflow is closed", retry=row.retry_id, status=close.status.value)
    async with backends.database.transaction() as connection:
        return await get_job(connection, row.id)


async def settle_cleanup(backends: Backends, target: CleanupTarget) -> bool:
    """Looks whether a cleanup that should be at work still is, and closes its receipt as failed when it is not.

    A workflow that Temporal does not know leaves all as it is: it may be about to start. Another start of the
    cleanup works in any case.

    Returns:
        Whether the receipt was closed now.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    async with backends.database.transaction() as connection:
        run = await find_open_run(connection, target)
    if run is None:
        return False
    try:
        status = await backends.engine.cleanup_status(target.receipt_id, timeout_s=GLANCE_S)
    except TemporalUnavailable:
        return False
    if status is None or status not in _ENDS:
        return False
    try:
        remaining = await count_all(backends, target)
    except VectorStoreUnavailable:
        remaining = None
    error = f"The cleanup's workflow {_ENDS[status]}. Start it again to go on."
    async with backends.database.transaction() as connection:
        is_closed = await fail_ended_run(connection, target, run, error, remaining)
    if is_closed:
        log.warning(
            "closed the receipt of a cleanup whose workflow is closed", cleanup=target.receipt_id, status=status.name
        )
    return is_closed


async def settle_project_cleanup(backends: Backends, receipt: CleanupReceipt) -> bool:
    """The same for the cleanup of a project, whose receipt is there from its beginning.

    Returns:
        Whether the receipt was closed now.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    if receipt.status is not CleanupStatus.RUNNING or receipt.project is None:
        return False
    try:
        is_open = await backends.engine.project_cleanup_is_open(receipt.project, receipt.id)
    except TemporalUnavailable:
        return False
    if is_open is not False:
        return False
    error = "The cleanup's workflow was ended from outside. Start it again to go on."
    end = ProjectEnd(receipt.project, receipt.id, jobs=receipt.jobs or 0, after=0, error=error)
    async with backends.database.transaction() as connection:
        closed = await close_project_receipt(connection, end, None)
    return closed.error == error


async def count_all(backends: Backends, target: CleanupTarget) -> StoreCounts:
    """What a cleanup would delete from every store, exactly.

    Raises:
        VectorStoreUnavailable: The vector store does not answer.
        DatabaseUnavailable: Postgres does not answer.
    """
    vectors = await vector_counts(backends.vectors, target)
    async with backends.database.transaction() as connection:
        rows = await row_counts(connection, target)
    return replace(rows, vectors=sum(vectors.values()))
