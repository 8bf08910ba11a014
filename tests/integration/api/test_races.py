"""Two who want different things of one job at the same moment: one outcome each, on real stores and a real Temporal.

Each race is made to happen: by a lock that is held, by a step that waits for the test, or by a proxy that loses an
answer. `docs/states.md` lists them all.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from temporalio.client import Client

from ke.contracts.errors import DatabaseUnavailable, Stopping
from ke.contracts.jobs import PAUSED_NOTE, JobStatus, Lane
from ke.runtime.engine import Engine
from ke.storage import closing
from ke.storage.database import WORKER_IDLE_TIMEOUT_S, Database
from ke.storage.jobs import find_job, move_job, take_lease
from tests.cleaning import run_step
from tests.faults.proxy import TcpProxy
from tests.integration.api.stack import QUICK, SLOW, ApiStack, open_gateway
from tests.seeding import seed_crawl, seed_job
from tests.temporal_tools import terminate

WAIT = {"Prefer": "wait=30"}


async def both(*calls: Any) -> list[httpx.Response]:
    """Two requests at the same moment."""
    return list(await asyncio.gather(*calls))


@asynccontextmanager
async def held_row(api: ApiStack, job_id: str) -> AsyncIterator[None]:
    """Holds a job's row as a slice does that froze in its transaction: nobody else can write it."""
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text("SELECT 1 FROM jobs WHERE id = :id FOR SHARE"), {"id": uuid.UUID(job_id)})
        yield


@asynccontextmanager
async def proxied(api: ApiStack, service: str) -> AsyncIterator[tuple[ApiStack, TcpProxy]]:
    """Another gateway of the same stack, with a proxy before Temporal or Postgres."""
    url = sa.make_url(api.settings.database_url.get_secret_value() if api.settings.database_url else "")
    host, port = str(api.settings.temporal_address).split(":") if service == "temporal" else (url.host, url.port)
    proxy = TcpProxy(lambda: (str(host), int(str(port))))
    await proxy.start()
    there = f"127.0.0.1:{proxy.port}"
    changed: dict[str, Any] = {"temporal_address": there}
    if service == "postgres":
        behind = url.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
        changed = {"database_url": SecretStr(behind)}
    try:
        async with open_gateway(api.settings.model_copy(update=changed), api.stores, api.temporal) as stack:
            yield stack, proxy
    finally:
        await proxy.stop()


# Cancel against completion


