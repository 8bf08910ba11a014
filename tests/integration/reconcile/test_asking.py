"""Reconciliations as they are asked for: over HTTP, by the command line, by the schedule."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.client import Client, ScheduleActionExecutionStartWorkflow, ScheduleOverlapPolicy, WorkflowHandle
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError

from ke.contracts.naming import RECONCILE_ID, RECONCILE_SCHEDULE
from ke.contracts.reconciling import CloseReconciliation, OpenReconciliation, ReconcileInput, ReconcileStatus
from ke.runtime.init import initialise
from ke.runtime.schedule import set_reconcile_schedule
from ke.runtime.settings import Settings
from ke.storage.reconciling import KEPT, close_reconciliation, list_reconciliations, open_reconciliation
from tests.integration.api.stack import ApiStack, open_gateway
from tests.reconciling import reconcile
from tests.stores import Stores


@pytest.fixture
async def api(stores: Stores, client: Client, tmp_path: Path) -> AsyncIterator[ApiStack]:
    """A gateway, with the worker behind it."""
    url = stores.database._engine.url.set(drivername="postgresql")
    settings = Settings(
        data_dir=tmp_path,
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        temporal_address=client.service_client.config.target_host,
        vectors_socket=stores.vectors._socket,
        reconcile_max_share=0.25,
    )
    async with open_gateway(settings, stores, client) as stack:
        yield stack


async def test_reconciliation_is_waited_for_read_and_listed(api: ApiStack) -> None:
    """With a preference to wait the answer is the record of the whole run, found again by its id and in the list."""
    done = await api.http.post("/reconciliations", json={"repair": False}, headers={"Prefer": "wait=30"})
    assert done.status_code == 200, done.text
    record = done.json()
    assert (record["status"], record["repair"], record["max_share"]) == ("completed", False, 0.25)
    kinds = {finding["kind"] for finding in record["findings"]}
    assert kinds >= {"points-without-rows", "rows-without-points", "pending-rows", "open-jobs", "cleanups", "retries"}
    assert done.headers["Location"] == f"/reconciliations/{record['id']}"
    assert (await api.http.get(done.headers["Location"])).json() == record
    page = await api.ke.list_reconciliations(limit=1)
    assert page["data"] == [record]


async def test_list_is_paged_newest_first(api: ApiStack) -> None:
    """Cursors lead through the records, each once."""
    asked = [(await api.ke.reconcile(repair=False, wait_s=30))["id"] for _ in range(3)]
    first = await api.ke.list_reconciliations(limit=2)
    second = await api.ke.list_reconciliations(limit=2, cursor=first["next_cursor"])
    ids = [record["id"] for record in (*first["data"], *second["data"])]
    assert ids[:3] == asked[::-1]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("body", [{"max_share": 1.5}, {"max_share": -0.1}, {"repair": "maybe"}, {"force": True}])
async def test_wrong_body_is_refused(api: ApiStack, body: dict[str, Any]) -> None:
    """A share that is none, and a field that there is not, are refused with their place."""
    answer = await api.http.post("/reconciliations", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(body))}"


async def test_unknown_record_is_not_found(api: ApiStack) -> None:
    """An id that there is not is a 404."""
    assert (await api.http.get("/reconciliations/reconcile-none")).status_code == 404


async def _block(client: Client) -> WorkflowHandle[Any, Any]:
    """A run that does not end by itself, as soon as the one before, whose record is closed, has closed too."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await client.start_workflow("nothing", id=RECONCILE_ID, task_queue="nobody-polls")
            except WorkflowAlreadyStartedError:
                await asyncio.sleep(0.05)


async def test_running_one_is_joined_and_a_terminated_one_reads_as_failed(api: ApiStack, client: Client) -> None:
    """Two who ask at once get one record; when its workflow is terminated the record says so when it is read."""
    await api.ke.reconcile(repair=False, wait_s=30)
    blocker = await _block(client)
    first, second = [await api.http.post("/reconciliations") for _ in range(2)]
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert first.json()["status"] == "running"
    await blocker.terminate("by a test")
    record = (await api.http.get(first.headers["Location"])).json()
    assert (record["status"], "terminated" in record["error"]) == ("failed", True)


