"""Cancel, pause and resume."""

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from tests.integration.api.stack import BROKEN, QUICK, ApiStack


async def test_cancel_stops_a_running_job(api: ApiStack) -> None:
    """A cancel answers 202 at once; the job ends cancelled with a receipt that has the reason."""
    job_id = await api.running()
    answer = await api.http.post(f"/jobs/{job_id}/cancel", json={"reason": "wrong site"})
    assert answer.status_code == 202
    assert answer.json()["status"] in {"cancelling", "cancelled"}
    assert answer.json()["cancel_requested_at"] is not None
    ended = await api.until(job_id, "cancelled")
    assert ended["result"]["cancellation"]["reason"] == "wrong site"
    times = [
        ended["completed_at"],
        *(ended["result"]["cancellation"][f"{name}_at"] for name in ("requested", "quiescent")),
    ]
    assert all(time.endswith("Z") for time in times), "one form of times everywhere"
    handle = api.temporal.get_workflow_handle(f"job-{job_id}")
    with pytest.raises(WorkflowFailureError):
        await handle.result()  # the row ends a moment before the workflow does
    assert (await handle.describe()).status is WorkflowExecutionStatus.CANCELED


async def test_cancel_without_a_body_is_accepted(api: ApiStack) -> None:
    """The body of a cancel may be left out."""
    job_id = await api.running()
    assert (await api.http.post(f"/jobs/{job_id}/cancel")).status_code == 202
    assert (await api.until(job_id, "cancelled"))["artifacts"] == "present"


async def test_cancel_with_cleanup_cleans(api: ApiStack) -> None:
    """A job cancelled with cleanup ends cancelled in Temporal too, and what it made is deleted."""
    job_id = await api.running()
    answer = await api.http.post(f"/jobs/{job_id}/cancel", json={"cleanup": True})
    assert answer.status_code == 202
    await api.until(job_id, "cancelled")
    receipt = (await api.http.post(f"/jobs/{job_id}/cleanup", headers={"Prefer": "wait=30"})).json()
    assert (receipt["status"], receipt["remaining"]["sources"]) == ("cleaned", 0)


async def test_cancel_of_an_ended_job_says_what_it_is(api: ApiStack) -> None:
    """Each state in which there is nothing to cancel has its own answer."""
    completed, failed = await api.ended(QUICK), await api.ended(BROKEN)
    for job_id, status, words in ((completed, "completed", "the job completed at"), (failed, "failed", "broken")):
        answer = await api.http.post(f"/jobs/{job_id}/cancel")
        problem = answer.json()
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert (problem["type"], problem["current_status"]) == ("urn:ke:problem:not-cancellable", status)
        assert problem["allowed_actions"] == ["cleanup", "delete"]
        assert words in problem["detail"]
        assert f"/jobs/{job_id}/cleanup" in problem["detail"]


async def test_second_cancel_says_since_when_and_what_it_waits_for(idle_api: ApiStack) -> None:
    """A job that is being cancelled already tells since when, and what it waits for."""
    job = await idle_api.submit()
    first = await idle_api.http.post(f"/jobs/{job['id']}/cancel")
    assert (first.status_code, first.json()["status"]) == (202, "cancelling")
    second = await idle_api.http.post(f"/jobs/{job['id']}/cancel")
    assert (second.status_code, second.json()["current_status"]) == (409, "cancelling")
    assert "being cancelled already, since 20" in second.json()["detail"]
    assert "it waits for" in second.json()["detail"]
    assert second.json()["allowed_actions"] == []


async def test_cancel_of_a_job_whose_workflow_is_terminated_tells_the_truth(api: ApiStack) -> None:
    """When there is no open workflow to cancel, the row is repaired and the answer is what the job is."""
    job_id = await api.running()
    await api.temporal.get_workflow_handle(f"job-{job_id}").terminate()
    answer = await api.http.post(f"/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["current_status"]) == (409, "failed")
    assert "terminated" in answer.json()["detail"]


async def test_pause_and_resume(api: ApiStack) -> None:
    """A running job pauses and goes on; each is refused when there is nothing to pause or resume."""
    job_id = await api.running()
    early = await api.http.post(f"/jobs/{job_id}/resume")
    assert (early.status_code, early.json()["type"]) == (409, "urn:ke:problem:not-resumable")
    paused = await api.http.post(f"/jobs/{job_id}/pause")
    assert (paused.status_code, paused.json()["status"]) == (202, "paused")
    read = (await api.http.get(f"/jobs/{job_id}")).json()
    assert read["waiting_for"] == "paused: it goes on when it is resumed"
    twice = await api.http.post(f"/jobs/{job_id}/pause")
    assert (twice.status_code, twice.json()["type"]) == (409, "urn:ke:problem:not-pausable")
    resumed = await api.http.post(f"/jobs/{job_id}/resume")
    assert (resumed.status_code, resumed.json()["status"]) == (202, "running")
    await api.http.post(f"/jobs/{job_id}/cancel")
    await api.until(job_id, "cancelled")


async def test_pause_that_loses_to_a_cancel_is_refused(api: ApiStack) -> None:
    """A pause is accepted only when the job is then running or paused, whatever else was asked meanwhile."""
    job_id = await api.running()
    calls = (api.http.post(f"/jobs/{job_id}/{action}") for action in ("cancel", "pause"))
    _, paused = await asyncio.gather(*calls)
    if paused.status_code == 202:
        assert paused.json()["status"] in {"running", "paused"}
    else:
        assert (paused.status_code, paused.json()["type"]) == (409, "urn:ke:problem:not-pausable")
    await api.until(job_id, "cancelled")


async def test_pause_of_an_ended_job_is_refused(api: ApiStack) -> None:
    """A job that has ended cannot be paused, and says what it is."""
    answer = await api.http.post(f"/jobs/{await api.ended()}/pause")
    assert (answer.status_code, answer.json()["current_status"]) == (409, "completed")
