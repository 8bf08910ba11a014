"""Asking for reconciliations, and reading what they found."""

import asyncio
import time
from typing import Final

from api.errors import ReconciliationRunning
from api.findings import ReconciliationView
from api.pagination import Slice
from api.resources import Gateway
from api.schemas import ReconcileBody
from api.views import PageOf
from ke.contracts.errors import NotFound, TemporalUnavailable
from ke.contracts.reconciling import OpenReconciliation, ReconcileInput, ReconcileStatus, Reconciliation
from ke.storage.reconciling import (
    ReconciliationRow,
    fail_reconciliation,
    find_reconciliation,
    list_reconciliations,
    open_reconciliation,
)

CLOSING_S: Final = 5.0
"""Seconds for which a run whose record is closed may take to close its workflow."""
POLL_FIRST_S: Final = 0.05
POLL_MAX_S: Final = 0.5


async def reconcile(gateway: Gateway, body: ReconcileBody, *, wait_s: float) -> tuple[ReconciliationView, bool]:
    """Starts a reconciliation, or joins the one that runs, if that one may do all that is asked for.

    Args:
        gateway: The clients.
        body: What is asked for.
        wait_s: Seconds to wait for the end.

    Returns:
        The record, and whether it has ended.

    Raises:
        ReconciliationRunning: The one that runs does not repair, or may delete less.
        Unavailable: Postgres or Temporal does not answer.
    """
    share = gateway.max_share if body.max_share is None else body.max_share
    request = ReconcileInput(repair=body.repair, max_share=share)
    record_id = await _start(gateway, request)
    deadline, pause = time.monotonic() + wait_s, POLL_FIRST_S
    async with gateway.database.transaction() as connection:
        # So that it can be read from now on; the run writes it too, with what it was asked to do.
        if await find_reconciliation(connection, record_id) is None:
            await open_reconciliation(connection, OpenReconciliation(record_id, request), is_announced=True)
    while True:
        record = await _settled(gateway, record_id)
        _check_fits(record, request)
        if record.status is not ReconcileStatus.RUNNING or time.monotonic() >= deadline:
            return ReconciliationView.of(record), record.status is not ReconcileStatus.RUNNING
        await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, POLL_MAX_S)


def _check_fits(record: Reconciliation, request: ReconcileInput) -> None:
    """Refuses to pass off what a joined run does for what was asked for."""
    if request.repair and (not record.repair or record.max_share < request.max_share):
        may = f"with max_share {record.max_share:g}" if record.repair else "and only looks"
        raise ReconciliationRunning(
            f"{record.id} is at work {may}: ask again when it has ended.", reconciliation_id=record.id
        )


async def _start(gateway: Gateway, request: ReconcileInput) -> str:
    """Starts or joins a run; one that has written its end, and whose workflow is about to close, is none to join.

    Raises:
        TemporalUnavailable: It did not close in time.
    """
    async with gateway.database.transaction() as connection:
        newest = await list_reconciliations(connection, limit=1)
    ended = {row.record.id for row in newest if row.record.status is not ReconcileStatus.RUNNING}
    give_up_at = time.monotonic() + CLOSING_S
    while (record_id := await gateway.engine.start_reconciliation(request)) in ended:
        if time.monotonic() >= give_up_at:
            raise TemporalUnavailable(f"The workflow of {record_id} is still closing.")
        await asyncio.sleep(POLL_FIRST_S)
    return record_id


async def read_reconciliation(gateway: Gateway, record_id: str) -> ReconciliationView:
    """A record, while the reconciliation runs and after it.

    Raises:
        NotFound: There is none, or it is forgotten.
    """
    return ReconciliationView.of(await _settled(gateway, record_id))


async def reconciliations(gateway: Gateway, part: Slice) -> PageOf[ReconciliationView]:
    """Records, newest first."""
    async with gateway.database.transaction() as connection:
        rows = await list_reconciliations(connection, limit=part.fetch, before_seq=part.after)
    shown = [ReconciliationView.of(row.record) for row in rows[: part.limit]]
    return PageOf(data=shown, next_cursor=part.next_cursor(rows, _seq))


def _seq(row: ReconciliationRow) -> int:
    return row.seq


async def _settled(gateway: Gateway, record_id: str) -> Reconciliation:
    """The record; one that reads as running is held against its workflow."""
    record = await _find(gateway, record_id)
    if record.status is not ReconcileStatus.RUNNING:
        return record
    try:
        if await gateway.engine.reconciliation_is_open(record_id):
            return record
    except TemporalUnavailable:
        return record
    async with gateway.database.transaction() as connection:
        await fail_reconciliation(
            connection, record_id, "Its workflow ended without a word: it may have been terminated."
        )
    return await _find(gateway, record_id)


async def _find(gateway: Gateway, record_id: str) -> Reconciliation:
    async with gateway.database.transaction() as connection:
        record = await find_reconciliation(connection, record_id)
    if record is None:
        raise NotFound(f"There is no reconciliation {record_id}.")
    return record
