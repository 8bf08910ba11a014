"""Rows whose workflow ended without writing it down, as one that was terminated does.

Whoever reads such a row settles it: the gateway on each read, the worker when it reconciles.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
from temporalio.client import WorkflowExecutionStatus

from ke.contracts.activities import CloseJob
from ke.contracts.cleanup import StoreCounts
from ke.contracts.errors import TemporalUnavailable, VectorStoreUnavailable
from ke.contracts.jobs import JobError, JobStatus
from ke.runtime.engine import GLANCE_S, Engine, Execution
from ke.storage.cleanup_runs import fail_ended_run, find_open_run
from ke.storage.cleanups import row_counts, vector_counts
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import JobRow, get_job
from ke.storage.vectors.base import VectorStore

_ENDS: Final[Mapping[WorkflowExecutionStatus, str]] = {
    WorkflowExecutionStatus.TERMINATED: "was terminated from outside",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
    WorkflowExecutionStatus.FAILED: "failed, and could not write down why",
    WorkflowExecutionStatus.TIMED_OUT: "ran out of time",
}
"""The ends after which the same cleanup can be started again."""

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


async def settle(backends: Backends, row: JobRow) -> tuple[JobRow, Execution | None]:
    """Looks whether an open job's workflow is still open, and repairs the row when it is not.

    A workflow that Temporal does not know leaves the row as it is: a gateway that is set up for the wrong namespace
    must not end every job that someone reads. A cancel does end it.
    """
    if row.status.is_terminal:
        return row, None
    try:
        execution = await backends.engine.describe_job(str(row.id), timeout_s=GLANCE_S)
    except TemporalUnavailable:
        return row, None
    if execution is None or execution.is_open:
        return row, execution
    try:
        return await repair(backends, row, execution), execution
    except TemporalUnavailable:
        return row, execution


async def repair(backends: Backends, row: JobRow, execution: Execution | None) -> JobRow:
    """Ends the row of a job whose workflow is closed, or lost, as that ended.

    Raises:
        TemporalUnavailable: How it ended cannot be told now.
        NotFound: The job was deleted meanwhile.
    """
    close = await _how_it_ended(backends, row, execution)
    await end_job(backends.database, close)
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


async def settle_cleanup(backends: Backends, job_id: uuid.UUID) -> bool:
    """Looks whether a cleanup that should be at work still is, and closes its receipt as failed when it is not.

    A workflow that Temporal does not know leaves all as it is: it may be about to start. Another start of the
    cleanup works in any case.

    Returns:
        Whether the receipt was closed now.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    async with backends.database.transaction() as connection:
        run = await find_open_run(connection, job_id)
    if run is None:
        return False
    try:
        status = await backends.engine.cleanup_status(str(job_id), timeout_s=GLANCE_S)
    except TemporalUnavailable:
        return False
    if status is None or status not in _ENDS:
        return False
    try:
        remaining = await count_all(backends, job_id)
    except VectorStoreUnavailable:
        remaining = None
    error = f"The cleanup's workflow {_ENDS[status]}. Start it again to go on."
    async with backends.database.transaction() as connection:
        is_closed = await fail_ended_run(connection, job_id, run, error, remaining)
    if is_closed:
        log.warning("closed the receipt of a cleanup whose workflow is closed", job_id=str(job_id), status=status.name)
    return is_closed


async def count_all(backends: Backends, job_id: uuid.UUID) -> StoreCounts:
    """What a cleanup of this job would delete from every store, exactly.

    Raises:
        VectorStoreUnavailable: The vector store does not answer.
        DatabaseUnavailable: Postgres does not answer.
    """
    vectors = await vector_counts(backends.vectors, job_id)
    async with backends.database.transaction() as connection:
        rows = await row_counts(connection, job_id)
    return replace(rows, vectors=sum(vectors.values()))
