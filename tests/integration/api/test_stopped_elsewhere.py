"""Jobs that are stopped with Temporal's own tools, or that Temporal has lost: the row is right when it is read."""

import asyncio
import contextlib
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import WorkflowFailureError
from temporalio.testing import WorkflowEnvironment

from ke.contracts.jobs import CollectSpec, JobInput, JobKind, JobStatus
from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.engine import Engine
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import connect
from ke.storage.jobs import insert_job
from tests.integration.api.stack import QUICK, SLOW, ApiStack
from tests.temporal_tools import cancel, reset, terminate

TO = pytest.mark.parametrize("to", ["FirstWorkflowTask", "LastWorkflowTask"])


async def read(api: ApiStack, job_id: str) -> dict[str, Any]:
    answer = await api.http.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def newest_run(api: ApiStack, job_id: str) -> str:
    found = await api.temporal.get_workflow_handle(f"job-{job_id}").describe()
    return found.run_id


async def paused(api: ApiStack) -> str:
    """The id of a job that is paused."""
    job_id = await api.running()
    await api.http.post(f"/jobs/{job_id}/pause")
    await api.until(job_id, "paused")
    return job_id


async def end(api: ApiStack, job_id: str) -> dict[str, Any]:
    """Cancels a job that should be open; returns it when it has ended."""
    assert (await api.http.post(f"/jobs/{job_id}/cancel")).status_code == 202
    return await api.until(job_id, "cancelled")


def is_terminated(job: dict[str, Any]) -> bool:
    """Whether a job reads as one that was terminated, with a result."""
    return (job["status"], job["error"] and job["error"]["type"]) == ("failed", "terminated") and bool(job["result"])


# Terminated


@pytest.mark.parametrize("state", ["queued", "running", "paused", "cancelling"])
async def test_terminated_job_reads_failed_at_once(api: ApiStack, idle_api: ApiStack, state: str) -> None:
    """Whatever it was doing, a job that was terminated is failed when it is read next, with a result."""
    stack = idle_api if state in {"queued", "cancelling"} else api
    match state:
        case "running":
            job_id = await api.running()
        case "paused":
            job_id = await paused(api)
        case _:
            job_id = (await idle_api.submit(SLOW))["id"]
    if state == "cancelling":
        assert (await idle_api.http.post(f"/jobs/{job_id}/cancel")).status_code == 202
    await terminate(stack.settings, f"job-{job_id}")
    assert is_terminated(await read(stack, job_id))


async def test_list_tells_the_truth_about_jobs_that_were_stopped(api: ApiStack) -> None:
    """A list shows terminated jobs as failed at once, and not at all where it was asked for running ones."""
    project = f"p-{uuid.uuid4().hex[:8]}"
    stopped, other = [(await api.submit(SLOW, project=project))["id"] for _ in range(2)]
    for job_id in (stopped, other):
        await api.until(job_id, "running")
    await terminate(api.settings, f"job-{stopped}")
    running = (await api.http.get("/jobs", params={"project": project, "status": "running"})).json()["data"]
    assert [job["id"] for job in running] == [other]
    listed = {job["id"]: job for job in (await api.http.get("/jobs", params={"project": project})).json()["data"]}
    assert is_terminated(listed[stopped])
    assert listed[other]["status"] == "running"
    await end(api, other)


async def test_terminated_job_can_be_cleaned_and_deleted_at_once(api: ApiStack) -> None:
    """Cleanup and delete look at Temporal first: a job terminated there is not in their way."""
    cleaned, deleted = await api.running(), await api.running()
    for job_id in (cleaned, deleted):
        await terminate(api.settings, f"job-{job_id}")
    answer = await api.http.post(f"/jobs/{cleaned}/cleanup", headers={"Prefer": "wait=30"})
    assert (answer.status_code, answer.json()["status"]) == (200, "cleaned")
    answer = await api.http.delete(f"/jobs/{deleted}", params={"cleanup": "false"})
    assert answer.status_code == 204


# Cancelled


async def test_cancel_from_elsewhere_is_seen_before_any_worker_acts_on_it(idle_api: ApiStack) -> None:
    """A queued job whose cancel no worker has heard of reads `cancelling`, alone and in lists, and so does its row."""
    project = f"p-{uuid.uuid4().hex[:8]}"
    first, second = [(await idle_api.submit(SLOW, project=project))["id"] for _ in range(2)]
    await cancel(idle_api.settings, f"job-{first}")
    await cancel(idle_api.settings, f"job-{second}")
    job = await read(idle_api, first)
    assert (job["status"], job["cancel_requested_at"] is not None) == ("cancelling", True)
    listed = (await idle_api.http.get("/jobs", params={"project": project})).json()["data"]
    assert {job["status"] for job in listed} == {"cancelling"}
    again = await idle_api.http.post(f"/jobs/{first}/cancel")
    assert (again.status_code, again.json()["current_status"]) == (409, "cancelling")


@pytest.mark.parametrize("state", ["running", "paused"])
async def test_cancel_from_elsewhere_ends_cancelled(api: ApiStack, state: str) -> None:
    """A job cancelled with the CLI reads `cancelling` or `cancelled` at once, and ends cancelled with a receipt."""
    job_id = await (api.running() if state == "running" else paused(api))
    await cancel(api.settings, f"job-{job_id}")
    assert (await read(api, job_id))["status"] in {"cancelling", "cancelled"}
    job = await api.until(job_id, "cancelled")
    assert job["result"]["cancellation"]["quiescent_at"]


# Reset


