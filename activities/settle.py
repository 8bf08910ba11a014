"""The looks of a reconciliation at workflows: open jobs, cleanups and retries that nobody works on any more.

Temporal is asked about each row after it was read, and the row is read again where that says that something is wrong:
a workflow writes its end before it closes. What mends a row is a compare-and-set, so it may meet the workflow, the
gateway or a reader who does the same.
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from temporalio import activity
from temporalio.client import WorkflowExecutionStatus
from temporalio.exceptions import WorkflowAlreadyStartedError

from activities.heartbeat import Beat, run_with_heartbeat
from activities.walking import Walk
from ke.contracts import activities as contract
from ke.contracts.cleanup import CleanupScope, ProjectCleanupInput
from ke.contracts.errors import NotFound
from ke.contracts.jobs import JobError
from ke.contracts.reconciling import Finding, FindingKind, ReconcileStep
from ke.contracts.retries import CloseRetry, RetryStatus
from ke.runtime.settling import WorkerBackends, is_lost, repair, settle_cleanup, settle_project_cleanup
from ke.storage import reconcile_runs as runs
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.cleanups import find_receipt
from ke.storage.jobs import JobRow, find_job
from ke.storage.reconcile_runs import RunningRetry, UnfinishedCleanup
from ke.storage.retries import end_retry

AT_ONCE: Final = 8
"""Rows about which Temporal is asked at the same time."""


class SettleActivities(contract.SettleActivities):
    """Rows against workflows."""

    def __init__(self, backends: WorkerBackends) -> None:
        self._backends = backends
        self._database = backends.database
        self._engine = backends.engine

    @activity.defn(name="settle_jobs")
    async def settle_jobs(self, step: ReconcileStep) -> list[Finding]:
        """Holds every open job against its workflow, and ends it as that ended when it repairs.

        A workflow that Temporal does not know is taken for lost where the job was started in this very namespace. Jobs
        of another one are ended only when anything goes.
        """

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.OPEN_JOBS)
            while not beat.stopping:
                async with self._database.transaction() as connection:
                    page = await runs.open_jobs(connection, int(walk.cursor) if walk.cursor else None)
                if not page:
                    break
                for first in range(0, len(page), AT_ONCE):
                    some = page[first : first + AT_ONCE]
                    for finding in await asyncio.gather(*(self._settle_job(row, step, beat) for row in some)):
                        walk.add(finding)
                    walk.reach(str(some[-1].seq))
            return walk.result

        return await run_with_heartbeat(body)

    async def _settle_job(self, row: JobRow, step: ReconcileStep, beat: Beat) -> Finding:
        looked_at = Finding(FindingKind.OPEN_JOBS, checked=1)
        execution = await self._engine.describe_job(str(row.id))
        if execution is not None and execution.is_open:
            return looked_at
        async with self._database.transaction() as connection:
            if not await runs.is_open(connection, row.id):
                return looked_at
        found = replace(looked_at, found=1, examples=(str(row.id),))
        if execution is None:
            if not await is_lost(self._backends, row) and not step.anything_goes:
                return replace(found, note=_FOREIGN)
            found = replace(found, at_stake=1)
        if not step.repair:
            return found
        try:
            await repair(self._backends, row, execution, beat.progress)
        except NotFound:
            return looked_at  # it was ended, and deleted, by somebody else
        return replace(found, repaired=1)

    @activity.defn(name="settle_cleanups")
    async def settle_cleanups(self, step: ReconcileStep) -> list[Finding]:
        """Looks for cleanups that nobody works on and that are not done, and starts them again when it repairs."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.CLEANUPS)
            while not beat.stopping:
                async with self._database.transaction() as connection:
                    page = await runs.unfinished_cleanups(connection, walk.cursor)
                if not page:
                    break
                for cleanup in page:
                    walk.add(await self._settle_cleanup(cleanup, repair=step.repair))
                    walk.reach(cleanup.id)
            return walk.result

        return await run_with_heartbeat(body)

    async def _settle_cleanup(self, cleanup: UnfinishedCleanup, *, repair: bool) -> Finding:
        looked_at = Finding(FindingKind.CLEANUPS, checked=1)
        if await self._is_worked_on(cleanup):
            return looked_at
        async with self._database.transaction() as connection:
            if not await runs.is_unfinished(connection, cleanup):
                return looked_at  # it was done since it was read
            blocked_by = await runs.in_the_way(connection, cleanup)
            goes_further = await runs.has_newer_jobs(connection, cleanup)
        found = replace(looked_at, found=1, examples=(cleanup.id,))
        if goes_further:
            note = f"{cleanup.id} is left alone: jobs of the project have ended since. Clean it up again, or not."
            return replace(found, note=note)
        if blocked_by:
            return replace(found, note=f"{cleanup.id} waits for active jobs: {_named(blocked_by)}.")
        if not repair:
            return found
        return replace(found, repaired=1) if await self._start(cleanup) else found

    async def _is_worked_on(self, cleanup: UnfinishedCleanup) -> bool:
        if cleanup.scope is CleanupScope.PROJECT:
            return bool(await self._engine.project_cleanup_is_open(cleanup.project or "", cleanup.id))
        status = await self._engine.cleanup_status(cleanup.id)
        if status is None and not cleanup.has_begun:
            # The job's workflow is about to start it.
            execution = await self._engine.describe_job(str(cleanup.job_id))
            return execution is not None and execution.is_open
        return status is WorkflowExecutionStatus.RUNNING

    async def _start(self, cleanup: UnfinishedCleanup) -> bool:
        """Starts a cleanup again, which joins one that somebody else has started meanwhile."""
        request = cleanup.request
        if request is None:
            async with self._database.transaction() as connection:
                receipt = await find_receipt(connection, cleanup.id)
            if receipt is not None:
                await settle_project_cleanup(self._backends, receipt)
            await self._engine.start_project_cleanup(
                ProjectCleanupInput(cleanup.project or "", delete_record=cleanup.delete_record)
            )
            return True
        await settle_cleanup(self._backends, CleanupTarget.of(request))
        try:
            await self._engine.start_cleanup(request)
        except WorkflowAlreadyStartedError:
            return False  # Temporal has it as done well, and Postgres does not: nothing to be done without a person
        return True

    @activity.defn(name="settle_retries")
    async def settle_retries(self, step: ReconcileStep) -> list[Finding]:
        """Looks for retries whose workflow is closed, and ends them as that ended when it repairs."""

        async def body(beat: Beat) -> list[Finding]:
            walk = Walk.begin(beat, FindingKind.RETRIES)
            while not beat.stopping:
                async with self._database.transaction() as connection:
                    page = await runs.running_retries(connection, walk.cursor)
                if not page:
                    break
                for retry in page:
                    walk.add(await self._settle_retry(retry, step, beat))
                    walk.reach(retry.id)
            return walk.result

        return await run_with_heartbeat(body)

    async def _settle_retry(self, retry: RunningRetry, step: ReconcileStep, beat: Beat) -> Finding:
        looked_at = Finding(FindingKind.RETRIES, checked=1)
        execution = await self._engine.retries.find(retry.id)
        if execution is not None and execution.is_open:
            return looked_at
        async with self._database.transaction() as connection:
            row = await find_job(connection, retry.job_id)
            if row is None or not await runs.still_running(connection, retry):
                return looked_at
        found = replace(looked_at, found=1, examples=(retry.id,))
        if row.retry_id != retry.id:
            close = _failed(retry, "fenced", "A cleanup took the job over.")
        elif execution is not None:
            close = await self._engine.retries.end_of(retry.id, str(retry.job_id), execution)
        elif await is_lost(self._backends, row) or step.anything_goes:
            close = _failed(retry, "workflow-lost", "Temporal does not know the retry's workflow any more.")
        else:
            return replace(found, note=_FOREIGN)
        if not step.repair:
            return found
        await end_retry(self._database, close, beat.progress)
        return replace(found, repaired=1)


_FOREIGN: Final = (
    "Some were started in another Temporal, or it is not known in which; they are left alone unless max_share is 1."
)


def _failed(retry: RunningRetry, kind: str, message: str) -> CloseRetry:
    return CloseRetry(retry.id, str(retry.job_id), RetryStatus.FAILED, JobError(kind, message))


def _named(jobs: Sequence[uuid.UUID]) -> str:
    return ", ".join(str(job) for job in jobs)