async def test_one_that_only_looks_is_not_joined_to_repair(api: ApiStack, client: Client) -> None:
    """Who asks for a repair, or for more, while less is under way is told so, and is not given what that one finds."""
    await api.ke.reconcile(repair=False, wait_s=30)
    blocker = await _block(client)
    looking = await api.http.post("/reconciliations", json={"repair": False})
    again = await api.http.post("/reconciliations", json={"repair": False, "max_share": 0.9})
    assert (looking.status_code, again.status_code) == (202, 202)
    refused = await api.http.post("/reconciliations", json={"repair": True})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:ke:problem:reconciliation-running")
    assert refused.json()["reconciliation_id"] == looking.json()["id"]
    await blocker.terminate("by a test")


async def test_record_left_running_is_closed_by_the_next_run(stores: Stores, client: Client) -> None:
    """A run that ended without a word is failed as soon as another one begins, and old records are forgotten."""
    for number in range(KEPT + 5):
        async with stores.database.transaction() as connection:
            await open_reconciliation(connection, OpenReconciliation(f"reconcile-{number}", ReconcileInput()))
            if number % 2:
                close = CloseReconciliation(f"reconcile-{number}", ReconcileStatus.COMPLETED)
                await close_reconciliation(connection, close)
    record, _ = await reconcile(client, repair=False)
    async with stores.database.transaction() as connection:
        rows = await list_reconciliations(connection, limit=KEPT * 2)
    assert len(rows) == KEPT
    assert rows[0].record == record
    assert {row.record.status for row in rows} == {ReconcileStatus.COMPLETED, ReconcileStatus.FAILED}


async def test_schedule_is_as_the_settings_say(client: Client) -> None:
    """Made at the first call, changed at the next, removed when there is to be none, also when there is none."""
    await set_reconcile_schedule(client, Settings(reconcile_every_s=3600))
    handle = client.get_schedule_handle(RECONCILE_SCHEDULE)
    await handle.pause(note="by a person")
    await set_reconcile_schedule(client, Settings(reconcile_every_s=900, reconcile_max_share=0.3))
    schedule = (await handle.describe()).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(seconds=900)]
    assert schedule.policy.overlap is ScheduleOverlapPolicy.SKIP
    assert schedule.policy.catchup_window == timedelta(minutes=1)
    assert schedule.state.paused
    for _ in range(2):
        await set_reconcile_schedule(client, Settings(reconcile_every_s=0))
    with pytest.raises(RPCError, match="not found"):
        await handle.describe()


async def test_init_sets_the_schedule_up(api: ApiStack, client: Client) -> None:
    """What `ke init` does includes the schedule, and may be repeated."""
    settings = api.settings.model_copy(update={"reconcile_every_s": 1800})
    for _ in range(2):
        assert (await initialise(settings)).reconcile_every_s == 1800
    schedule = (await client.get_schedule_handle(RECONCILE_SCHEDULE).describe()).schedule
    assert [interval.every for interval in schedule.spec.intervals] == [timedelta(seconds=1800)]
    await set_reconcile_schedule(client, Settings(reconcile_every_s=0))


async def test_scheduled_run_is_recorded(stores: Stores, client: Client) -> None:
    """What the schedule starts is a reconciliation like those that are asked for."""
    await set_reconcile_schedule(client, Settings(reconcile_every_s=86_400, reconcile_max_share=0.4))
    await client.get_schedule_handle(RECONCILE_SCHEDULE).trigger()
    try:
        started = [action async for action in _actions(client)]
        assert await client.get_workflow_handle(started[0]).result() in {"completed", "stopped"}
    finally:
        await set_reconcile_schedule(client, Settings(reconcile_every_s=0))
    async with stores.database.transaction() as connection:
        rows = await list_reconciliations(connection, limit=1)
    assert rows[0].record.max_share == 0.4


async def _actions(client: Client) -> AsyncIterator[str]:
    """The workflows that the schedule has started, once there are some."""
    handle = client.get_schedule_handle(RECONCILE_SCHEDULE)
    async with asyncio.timeout(30):
        while not (recent := (await handle.describe()).info.recent_actions):  # noqa: ASYNC110  (a server's state)
            await asyncio.sleep(0.1)
    for action in recent:
        assert isinstance(action.action, ScheduleActionExecutionStartWorkflow)
        yield action.action.workflow_id
