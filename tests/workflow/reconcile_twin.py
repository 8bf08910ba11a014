"""A small working twin of a reconciliation's activities, and the workers that run the real workflow on it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.naming import TaskQueue
from ke.contracts.reconciling import (
    CloseReconciliation,
    Finding,
    FindingKind,
    OpenReconciliation,
    ReconcileStep,
    Reconciliation,
)
from workflows.reconcile import ReconcileWorkflow, ScheduledReconcileWorkflow

NOW = "2026-01-01T00:00:00+00:00"


@dataclass
class ReconcileTwin(contract.ReconcileActivities, contract.SettleActivities, contract.RestoreActivities):
    """Finds what it is told to find; a repair mends all of it."""

    wrong: dict[FindingKind, Finding] = field(default_factory=dict)
    hanging: str = ""
    """The activity that does not end before it is cancelled."""
    calls: list[str] = field(default_factory=list)
    """The activities in their order; those that repaired with a `+`."""
    opened: OpenReconciliation | None = None
    closed: CloseReconciliation | None = None

    async def _look(self, name: str, step: ReconcileStep, *kinds: FindingKind) -> list[Finding]:
        self.calls.append(f"{name}{'+' if step.repair else ''}")

        async def body(beat: Beat) -> list[Finding]:
            while name == self.hanging and not beat.stopping:
                await beat.wait(0.05)
            found = [self.wrong.get(kind, Finding(kind, checked=100)) for kind in kinds]
            if step.repair:
                self.wrong = {kind: finding for kind, finding in self.wrong.items() if kind not in kinds}
                found = [replace(finding, repaired=finding.found) for finding in found]
            return found

        return await run_with_heartbeat(body)

    @activity.defn(name="open_reconciliation")
    async def open_reconciliation(self, opened: OpenReconciliation) -> None:
        """Keeps what was asked for."""
        self.opened = opened

    @activity.defn(name="close_reconciliation")
    async def close_reconciliation(self, close: CloseReconciliation) -> Reconciliation:
        """Keeps how it ended."""
        assert self.opened is not None
        self.closed = close
        asked = self.opened.request
        return Reconciliation(
            close.id,
            close.status,
            asked.repair,
            asked.max_share,
            close.findings,
            close.error,
            "2026-01-01",
            "2026-01-01",
        )

    @activity.defn(name="compare_points")
    async def compare_points(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of comparing points."""
        return await self._look("compare_points", step, FindingKind.POINTS_WITHOUT_ROWS)

    @activity.defn(name="compare_rows")
    async def compare_rows(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of comparing rows."""
        kinds = (FindingKind.ROWS_WITHOUT_POINTS, FindingKind.PENDING_ROWS)
        return await self._look("compare_rows", step, *kinds)

    @activity.defn(name="delete_pending_rows")
    async def delete_pending_rows(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of deleting rows."""
        return await self._look("delete_pending_rows", step, FindingKind.PENDING_ROWS)

    @activity.defn(name="settle_jobs")
    async def settle_jobs(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of settling jobs."""
        return await self._look("settle_jobs", step, FindingKind.OPEN_JOBS)

    @activity.defn(name="settle_cleanups")
    async def settle_cleanups(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of settling cleanups."""
        return await self._look("settle_cleanups", step, FindingKind.CLEANUPS)

    @activity.defn(name="settle_retries")
    async def settle_retries(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of settling retries."""
        return await self._look("settle_retries", step, FindingKind.RETRIES)

    @activity.defn(name="restore_points")
    async def restore_points(self, step: ReconcileStep) -> list[Finding]:
        """Plays the part of making points anew."""
        return await self._look("restore_points", step, FindingKind.ROWS_WITHOUT_POINTS)


@asynccontextmanager
async def reconciling(client: Client) -> AsyncIterator[ReconcileTwin]:
    """The twin, with workers for its queues while the block runs."""
    twin = ReconcileTwin()
    cleanup = Worker(
        client,
        task_queue=TaskQueue.CLEANUP.value,
        workflows=[ReconcileWorkflow, ScheduledReconcileWorkflow],
        activities=[
            twin.open_reconciliation,
            twin.compare_points,
            twin.compare_rows,
            twin.delete_pending_rows,
            twin.settle_jobs,
            twin.settle_cleanups,
            twin.settle_retries,
            twin.close_reconciliation,
        ],
        max_heartbeat_throttle_interval=timedelta(seconds=0.1),
        default_heartbeat_throttle_interval=timedelta(seconds=0.1),
    )
    async with cleanup, Worker(client, task_queue=TaskQueue.EXTRACT.value, activities=[twin.restore_points]):
        yield twin
