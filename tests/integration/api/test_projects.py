"""Cleaning up a project over HTTP."""

import asyncio
import uuid
from dataclasses import asdict
from typing import Any

import pytest

from ke.contracts.cleanup import ProjectCleanup, ProjectCleanupInput, ProjectPage, StoreCounts
from ke.contracts.jobs import JobStatus
from ke.contracts.naming import PROJECT_CLEANUP_WORKFLOW, TaskQueue, project_cleanup_workflow_id
from ke.storage.cleanup_projects import ProjectCounts, list_ended_jobs, open_project_receipt
from tests.cleaning import clean
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl, seed_extract, seed_job, store_counts

WAIT = {"Prefer": "wait=60"}
ZEROS = asdict(StoreCounts())


def _name() -> str:
    return f"p-{uuid.uuid4()}"


async def _crawl(api: ApiStack, project: str, **options: Any) -> Seeded:
    return await seed_crawl(api.stores.database, api.stores.vectors, project=project, **options)


async def _clean(api: ApiStack, project: str, **body: Any) -> dict[str, Any]:
    answer = await api.http.post(f"/projects/{project}/cleanup", json=body, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_project_is_cleaned_and_its_receipt_sums_its_jobs(api: ApiStack) -> None:
    """All ended jobs are cleaned, what they shared is counted once, and nothing of another project goes."""
    project, elsewhere = _name(), await _crawl(api, _name())
    owner, second = await _crawl(api, project), await _crawl(api, project)
    reader = await seed_extract(api.stores.database, api.stores.vectors, owner, project=project)
    everything = asdict(owner.counts + second.counts + reader.counts)
    plan = (await api.http.post(f"/projects/{project}/cleanup", json={"dry_run": True})).json()
    assert (plan["status"], plan["jobs"], plan["planned"]) == ("planned", 3, everything)
    receipt = await _clean(api, project)
    assert (receipt["status"], receipt["jobs"], receipt["scope"]) == ("cleaned", 3, "project"), receipt
    assert (receipt["planned"], receipt["deleted"], receipt["remaining"]) == (everything, everything, ZEROS)
    assert (receipt["project"], receipt["job_id"], receipt["fenced"]) == (project, None, True)
    parts = [(await api.http.get(f"/cleanups/cleanup-{job.id}")).json() for job in (owner, second, reader)]
    assert {part["status"] for part in parts} == {"cleaned"}
    assert {name: sum(part["deleted"][name] for part in parts) for name in ZEROS} == everything
    assert (await api.http.get(f"/cleanups/{receipt['id']}")).json() == receipt
    assert await store_counts(api.stores.database, api.stores.vectors, elsewhere.id) == elsewhere.counts
    again = await _clean(api, project)
    assert (again["status"], again["jobs"], again["deleted"]) == ("cleaned", 0, ZEROS)


async def test_projects_are_listed_while_anything_is_left_of_them(api: ApiStack) -> None:
    """With how many jobs they have, page by page; one is gone as soon as its jobs are cleaned up and deleted."""
    first, second = _name(), _name()
    await _crawl(api, first)
    await _crawl(api, second)
    await _crawl(api, first)

    async def listed(limit: int) -> list[tuple[str, int]]:
        found, cursor = [], None
        while True:
            page = await api.ke.list_projects(limit=limit, cursor=cursor)
            found += [(entry["name"], entry["jobs"]) for entry in page["data"] if entry["name"] in {first, second}]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    assert await listed(1) == await listed(200) == [(first, 2), (second, 1)]
    assert (await _clean(api, first, delete_record=True))["status"] == "cleaned"
    assert await listed(200) == [(second, 1)]


async def test_project_keeps_its_place_when_its_first_job_is_deleted(api: ApiStack) -> None:
    """While a list is read page by page, no project comes twice."""
    first, second = _name(), _name()
    job = await _crawl(api, first)
    await _crawl(api, second)
    await _crawl(api, first)
    before = [entry["name"] for entry in (await api.ke.list_projects(limit=200))["data"]]
    assert (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json()["status"] == "cleaned"
    assert (await api.http.delete(f"/jobs/{job.id}")).status_code == 204
    assert [entry["name"] for entry in (await api.ke.list_projects(limit=200))["data"]] == before


async def test_project_with_active_jobs_is_refused_naming_them(api: ApiStack) -> None:
    """Nothing is started while a job of the project is active; the refusal names it."""
    project = _name()
    ended, active = await _crawl(api, project), await _crawl(api, project, status=JobStatus.PAUSED)
    for body in ({}, {"dry_run": True}):
        answer = await api.http.post(f"/projects/{project}/cleanup", json=body)
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (409, "urn:ke:problem:job-active")
        assert problem["blocked_by"] == [str(active.id)]
        assert str(active.id) in problem["detail"]
    assert await store_counts(api.stores.database, api.stores.vectors, ended.id) == ended.counts


async def test_project_that_never_was_is_not_found(api: ApiStack) -> None:
    """A project is what jobs were submitted to; a name that cannot be one is not found either."""
    for name in (_name(), "-no"):
        assert (await api.http.post(f"/projects/{name}/cleanup")).status_code == 404


async def test_records_go_too_those_of_cleaned_jobs_included(api: ApiStack) -> None:
    """With delete_record the jobs are gone; one that was cleaned before counts as a job and adds nothing."""
    project = _name()
    cleaned, job = await _crawl(api, project), await _crawl(api, project)
    orphaned = await _crawl(api, project)
    await clean(api.stores, cleaned)
    assert (await api.http.delete(f"/jobs/{orphaned.id}", params={"cleanup": "false"})).status_code == 204
    receipt = await _clean(api, project, delete_record=True)
    assert (receipt["status"], receipt["jobs"], receipt["delete_record"]) == ("cleaned", 3, True), receipt
    assert receipt["deleted"] == asdict(job.counts + orphaned.counts)
    for gone in (cleaned, job, orphaned):
        assert (await api.http.get(f"/jobs/{gone.id}")).status_code == 404
    assert (await _clean(api, project, delete_record=True))["jobs"] == 0


async def test_job_that_is_blocked_is_told_and_the_others_are_cleaned(api: ApiStack) -> None:
    """A job whose sources another project works on stays as it is; the receipt says why, and a later run ends it."""
    project = _name()
    blocked, free = await _crawl(api, project), await _crawl(api, project)
    reader = await seed_extract(api.stores.database, api.stores.vectors, blocked, status=JobStatus.PAUSED)
    receipt = await _clean(api, project)
    assert (receipt["status"], receipt["jobs"], receipt["deleted"]) == ("failed", 2, asdict(free.counts))
    assert f"job {blocked.id}" in receipt["error"]
    assert str(reader.id) in receipt["error"]
    assert receipt["remaining"] == asdict(blocked.counts + reader.counts)
    await _end(api, reader)
    again = await _clean(api, project)
    assert (again["status"], again["deleted"]) == ("cleaned", asdict(blocked.counts + reader.counts))


async def test_who_asks_again_while_a_run_closes_gets_another(api: ApiStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose receipt is closed and whose workflow is not, for a moment, is not joined."""
    project = _name()
    blocked = await _crawl(api, project)
    reader = await seed_extract(api.stores.database, api.stores.vectors, blocked, status=JobStatus.PAUSED)
    first = await _clean(api, project)
    assert first["status"] == "failed"
    await _end(api, reader)
    engine = api.app.state.gateway.engine
    start = engine.start_project_cleanup
    joined = iter([first["id"], first["id"]])

    async def start_or_join(cleanup: ProjectCleanupInput) -> str:
        return next(joined, None) or await start(cleanup)

    monkeypatch.setattr(engine, "start_project_cleanup", start_or_join)
    again = await _clean(api, project)
    assert again["id"] != first["id"]
    assert (again["status"], again["deleted"]) == ("cleaned", asdict(blocked.counts + reader.counts))


async def _end(api: ApiStack, job: Seeded) -> None:
    statement = "UPDATE jobs SET status = 'completed', result = '{}', completed_at = now() WHERE id = :id"
    async with api.stores.database.transaction() as connection:
        await connection.exec_driver_sql(statement.replace(":id", f"'{job.id}'"))


async def test_many_jobs_are_cleaned_in_several_runs(api: ApiStack) -> None:
    """The workflow continues as new; a call that comes meanwhile joins it, and there is one receipt."""
    project = _name()
    made = [await _crawl(api, project, n_sources=1, chunks_each=1) for _ in range(2)]
    await seed_job(api.stores.database, project=project)
    handle = await api.temporal.start_workflow(
        PROJECT_CLEANUP_WORKFLOW,
        ProjectCleanupInput(project, jobs_a_run=2),
        id=project_cleanup_workflow_id(project),
        task_queue=TaskQueue.CLEANUP.value,
    )
    receipts = await asyncio.gather(_clean(api, project), _clean(api, project))
    async with asyncio.timeout(60):
        await handle.result()
    assert {receipt["id"] for receipt in receipts} == {f"cleanup-project-{project}-{handle.first_execution_run_id}"}
    for receipt in receipts:
        assert (receipt["status"], receipt["jobs"]) == ("cleaned", 3)
        assert receipt["deleted"] == asdict(sum((job.counts for job in made), StoreCounts()))


async def test_receipt_of_a_terminated_run_is_closed_when_it_is_read(idle_api: ApiStack) -> None:
    """A run that was ended from Temporal's own tools leaves no receipt that runs for ever; another can begin."""
    project = _name()
    job = await _crawl(idle_api, project)
    started = (await idle_api.http.post(f"/projects/{project}/cleanup")).json()
    assert (started["status"], started["planned"]) == ("running", asdict(job.counts))
    cleanup = ProjectCleanup(project, started["id"])
    async with idle_api.stores.database.transaction() as connection:
        await open_project_receipt(connection, cleanup, ProjectCounts(1, job.counts), [])
    assert (await idle_api.http.get(f"/cleanups/{started['id']}")).json()["status"] == "running"
    temporal = await idle_api.app.state.gateway.engine._connection.client()
    await temporal.get_workflow_handle(project_cleanup_workflow_id(project)).terminate("by a test")
    receipt = (await idle_api.http.get(f"/cleanups/{started['id']}")).json()
    assert (receipt["status"], receipt["remaining"]) == ("failed", asdict(job.counts))
    assert (await idle_api.http.post(f"/projects/{project}/cleanup")).json()["id"] != started["id"]


async def test_jobs_that_come_later_are_left(idle_api: ApiStack) -> None:
    """A cleanup takes up the jobs that were there when it began, however long it takes."""
    project = _name()
    job = await _crawl(idle_api, project)
    cleanup = ProjectCleanup(project, f"cleanup-project-{project}-1")
    async with idle_api.stores.database.transaction() as connection:
        await open_project_receipt(connection, cleanup, ProjectCounts(1, job.counts), [])
    await _crawl(idle_api, project)
    async with idle_api.stores.database.transaction() as connection:
        found = await list_ended_jobs(connection, ProjectPage(project, 0, 10, receipt_id=cleanup.receipt_id))
    assert found.job_ids == (str(job.id),)


async def test_client_cleans_a_project(api: ApiStack) -> None:
    """The Python client does the same."""
    project = _name()
    job = await _crawl(api, project)
    plan = await api.ke.cleanup_project(project, dry_run=True)
    receipt = await api.ke.cleanup_project(project, wait_s=60)
    assert (plan["planned"], receipt["status"], receipt["deleted"]) == (
        receipt["deleted"],
        "cleaned",
        asdict(job.counts),
    )
