"""Submitting jobs, and reading them."""

import asyncio
import uuid

import sqlalchemy as sa

from tests.integration.api.stack import QUICK, SLOW, ApiStack

KEY = "Idempotency-Key"


async def test_job_is_accepted_runs_and_completes(api: ApiStack) -> None:
    """A submit answers 202 with the job and its address; the job ends with a result."""
    answer = await api.http.post("/jobs", json={"kind": "scrape", "urls": [QUICK], "labels": {"a": "b"}})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["project"], job["labels"]) == ("scrape", "default", {"a": "b"})
    assert job["params"] == {
        "urls": [QUICK],
        "recrawl_of": None,
        "forget_replaced": False,
        "max_gone_share": 0.5,
        "reading": "thorough",
        "browser": False,
        "extract": None,
    }
    ended = (await api.http.get(f"/jobs/{job['id']}", params={"wait": 30})).json()
    assert ended["status"] == "completed"
    assert ended["result"]["pages_fetched"] == 0
    assert ended["waiting_for"] is None


async def test_same_key_and_body_give_the_same_job(api: ApiStack) -> None:
    """Ten submits at once under one key make one job, and all answer with it."""
    key = str(uuid.uuid4())
    body = {"kind": "scrape", "urls": [QUICK]}
    answers = await asyncio.gather(*(api.http.post("/jobs", json=body, headers={KEY: key}) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    spelled_out = {"kind": "scrape", "urls": [QUICK], "extract": None, "project": "default", "labels": {}}
    again = await api.http.post("/jobs", json=spelled_out, headers={KEY: key})
    assert again.json()["id"] == answers[0].json()["id"]


async def test_same_key_with_another_body_is_refused(api: ApiStack) -> None:
    """A key names one submit: another body under it is a mistake of the caller's, and is told so."""
    headers = {KEY: str(uuid.uuid4())}
    first = await api.http.post("/jobs", json={"kind": "scrape", "urls": [QUICK]}, headers=headers)
    other = await api.http.post("/jobs", json={"kind": "scrape", "urls": [SLOW]}, headers=headers)
    assert other.status_code == 422
    assert other.json()["type"] == "urn:ke:problem:idempotency-key-reused"
    assert first.json()["id"] in other.json()["detail"]


async def test_key_of_a_deleted_job_is_gone(api: ApiStack) -> None:
    """A deleted job's key is never taken for a new job."""
    headers, body = {KEY: str(uuid.uuid4())}, {"kind": "scrape", "urls": [QUICK]}
    job = (await api.http.post("/jobs", json=body, headers=headers)).json()
    await api.until(job["id"], "completed")
    assert (await api.http.delete(f"/jobs/{job['id']}")).status_code == 204
    again = await api.http.post("/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["type"]) == (410, "urn:ke:problem:gone")


async def test_lost_row_is_written_again_by_a_repeated_submit(idle_api: ApiStack) -> None:
    """When the commit was lost after the start, the same submit finds the workflow and makes the row again."""
    headers, body = {KEY: str(uuid.uuid4())}, {"kind": "scrape", "urls": [QUICK]}
    first = (await idle_api.http.post("/jobs", json=body, headers=headers)).json()
    await _forget(idle_api, first["id"])
    other = await idle_api.http.post("/jobs", json={**body, "urls": [SLOW]}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (422, "urn:ke:problem:idempotency-key-reused")
    again = await idle_api.http.post("/jobs", json=body, headers=headers)
    assert again.status_code == 202
    assert (again.json()["id"], again.json()["run_id"]) == (first["id"], first["run_id"])


async def _forget(api: ApiStack, job_id: str) -> None:
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.text("DELETE FROM jobs WHERE id = :id"), {"id": job_id})


async def test_job_without_a_worker_says_so(idle_api: ApiStack) -> None:
    """A queued job that nobody works for tells which queue no worker polls."""
    job = await idle_api.submit()
    read = (await idle_api.http.get(f"/jobs/{job['id']}")).json()
    assert read["status"] == "queued"
    assert read["waiting_for"] == "no worker polls the task queue ke-jobs"
    assert read["progress"]["pages_fetched"] == 0
    assert read["result"] is None


async def test_wait_ends_with_its_time(idle_api: ApiStack) -> None:
    """A read that waits in vain answers with the job as it is."""
    job = await idle_api.submit()
    answer = await idle_api.http.get(f"/jobs/{job['id']}", params={"wait": "0.3"})
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


async def test_list_pages_by_cursor_and_filters(api: ApiStack) -> None:
    """Jobs are listed newest first, each once, over as many pages as it takes; filters narrow the list."""
    project = f"p-{uuid.uuid4().hex[:8]}"
    made = [(await api.submit(project=project))["id"] for _ in range(5)]
    seen, cursor, pages = [], None, 0
    while True:
        params = {"project": project, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await api.http.get("/jobs", params=params)).json()
        seen += [job["id"] for job in page["data"]]
        cursor, pages = page["next_cursor"], pages + 1
        if cursor is None:
            break
    assert (seen, pages) == (made[::-1], 3)
    nothing = (await api.http.get("/jobs", params={"project": project, "kind": "crawl"})).json()
    assert nothing == {"data": [], "next_cursor": None}


async def test_workflow_terminated_from_outside_makes_the_job_failed(api: ApiStack) -> None:
    """A job whose workflow was terminated is repaired when it is read: failed, with the reason as its type."""
    job_id = await api.running()
    await api.temporal.get_workflow_handle(f"job-{job_id}").terminate("by hand")
    job = (await api.http.get(f"/jobs/{job_id}")).json()
    assert (job["status"], job["error"]["type"]) == ("failed", "terminated")
    assert job["result"]["pages_fetched"] == 0


async def test_extract_of_what_is_not_there_is_refused_with_a_pointer(api: ApiStack) -> None:
    """An extract job names sources or a job that exist, and a job that stores sources."""
    nowhere = str(uuid.uuid4())
    answer = await api.http.post("/jobs", json={"kind": "extract", "source_job_id": nowhere})
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"pointer": "/source_job_id", "detail": "There is no such job."}]
    answer = await api.http.post("/jobs", json={"kind": "extract", "source_ids": [nowhere]})
    assert answer.json()["errors"] == [{"pointer": "/source_ids/0", "detail": "There is no such source."}]
    assert (await api.http.get("/jobs", params={"status": "queued", "kind": "extract"})).json()["data"] == []
