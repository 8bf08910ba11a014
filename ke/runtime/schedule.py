"""The Temporal Schedule that reconciles: made, changed and removed to be as the settings say."""

from datetime import timedelta
from typing import Final

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
)
from temporalio.service import RPCError, RPCStatusCode

from ke.contracts.naming import RECONCILE_SCHEDULE, SCHEDULED_RECONCILE_WORKFLOW, TaskQueue
from ke.contracts.reconciling import ReconcileInput
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import RPC_TIMEOUT, translated_rpc_errors

CATCH_UP: Final = timedelta(minutes=1)
"""How late a start may come: after an outage one reconciliation follows, and not all that were missed."""


async def set_reconcile_schedule(client: Client, settings: Settings) -> None:
    """Makes the schedule be as the settings say, whatever it was before; one that somebody paused stays paused.

    Raises:
        TemporalUnavailable: Temporal did not answer.
    """
    with translated_rpc_errors():
        if not settings.reconcile_every_s:
            await _remove(client)
            return
        schedule = _schedule(settings)
        try:
            await client.create_schedule(RECONCILE_SCHEDULE, schedule, rpc_timeout=RPC_TIMEOUT)
        except ScheduleAlreadyRunningError:

            def change(there: ScheduleUpdateInput) -> ScheduleUpdate:
                return ScheduleUpdate(_schedule(settings, state=there.description.schedule.state))

            handle = client.get_schedule_handle(RECONCILE_SCHEDULE)
            await handle.update(change, rpc_timeout=RPC_TIMEOUT)


def _schedule(settings: Settings, *, state: ScheduleState | None = None) -> Schedule:
    return Schedule(
        action=ScheduleActionStartWorkflow(
            SCHEDULED_RECONCILE_WORKFLOW,
            ReconcileInput(repair=True, max_share=settings.reconcile_max_share),
            id=RECONCILE_SCHEDULE,
            task_queue=TaskQueue.CLEANUP.value,
            static_summary="compare and repair the stores",
        ),
        spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=timedelta(seconds=settings.reconcile_every_s))]),
        policy=SchedulePolicy(overlap=ScheduleOverlapPolicy.SKIP, catchup_window=CATCH_UP),
        state=state or ScheduleState(note="KE_RECONCILE_EVERY_S and KE_RECONCILE_MAX_SHARE say how often and how much"),
    )


async def _remove(client: Client) -> None:
    try:
        await client.get_schedule_handle(RECONCILE_SCHEDULE).delete(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
