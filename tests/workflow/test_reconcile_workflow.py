"""What the workflow of a reconciliation decides, on twins of its activities."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import CancelledError
from temporalio.worker import Replayer

from ke.contracts.naming import (
    RECONCILE_ID,
    RECONCILE_WORKFLOW,
    SCHEDULED_RECONCILE_WORKFLOW,
    TaskQueue,
    reconciliation_id,
)
from ke.contracts.reconciling import Finding, FindingKind, ReconcileInput, ReconcileStatus, Reconciliation
from tests.workflow.reconcile_twin import ReconcileTwin, reconciling
from tests.workflow.stage import open_temporal
from workflows.reconcile import ReconcileWorkflow, ScheduledReconcileWorkflow

LOOKS = ["settle_jobs", "settle_retries", "settle_cleanups", "compare_points", "compare_rows"]
POINTS, JOBS, PENDING = FindingKind.POINTS_WITHOUT_ROWS, FindingKind.OPEN_JOBS, FindingKind.PENDING_ROWS


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with open_temporal() as connected:
        yield connected


@pytest.fixture
async def twin(client: Client) -> AsyncIterator[ReconcileTwin]:
    """A twin at work; what ran on it is replayed in the end."""
    async with reconciling(client) as found:
        yield found
    history = await client.get_workflow_handle(RECONCILE_ID).fetch_history()
    await Replayer(workflows=[ReconcileWorkflow, ScheduledReconcileWorkflow]).replay_workflow(history)


async def start(client: Client, **asked: Any) -> WorkflowHandle[Any, Reconciliation]:
    return await client.start_workflow(
        RECONCILE_WORKFLOW,
        ReconcileInput(**asked),
        id=RECONCILE_ID,
        task_queue=TaskQueue.CLEANUP.value,
        result_type=Reconciliation,
    )


async def test_look_repairs_nothing(client: Client, twin: ReconcileTwin) -> None:
    """Without repair every look is taken once, and what is wrong stays."""
    twin.wrong = {POINTS: Finding(POINTS, checked=100, found=90, at_stake=90)}
    handle = await start(client, repair=False)
    record = await handle.result()
    assert twin.calls == LOOKS
    assert (record.status, record.id) == (ReconcileStatus.COMPLETED, reconciliation_id(handle.result_run_id or ""))
    assert {finding.kind for finding in record.findings} == set(FindingKind)


async def test_only_what_is_wrong_is_repaired(client: Client, twin: ReconcileTwin) -> None:
    """A repair is made of each kind of which something was found, within the share."""
    twin.wrong = {POINTS: Finding(POINTS, checked=100, found=10, at_stake=10)}
    record = await (await start(client, max_share=0.1)).result()
    assert twin.calls == [*LOOKS, "compare_points+"]
    assert record.status is ReconcileStatus.COMPLETED
    assert [(f.found, f.repaired) for f in record.findings if f.kind is POINTS] == [(10, 10)]


async def test_too_large_a_share_repairs_nothing_of_any_kind(client: Client, twin: ReconcileTwin) -> None:
    """One more than the share allows: nothing is repaired, and the record names the numbers."""
    twin.wrong = {
        POINTS: Finding(POINTS, checked=100, found=11, at_stake=11),
        JOBS: Finding(JOBS, checked=5, found=5, at_stake=5),
    }
    record = await (await start(client, max_share=0.1)).result()
    assert twin.calls == LOOKS
    assert record.status is ReconcileStatus.STOPPED
    assert "11 of 100 (points-without-rows) would be deleted" in (record.error or "")


async def test_rows_are_looked_at_anew_when_jobs_were_ended(client: Client, twin: ReconcileTwin) -> None:
    """What ended jobs leave unfinished counts against the share before it is deleted."""
    twin.wrong = {
        JOBS: Finding(JOBS, checked=5, found=5, at_stake=5),
        PENDING: Finding(PENDING, checked=100, found=3, at_stake=3),
    }
    record = await (await start(client, max_share=0.1)).result()
    assert twin.calls == [*LOOKS, "settle_jobs+", "compare_rows", "delete_pending_rows+"]
    assert record.status is ReconcileStatus.COMPLETED


@pytest.mark.parametrize("cancelled_at", ["compare_points", "compare_rows"])
async def test_cancelled_run_says_so(client: Client, twin: ReconcileTwin, cancelled_at: str) -> None:
    """A run that is cancelled, at its last step too, closes its record, with what it had found, and repairs no more."""
    twin.hanging = cancelled_at
    handle = await start(client, repair=cancelled_at != "compare_rows")
    async with asyncio.timeout(30):
        while cancelled_at not in twin.calls:  # noqa: ASYNC110  (the worker's list: it can only be looked at)
            await asyncio.sleep(0.02)
    await handle.cancel(reason="not now")
    with pytest.raises(WorkflowFailureError) as failure:
        await handle.result()
    assert isinstance(failure.value.cause, CancelledError)
    assert twin.closed is not None
    assert (twin.closed.status, twin.closed.error) == (ReconcileStatus.FAILED, "It was cancelled: not now.")
    assert not any(call.endswith("+") for call in twin.calls)


async def test_scheduled_one_leaves_the_running_one_alone(client: Client, twin: ReconcileTwin) -> None:
    """There is one reconciliation at a time, whoever started it; the schedule's start ends beside it."""
    twin.hanging = "settle_jobs"
    running = await start(client, repair=False)
    start_of_schedule = await client.execute_workflow(
        SCHEDULED_RECONCILE_WORKFLOW,
        ReconcileInput(),
        id="ke-reconcile-now",
        task_queue=TaskQueue.CLEANUP.value,
        result_type=str,
    )
    assert start_of_schedule == "there is one at work"
    await running.cancel()
    with pytest.raises(WorkflowFailureError):
        await running.result()