async def test_cancel_of_a_job_whose_end_is_being_written_does_not_undo_it(
    api: ApiStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancel that comes while a completed job is counted is accepted, in a second or so; the job has completed."""
    counting, go_on = asyncio.Event(), asyncio.Event()
    count = closing.count_job

    async def held_count(*args: Any, **kwargs: Any) -> Any:
        counting.set()
        await go_on.wait()
        return await count(*args, **kwargs)

    monkeypatch.setattr(closing, "count_job", held_count)
    job_id = (await api.submit(QUICK))["id"]
    await asyncio.wait_for(counting.wait(), 30)
    answer = await api.http.post(f"/jobs/{job_id}/cancel")
    go_on.set()
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    job = await api.until(job_id, "completed", "cancelled")
    assert (job["status"], job["result"]["cancellation"]) == ("completed", None)


# Two cancels


async def test_two_cancels_at_once_are_one(api: ApiStack) -> None:
    """Of two cancels at the same moment one is accepted and the other told so; there is one receipt, of the first."""
    job_id = await api.running()
    calls = (api.http.post(f"/jobs/{job_id}/cancel", json={"reason": reason}) for reason in ("one", "two"))
    answers = await both(*calls)
    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 409]
    assert len(accepted) + len(refused) == 2
    assert accepted
    assert all(answer.json()["current_status"] in {"cancelling", "cancelled"} for answer in refused)
    job = await api.until(job_id, "cancelled")
    assert job["result"]["cancellation"]["reason"] in {"one", "two"}


# A row that cannot be written


async def test_cancel_waits_for_no_lock(api: ApiStack) -> None:
    """A row that a frozen worker holds keeps no cancel from Temporal; it reads `cancelling` before it can say so."""
    job_id = await api.running()
    async with held_row(api, job_id):
        answer = await api.http.post(f"/jobs/{job_id}/cancel", json={"reason": "frozen"})
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
        read = (await api.http.get(f"/jobs/{job_id}")).json()
        assert read["status"] == "cancelling"
        again = await api.http.post(f"/jobs/{job_id}/cancel")
        assert (again.status_code, again.json()["current_status"]) == (409, "cancelling")
    job = await api.until(job_id, "cancelled")
    assert job["result"]["cancellation"]["reason"] == "frozen"


async def test_row_that_is_held_keeps_nobody_from_reading(api: ApiStack) -> None:
    """A job that was terminated while its row is held reads as it was, says why, and is failed afterwards."""
    job_id = await api.running()
    async with held_row(api, job_id):
        await terminate(api.settings, f"job-{job_id}")
        answer = await api.http.get(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "running")
        assert "holds its row" in answer.json()["waiting_for"]
    assert (await api.until(job_id, "failed"))["error"]["type"] == "terminated"


async def test_transaction_of_a_frozen_worker_ends_by_itself(api: ApiStack) -> None:
    """What a worker holds when it freezes is free again after some seconds, and it cannot commit when it wakes up."""
    job = await seed_job(api.stores.database, status=JobStatus.RUNNING)
    url = api.stores.database._engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    worker = Database(url, idle_timeout_s=WORKER_IDLE_TIMEOUT_S / 10)
    lock = sa.text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE")

    async def freeze_and_wake() -> None:
        async with worker.transaction() as connection:
            await connection.execute(lock, {"id": job.id})
            async with api.stores.database.transaction(lock_timeout_s=30) as other:
                await other.execute(lock, {"id": job.id})
            await connection.execute(lock, {"id": job.id})

    try:
        with pytest.raises(DatabaseUnavailable):
            await freeze_and_wake()
    finally:
        await worker.close()


async def test_no_slice_begins_while_the_row_says_cancelling(api: ApiStack) -> None:
    """A slice of a run that does not know of the cancel, as after a reset, is refused before it fetches anything."""
    job = await seed_job(api.stores.database, status=JobStatus.CANCELLING)
    with pytest.raises(Stopping):
        async with api.stores.database.transaction() as connection:
            await take_lease(connection, job.id, Lane.COLLECT, uuid.uuid4())


# A cancel that is lost on its way


async def test_cancel_whose_answer_from_temporal_is_lost_is_a_cancel(api: ApiStack) -> None:
    """When Temporal took the cancel and its answer never came, the caller may ask again; the job is cancelled."""
    job_id = await api.running()
    async with proxied(api, "temporal") as (stack, proxy):
        assert (await stack.http.get(f"/jobs/{job_id}")).json()["status"] == "running"
        proxy.drop_replies = 1_000  # of the cancel, and of whatever the client tries after it
        answer = await stack.http.post(f"/jobs/{job_id}/cancel")
        assert proxy.dropped > 0
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:ke:problem:temporal-unavailable")
        proxy.heal()
    assert (await api.until(job_id, "cancelled"))["result"]["cancellation"] is not None


async def test_cancel_whose_commit_is_lost_is_a_cancel(api: ApiStack) -> None:
    """When the answer to the commit is lost, after Temporal was told, the job is cancelled all the same."""
    job_id = await api.running()
    async with proxied(api, "postgres") as (stack, proxy):
        assert (await stack.http.get(f"/jobs/{job_id}")).json()["status"] == "running"
        proxy.drop_when, proxy.drop_replies = b"COMMIT", 1
        answer = await stack.http.post(f"/jobs/{job_id}/cancel")
        assert proxy.dropped == 1
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:ke:problem:database-unavailable")
        proxy.heal()
        again = await stack.http.post(f"/jobs/{job_id}/cancel")
        assert again.status_code in {202, 409}
    await api.until(job_id, "cancelled")


async def test_cancel_that_was_never_committed_is_a_cancel(api: ApiStack) -> None:
    """When Postgres goes between the call to Temporal and the commit, the workflow writes the row itself."""
    job_id = await api.running()
    async with proxied(api, "postgres") as (stack, proxy):
        engine = stack.app.state.gateway.engine
        told = engine.cancel_job

        async def cancel_job(*args: Any) -> bool:
            was_told: bool = await told(*args)
            proxy.reset()
            return was_told

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "cancel_job", cancel_job)
            answer = await stack.http.post(f"/jobs/{job_id}/cancel", json={"reason": "lost"})
        assert answer.status_code == 503
    assert (await api.until(job_id, "cancelled"))["result"]["cancellation"]["reason"] == "lost"


async def test_submit_that_was_never_committed_is_a_job(api: ApiStack) -> None:
    """When Postgres goes after the start and before the commit, the workflow writes the row, its namespace included."""
    key = uuid.uuid4().hex
    body = {"kind": "scrape", "urls": [QUICK]}
    async with proxied(api, "postgres") as (stack, proxy):
        engine = stack.app.state.gateway.engine
        start = engine.start_job

        async def start_job(*args: Any) -> str:
            run_id: str = await start(*args)
            proxy.reset()
            return run_id

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "start_job", start_job)
            answer = await stack.http.post("/jobs", json=body, headers={"Idempotency-Key": key})
        assert answer.status_code == 503
    again = await api.http.post("/jobs", json=body, headers={"Idempotency-Key": key})
    assert again.status_code == 202
    job = await api.until(again.json()["id"], "completed")
    async with api.stores.database.transaction() as connection:
        kept = (await find_job(connection, uuid.UUID(job["id"]))).namespace_id
    assert kept == await Engine.of(api.temporal).namespace_id()


# Resume, and delete


async def test_resume_of_a_job_that_is_being_cancelled_is_refused(idle_api: ApiStack) -> None:
    """A job that is cancelling goes on under no circumstances."""
    job_id = (await idle_api.submit(SLOW))["id"]
    await idle_api.http.post(f"/jobs/{job_id}/cancel")
    for action in ("resume", "pause"):
        answer = await idle_api.http.post(f"/jobs/{job_id}/{action}")
        assert (answer.status_code, answer.json()["current_status"]) == (409, "cancelling")


async def test_resume_takes_a_pause_back_that_was_not_carried_out(
    idle_api: ApiStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose workflow has not heard of its pause takes a resume too, and hears the two in their order."""
    monkeypatch.setattr("ke.runtime.engine.GLANCE_S", 1.0)  # nobody answers the query
    monkeypatch.setattr("api.service.control.SEEN_WITHIN_S", 0.1)  # nor carries anything out
    job = await idle_api.submit(SLOW)
    async with idle_api.stores.database.transaction() as connection:
        await move_job(connection, uuid.UUID(job["id"]), JobStatus.RUNNING)
    for action in ("pause", "resume"):
        answer = await idle_api.http.post(f"/jobs/{job['id']}/{action}")
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
    client = Client(idle_api.temporal.service_client, namespace=idle_api.settings.temporal_namespace)
    history = await client.get_workflow_handle(job["workflow_id"]).fetch_history()
    signals = [e.workflow_execution_signaled_event_attributes.signal_name for e in history.events]
    assert [name for name in signals if name] == ["pause", "resume"]


async def test_resume_right_after_a_pause_goes_on(api: ApiStack) -> None:
    """A resume that comes while the slices still answer the pause is accepted, and the job runs on."""
    job_id = await api.running()
    handle = api.temporal.get_workflow_handle(f"job-{job_id}")
    await handle.signal("pause")
    assert (await api.http.post(f"/jobs/{job_id}/resume")).status_code == 202
    async with asyncio.timeout(30):
        while (await handle.query("progress"))["waiting_for"] == PAUSED_NOTE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await api.until(job_id, "running")
    await api.http.post(f"/jobs/{job_id}/cancel")
    await api.until(job_id, "cancelled")


async def test_two_cleanups_at_once_are_one(api: ApiStack) -> None:
    """Two who clean a job up at the same moment get the same receipt, which counts everything once."""
    job = await seed_crawl(api.stores.database, api.stores.vectors)
    calls = (api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT) for _ in range(2))
    first, second = await both(*calls)
    assert (first.status_code, second.status_code) == (200, 200)
    assert first.json() == second.json()
    assert first.json()["deleted"] == first.json()["planned"]


async def test_delete_while_a_cleanup_is_at_work(idle_api: ApiStack) -> None:
    """A record does not go while its job is being cleaned up; with `cleanup=true` it goes at the end of that."""
    stores = idle_api.stores
    job = await seed_crawl(stores.database, stores.vectors)
    path = f"/jobs/{job.id}"
    assert (await idle_api.http.post(f"{path}/cleanup")).status_code == 202
    await run_step(stores, job, "begin_cleanup")
    for choice in (None, "false"):
        answer = await idle_api.http.delete(path, params={"cleanup": choice} if choice else None)
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:ke:problem:cleanup-running")
    answer = await idle_api.http.delete(path, params={"cleanup": "true"})
    assert (answer.status_code, answer.json()["delete_record"]) == (202, True)
    for step in ("delete_vectors", "delete_sources", "purge_dead_letters", "verify_cleanup"):
        await run_step(stores, job, step)
    assert (await idle_api.http.get(path)).status_code == 404
