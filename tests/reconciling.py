"""Reconciliations of real stores by a real workflow, and the worker that runs them."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from temporalio.client import Client, WorkflowFailureError
from temporalio.service import RPCError
from temporalio.worker import Worker

from activities.cleanup import CleanupActivities
from activities.failures import FailureInterceptor
from activities.project_cleanup import ProjectCleanupActivities
from activities.reconcile import ReconcileActivities, RestoreActivities
from activities.settle import SettleActivities
from ke.contracts.naming import RECONCILE_ID, TaskQueue
from ke.contracts.reconciling import Finding, FindingKind, ReconcileInput, Reconciliation
from ke.runtime.engine import Engine
from ke.runtime.pool import CpuPool
from ke.runtime.settling import WorkerBackends
from tests.stores import Stores
from workflows.cleanup import CleanupWorkflow
from workflows.project_cleanup import ProjectCleanupWorkflow
from workflows.reconcile import ReconcileWorkflow, ScheduledReconcileWorkflow

DEADLINE_S = 60.0


def reconcile_registrations(stores: Stores, client: Client, pool: CpuPool) -> dict[TaskQueue, dict[str, Any]]:
    """What a worker registers of it, by queue."""
    compare = ReconcileActivities(stores.database, stores.vectors)
    settle = SettleActivities(WorkerBackends(stores.database, Engine.of(client), stores.vectors))
    restore = RestoreActivities(stores.database, stores.vectors, pool)
    return {
        TaskQueue.CLEANUP: {
            "workflows": [ReconcileWorkflow, ScheduledReconcileWorkflow],
            "activities": [
                compare.open_reconciliation,
                compare.compare_points,
                compare.compare_rows,
                compare.delete_pending_rows,
                compare.close_reconciliation,
                settle.settle_jobs,
                settle.settle_cleanups,
                settle.settle_retries,
            ],
        },
        TaskQueue.EXTRACT: {"activities": [restore.restore_points]},
    }


@asynccontextmanager
async def reconcile_worker(stores: Stores, client: Client) -> AsyncIterator[None]:
    """A worker for reconciliations and cleanups."""
    steps = CleanupActivities(stores.database, stores.vectors)
    project = ProjectCleanupActivities(stores.database, stores.vectors)
    pool = CpuPool(1)
    registrations = reconcile_registrations(stores, client, pool)
    registrations[TaskQueue.CLEANUP]["workflows"] += [CleanupWorkflow, ProjectCleanupWorkflow]
    registrations[TaskQueue.CLEANUP]["activities"] += [
        steps.begin_cleanup,
        steps.delete_vectors,
        steps.delete_sources,
        steps.purge_dead_letters,
        steps.verify_cleanup,
        steps.erase_history,
        steps.fail_cleanup,
        project.begin_project_cleanup,
        project.list_project_jobs,
        project.close_project_cleanup,
    ]
    workers = [
        Worker(client, task_queue=queue.value, interceptors=[FailureInterceptor()], **registration)
        for queue, registration in registrations.items()
    ]
    try:
        async with workers[0], workers[1]:
            yield
    finally:
        await pool.close()


async def reconcile(
    client: Client, *, repair: bool = True, max_share: float = 1.0
) -> tuple[Reconciliation, Mapping[FindingKind, Finding]]:
    """One reconciliation from start to end: its record, and what it found by kind."""
    async with asyncio.timeout(DEADLINE_S):
        await _until_none_runs(client)
        await Engine.of(client).start_reconciliation(ReconcileInput(repair=repair, max_share=max_share))
        handle = client.get_workflow_handle(RECONCILE_ID, result_type=Reconciliation)
        record = await handle.result()
    return record, {finding.kind: finding for finding in record.findings}


async def _until_none_runs(client: Client) -> None:
    """One that was asked for over HTTP answers a moment before its workflow is closed."""
    with contextlib.suppress(RPCError, WorkflowFailureError):
        await client.get_workflow_handle(RECONCILE_ID).result()


async def execute(stores: Stores, statement: str, **values: Any) -> None:
    """A statement of a test's own."""
    async with stores.database.transaction() as connection:
        await connection.execute(sa.text(statement), values)


async def scalar(stores: Stores, statement: str, **values: Any) -> Any:
    """The one value that a query gives."""
    async with stores.database.transaction() as connection:
        return (await connection.execute(sa.text(statement), values)).scalar_one()


async def until_artifacts(stores: Stores, job_id: uuid.UUID, artifacts: str) -> None:
    """Returns when a job's artifacts are in this state."""
    async with asyncio.timeout(DEADLINE_S):
        while await scalar(stores, "SELECT artifacts FROM jobs WHERE id = :id", id=job_id) != artifacts:  # noqa: ASYNC110  (another process is at work)
            await asyncio.sleep(0.05)
