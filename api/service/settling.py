"""Cleanups whose workflow ended without closing the receipt, as one that was terminated does."""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import structlog
from temporalio.client import WorkflowExecutionStatus

from api.resources import Gateway
from api.service.engine import GLANCE_S
from ke.contracts.cleanup import StoreCounts
from ke.contracts.errors import TemporalUnavailable, VectorStoreUnavailable
from ke.storage.cleanup_runs import fail_ended_run, find_open_run
from ke.storage.cleanups import row_counts, vector_counts

_ENDS: Final[Mapping[WorkflowExecutionStatus, str]] = {
    WorkflowExecutionStatus.TERMINATED: "was terminated from outside",
    WorkflowExecutionStatus.CANCELED: "was cancelled",
    WorkflowExecutionStatus.FAILED: "failed, and could not write down why",
    WorkflowExecutionStatus.TIMED_OUT: "ran out of time",
}
"""The ends after which the same cleanup can be started again."""

log = structlog.get_logger(__name__)


async def settle_cleanup(gateway: Gateway, job_id: uuid.UUID) -> bool:
    """Looks whether a cleanup that should be at work still is, and closes its receipt as failed when it is not.

    A workflow that Temporal does not know leaves all as it is: it may be about to start. Another start of the
    cleanup works in any case.

    Returns:
        Whether the receipt was closed now.

    Raises:
        DatabaseUnavailable: Postgres does not answer.
    """
    async with gateway.database.transaction() as connection:
        run = await find_open_run(connection, job_id)
    if run is None:
        return False
    try:
        status = await gateway.engine.cleanup_status(str(job_id), timeout_s=GLANCE_S)
    except TemporalUnavailable:
        return False
    if status is None or status not in _ENDS:
        return False
    try:
        remaining = await count_all(gateway, job_id)
    except VectorStoreUnavailable:
        remaining = None
    error = f"The cleanup's workflow {_ENDS[status]}. Start it again to go on."
    async with gateway.database.transaction() as connection:
        is_closed = await fail_ended_run(connection, job_id, run, error, remaining)
    if is_closed:
        log.warning("closed the receipt of a cleanup whose workflow is closed", job_id=str(job_id), status=status.name)
    return is_closed


async def count_all(gateway: Gateway, job_id: uuid.UUID) -> StoreCounts:
    """What a cleanup of this job would delete from every store, exactly.

    Raises:
        VectorStoreUnavailable: The vector store does not answer.
        DatabaseUnavailable: Postgres does not answer.
    """
    vectors = await vector_counts(gateway.vectors, job_id)
    async with gateway.database.transaction() as connection:
        rows = await row_counts(connection, job_id)
    return replace(rows, vectors=sum(vectors.values()))