@TO
@pytest.mark.parametrize("state", ["running", "paused"])
async def test_reset_job_goes_on_under_its_new_run(api: ApiStack, state: str, to: str) -> None:
    """After a reset the row is as it was, of the new run from the first read on, and ends with that."""
    job_id = await (api.running() if state == "running" else paused(api))
    before = (await read(api, job_id))["run_id"]
    await reset(api.settings, f"job-{job_id}", to=to)
    job = await read(api, job_id)
    assert (job["status"], job["run_id"]) == (state, await newest_run(api, job_id))
    assert job["run_id"] != before
    ended = await end(api, job_id)
    assert (ended["status"], ended["run_id"]) == ("cancelled", job["run_id"])


async def test_job_that_is_terminated_after_a_reset_has_the_run_that_was(api: ApiStack, idle_api: ApiStack) -> None:
    """The run that ended a job is the one that it names."""
    job_id = await paused(api)
    await reset(api.settings, f"job-{job_id}")
    await terminate(api.settings, f"job-{job_id}")
    job = await read(api, job_id)
    assert is_terminated(job)
    assert job["run_id"] == await newest_run(api, job_id)


@TO
@pytest.mark.parametrize("state", ["completed", "cancelled"])
async def test_reset_of_an_ended_job_changes_nothing(api: ApiStack, state: str, to: str) -> None:
    """A job that has ended keeps its state, its result and its run, whatever is done to its workflow."""
    job_id = await (api.ended(QUICK) if state == "completed" else api.running())
    before = await read(api, job_id) if state == "completed" else await end(api, job_id)
    await reset(api.settings, f"job-{job_id}", to=to)
    handle = api.temporal.get_workflow_handle(f"job-{job_id}", run_id=await newest_run(api, job_id))
    async with asyncio.timeout(30):
        with contextlib.suppress(WorkflowFailureError):  # a job that was cancelled ends so
            await handle.result()
    assert handle.run_id != before["run_id"]
    assert await read(api, job_id) == before


# Lost


async def lost_job(api: ApiStack, namespace_id: str | None) -> str:
    """The id of a job whose workflow Temporal does not know, as after the end of its retention."""
    job = JobInput(
        str(uuid.uuid4()),
        JobKind.SCRAPE,
        datetime.now(UTC).isoformat(),
        collect=CollectSpec((SLOW,), follow=False),
        namespace_id=namespace_id,
    )
    async with api.stores.database.transaction() as connection:
        await insert_job(connection, job, status=JobStatus.RUNNING)
    return job.job_id


async def test_job_that_its_own_temporal_has_lost_is_failed_at_once(api: ApiStack) -> None:
    """A job that Temporal does not know any more is ended when it is read, alone or in a list."""
    here = await Engine.of(api.temporal).namespace_id()
    first, second = await lost_job(api, here), await lost_job(api, here)
    job = await read(api, first)
    assert (job["status"], job["error"]["type"]) == ("failed", "workflow-lost")
    assert job["result"] is not None
    listed = {job["id"]: job for job in (await api.http.get("/jobs")).json()["data"]}
    assert listed[second]["error"]["type"] == "workflow-lost"


@pytest.mark.parametrize("elsewhere", [str(uuid.uuid4()), None], ids=["another", "unrecorded"])
async def test_job_of_another_temporal_is_left_alone_and_says_so(api: ApiStack, elsewhere: str | None) -> None:
    """A gateway that asks the wrong Temporal ends no job that is read; a cancel does."""
    job_id = await lost_job(api, elsewhere)
    job = await read(api, job_id)
    assert job["status"] == "running"
    assert "unknown to this Temporal" in job["waiting_for"]
    answer = await api.http.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["current_status"]) == (409, "failed")
    assert "workflow-lost" in answer.json()["detail"]


async def test_submitted_job_knows_its_namespace(api: ApiStack, idle_api: ApiStack) -> None:
    """Each job keeps the id of the namespace that it was started in; two namespaces have two."""
    kept = {}
    for stack in (api, idle_api):
        job_id = (await stack.submit())["id"]
        async with stack.stores.database.transaction() as connection:
            rows = await connection.exec_driver_sql("SELECT namespace_id FROM jobs WHERE id = $1", (uuid.UUID(job_id),))
            kept[stack.settings.temporal_namespace] = rows.scalar_one()
    assert kept["default"] == await Engine.of(api.temporal).namespace_id()
    assert len(set(kept.values())) == 2


async def test_namespace_of_a_new_temporal_is_another_one(tmp_path: Path) -> None:
    """The id of a namespace lasts as long as Temporal's file: a new file has another under the same name."""
    cli = await find_temporal_cli(Settings().temporal_cli, report=lambda _: None)
    seen = []
    for name in ("old", "old", "new"):
        async with await WorkflowEnvironment.start_local(
            dev_server_existing_path=str(cli), dev_server_database_filename=str(tmp_path / f"{name}.db")
        ) as environment:
            seen.append(await Engine.of(environment.client).namespace_id())
        await asyncio.sleep(0.2)  # as in tests/workflow/stage.py
    assert seen[0] == seen[1] != seen[2]


# Where Temporal does not answer


async def test_without_temporal_a_job_reads_as_it_is_and_says_so(api: ApiStack) -> None:
    """A job that cannot be held against Temporal is left as it is, and `waiting_for` tells why."""
    job_id = await lost_job(api, await Engine.of(api.temporal).namespace_id())
    gateway = api.app.state.gateway
    cut_off = replace(gateway, engine=Engine.of(await _nowhere()))
    api.app.state.gateway = cut_off
    try:
        job = await read(api, job_id)
        assert job["status"] == "running"
        assert job["waiting_for"].startswith("Temporal cannot be asked at the moment")
        assert (await api.http.get("/jobs")).status_code == 200
    finally:
        api.app.state.gateway = gateway


async def _nowhere() -> Any:
    """A client of a Temporal that is not there."""
    return await connect("127.0.0.1:9", Settings(), lazy=True)
