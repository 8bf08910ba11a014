"""Cleaning up, and deleting records."""

import uuid
from dataclasses import asdict
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.jobs import JobStatus
from ke.contracts.naming import job_workflow_id
from ke.storage.tables import extraction_tasks, jobs
from tests.cleaning import clean, run_step
from tests.closed_workflows import closed_workflow
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl, seed_extract, seed_job, store_counts

WAIT = {"Prefer": "wait=30"}
ZEROS = dict.fromkeys(("vectors", "sources", "extractions", "entities", "dead_letters", "pages", "records"), 0)


async def _crawl(api: ApiStack, **options: Any) -> Seeded:
    return await seed_crawl(api.stores.database, api.stores.vectors, **options)


async def test_receipt_equals_what_was_there(api: ApiStack) -> None:
    """The numbers of a receipt are those counted before; nothing is left; a second call gives the same receipt."""
    job = await _crawl(api)
    before = asdict(await store_counts(api.stores.database, api.stores.vectors, job.id))
    answer = await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)
    receipt = answer.json()
    assert (answer.status_code, receipt["status"]) == (200, "cleaned")
    assert answer.headers["Location"] == f"/cleanups/cleanup-{job.id}"
    assert answer.headers["Preference-Applied"] == "wait=30"
    assert (receipt["planned"], receipt["deleted"], receipt["remaining"]) == (before, before, ZEROS)
    assert asdict(await store_counts(api.stores.database, api.stores.vectors, job.id)) == ZEROS
    for headers in (WAIT, None):
        again = await api.http.post(f"/jobs/{job.id}/cleanup", headers=headers)
        assert (again.status_code, again.json()) == (200, receipt)
    assert (await api.http.get(f"/cleanups/cleanup-{job.id}")).json() == receipt
    assert (await api.http.delete(f"/jobs/{job.id}")).status_code == 204
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404
    assert (await api.http.get(f"/cleanups/cleanup-{job.id}")).json() == receipt
    assert (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json() == receipt


async def test_extractions_of_another_project_that_go_too_are_told(api: ApiStack) -> None:
    """With the job and its project, in the dry runs of a source, a job and a project, in the answer and the receipt."""
    project = f"p-{uuid.uuid4()}"
    crawl = await _crawl(api, project=project)
    reader = await seed_extract(api.stores.database, api.stores.vectors, crawl, project="b")
    extracted_by = [{"job_id": str(reader.id), "project": "b"}]
    of_one, of_all = (
        {"pages": 0, "jobs": 0, "job_ids": [], "extractions": n, "extract_jobs": 1, "extracted_by": extracted_by}
        for n in (2, 6)
    )
    dry = {"dry_run": True}
    one = await api.http.delete(f"/sources/{crawl.sources[0]}", params={"dry_run": "true"})
    assert (one.json()["relying"], one.json()["planned"]["extractions"]) == (of_one, 6)
    job = await api.http.post(f"/jobs/{crawl.id}/cleanup", json=dry)
    assert (job.json()["relying"], job.json()["planned"]["extractions"]) == (of_all, 18)
    its_own = await api.http.post(f"/jobs/{reader.id}/cleanup", json=dry)
    assert its_own.json()["relying"] == {**of_all, "extractions": 0, "extract_jobs": 0, "extracted_by": []}
    whole = await api.http.post(f"/projects/{project}/cleanup", json=dry)
    assert whole.json()["relying"] == of_all
    accepted = await api.http.post(f"/projects/{project}/cleanup", headers=WAIT)
    assert (accepted.json()["status"], accepted.json()["relying"]) == ("cleaned", of_all)
    for receipt in (accepted.json()["id"], crawl.cleanup_id):
        assert (await api.http.get(f"/cleanups/{receipt}")).json()["relying"] == of_all
    left = await store_counts(api.stores.database, api.stores.vectors, reader.id)
    assert (left.vectors, left.extractions) == (0, 0)


async def test_dry_run_counts_and_deletes_nothing(api: ApiStack) -> None:
    """A dry run tells what would go, from every store."""
    job = await _crawl(api)
    answer = await api.http.post(f"/jobs/{job.id}/cleanup", json={"dry_run": True})
    counts = asdict(job.counts)
    assert (answer.status_code, answer.json()["status"]) == (200, "planned")
    assert (answer.json()["planned"], answer.json()["deleted"]) == (counts, ZEROS)
    assert asdict(await store_counts(api.stores.database, api.stores.vectors, job.id)) == counts


async def test_cleanup_without_a_worker_answers_at_once(idle_api: ApiStack) -> None:
    """A cleanup that nobody runs yet is accepted, and its receipt says running with nothing deleted."""
    job = await _crawl(idle_api)
    answer = await idle_api.http.post(f"/jobs/{job.id}/cleanup")
    receipt = answer.json()
    assert (answer.status_code, receipt["status"]) == (202, "running")
    assert (receipt["planned"], receipt["deleted"]) == (asdict(job.counts), ZEROS)


async def test_active_job_is_not_cleaned_or_deleted(api: ApiStack) -> None:
    """While a job is active, cleanup and delete are refused with what can be done instead."""
    job_id = await api.running()
    for answer in (await api.http.post(f"/jobs/{job_id}/cleanup"), await api.http.delete(f"/jobs/{job_id}")):
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (409, "urn:ke:problem:job-active")
        assert (problem["current_status"], problem["allowed_actions"]) == ("running", ["cancel", "pause"])
    await api.http.post(f"/jobs/{job_id}/cancel")
    await api.until(job_id, "cancelled")


async def test_cleanup_names_the_job_that_blocks_it(api: ApiStack) -> None:
    """While another job extracts from a job's sources, its cleanup is refused, naming that job."""
    owner = await _crawl(api)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner, status=JobStatus.RUNNING)
    answer = await api.http.post(f"/jobs/{owner.id}/cleanup")
    assert (answer.status_code, answer.json()["blocked_by"]) == (409, [str(other.id)])
    assert str(other.id) in answer.json()["detail"]


async def test_cleanup_with_delete_record_leaves_a_tombstone(api: ApiStack) -> None:
    """With delete_record the job is gone with what it made, and the receipt stays."""
    job = await _crawl(api)
    answer = await api.http.post(f"/jobs/{job.id}/cleanup", json={"delete_record": True}, headers=WAIT)
    assert (answer.status_code, answer.json()["delete_record"]) == (200, True)
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404
    assert (await api.http.get(f"/cleanups/cleanup-{job.id}")).json()["status"] == "cleaned"


async def test_delete_record_after_a_cleanup_deletes_it_too(api: ApiStack) -> None:
    """Asking a finished cleanup for delete_record deletes the record, and gives the same receipt."""
    job = await _crawl(api)
    receipt = (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json()
    answer = await api.http.post(f"/jobs/{job.id}/cleanup", json={"delete_record": True}, headers=WAIT)
    assert (answer.status_code, answer.json()) == (200, receipt)
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404


async def test_delete_asks_what_becomes_of_the_artifacts(api: ApiStack) -> None:
    """A job with artifacts is deleted only when the caller says what becomes of them; both choices work."""
    job = await _crawl(api, n_dead_letters=1)
    answer = await api.http.delete(f"/jobs/{job.id}")
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (409, "urn:ke:problem:artifacts-present")
    assert problem["choices"] == ["cleanup=true", "cleanup=false"]
    assert "12 vectors" in problem["detail"]
    assert "1 dead letter," in problem["detail"]
    assert (await api.http.delete(f"/jobs/{job.id}", params={"cleanup": "false"})).status_code == 204
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404
    assert asdict(await store_counts(api.stores.database, api.stores.vectors, job.id)) == asdict(job.counts)
    receipt = (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json()
    assert (receipt["status"], receipt["deleted"]) == ("cleaned", asdict(job.counts))


async def test_delete_with_cleanup_cleans_then_deletes(api: ApiStack) -> None:
    """DELETE with cleanup=true answers 202 with the receipt; at its end the record is gone."""
    job = await _crawl(api)
    answer = await api.http.delete(f"/jobs/{job.id}", params={"cleanup": "true"})
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/cleanups/cleanup-{job.id}"
    receipt = (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json()
    assert (receipt["status"], receipt["delete_record"]) == ("cleaned", True)
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404


async def test_delete_of_a_job_without_artifacts(api: ApiStack) -> None:
    """A job that made nothing is deleted without a question; a second delete finds nothing."""
    job = await seed_job(api.stores.database)
    assert (await api.http.delete(f"/jobs/{job.id}")).status_code == 204
    again = await api.http.delete(f"/jobs/{job.id}")
    assert (again.status_code, again.json()["type"]) == (404, "urn:ke:problem:not-found")


async def test_job_that_ended_in_temporal_only_blocks_no_cleanup(api: ApiStack) -> None:
    """A job in the way whose workflow was terminated is settled first, and then is in nobody's way."""
    owner = await _crawl(api)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner, status=JobStatus.RUNNING)
    await closed_workflow(api.temporal, job_workflow_id(str(other.id)))
    answer = await api.http.post(f"/jobs/{owner.id}/cleanup", headers=WAIT)
    assert (answer.status_code, answer.json()["deleted"]) == (200, asdict(owner.counts + other.counts))
    assert (await api.http.get(f"/jobs/{other.id}")).json()["status"] == "failed"


@pytest.mark.parametrize("first_read", ["/cleanups/cleanup-{}", "/jobs/{}"])
async def test_terminated_cleanup_is_told_and_started_again(api: ApiStack, first_read: str) -> None:
    """A cleanup that was terminated reads as failed, can be started again, and then accounts for everything."""
    job = await _crawl(api)
    await run_step(api.stores, job, "begin_cleanup")
    await closed_workflow(api.temporal, job.cleanup_id)
    await api.http.get(first_read.format(job.id))
    receipt = (await api.http.get(f"/cleanups/{job.cleanup_id}")).json()
    assert (receipt["status"], receipt["remaining"]) == ("failed", asdict(job.counts))
    assert "terminated" in receipt["error"]
    assert (await api.http.get(f"/jobs/{job.id}")).json()["artifacts"] == "cleanup_failed"
    refused = (await api.http.post(f"/jobs/{job.id}/cancel")).json()
    assert refused["allowed_actions"] == ["cleanup", "delete"]
    again = (await api.http.post(f"/jobs/{job.id}/cleanup", headers=WAIT)).json()
    assert (again["status"], again["deleted"]) == ("cleaned", asdict(job.counts))


async def test_terminated_cleanup_does_not_keep_a_record_from_deletion(api: ApiStack) -> None:
    """DELETE takes a terminated cleanup for failed too."""
    job = await _crawl(api)
    await run_step(api.stores, job, "begin_cleanup")
    await closed_workflow(api.temporal, job.cleanup_id)
    assert (await api.http.delete(f"/jobs/{job.id}", params={"cleanup": "false"})).status_code == 204


async def test_cleanup_terminated_before_it_began_leaves_the_job_in_use(api: ApiStack) -> None:
    """The cleanup that a cancel started and someone terminated at once has a failed receipt; nothing has changed."""
    job = await _crawl(api)
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == job.id).values(artifacts="cleaning"))
    assert (await api.http.get(f"/jobs/{job.id}")).json()["artifacts"] == "cleaning"
    await closed_workflow(api.temporal, job.cleanup_id)
    receipt = (await api.http.get(f"/cleanups/{job.cleanup_id}")).json()
    assert (receipt["status"], receipt["remaining"]) == ("failed", asdict(job.counts))
    assert (await api.http.get(f"/jobs/{job.id}")).json()["artifacts"] == "present"


async def test_delete_record_joins_a_cleanup_that_has_not_begun(idle_api: ApiStack) -> None:
    """The wish is kept with the cleanup that was started without it, and the cleanup fulfils it."""
    job = await _crawl(idle_api)
    await idle_api.http.post(f"/jobs/{job.id}/cleanup")
    answer = await idle_api.http.post(f"/jobs/{job.id}/cleanup", json={"delete_record": True})
    assert (answer.status_code, answer.json()["planned"]) == (202, asdict(job.counts))
    assert (await idle_api.http.get(f"/cleanups/{job.cleanup_id}")).json()["delete_record"] is True
    await clean(idle_api.stores, job)
    assert (await idle_api.http.get(f"/jobs/{job.id}")).status_code == 404


async def test_delete_takes_the_list_of_sources_too(api: ApiStack) -> None:
    """A job that extracted nothing is deleted with the list of what it was to extract."""
    owner = await _crawl(api)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner, chunks_each=0)
    assert (await api.http.delete(f"/jobs/{other.id}")).status_code == 204
    async with api.stores.database.transaction() as connection:
        tasks = sa.select(sa.func.count()).where(extraction_tasks.c.job_id == other.id)
        assert (await connection.execute(tasks)).scalar_one() == 0


@pytest.mark.parametrize("is_cleaned", [False, True])
async def test_nothing_is_locked_while_temporal_is_asked(
    api: ApiStack, monkeypatch: pytest.MonkeyPatch, *, is_cleaned: bool
) -> None:
    """While the history is deleted the job's row is free, and the record is still there for another try."""
    job = await seed_job(api.stores.database)
    if is_cleaned:
        await clean(api.stores, job)
    engine = api.app.state.gateway.engine
    erase, deleted_at = engine.erase_job, []

    async def look_and_erase(job_id: str) -> None:
        async with api.stores.database.transaction() as connection:
            row = sa.select(jobs.c.deleted_at).where(jobs.c.id == job.id).with_for_update(nowait=True)
            deleted_at.append((await connection.execute(row)).scalar_one())
        await erase(job_id)

    monkeypatch.setattr(engine, "erase_job", look_and_erase)
    if is_cleaned:
        answer = await api.http.post(f"/jobs/{job.id}/cleanup", json={"delete_record": True}, headers=WAIT)
    else:
        answer = await api.http.delete(f"/jobs/{job.id}")
    assert answer.is_success, answer.text
    assert deleted_at == [None]
    assert (await api.http.get(f"/jobs/{job.id}")).status_code == 404


async def test_unknown_jobs_and_receipts_are_not_found(api: ApiStack) -> None:
    """Every call on a job or receipt that never was answers 404 with a problem."""
    nowhere = uuid.uuid4()
    calls = [
        ("GET", f"/jobs/{nowhere}"),
        ("GET", "/jobs/not-an-id"),
        ("DELETE", f"/jobs/{nowhere}"),
        *(("POST", f"/jobs/{nowhere}/{action}") for action in ("cancel", "pause", "resume", "cleanup")),
        *(("GET", f"/jobs/{nowhere}/{name}") for name in ("sources", "pages", "extractions", "entities")),
        ("GET", f"/jobs/{nowhere}/dead-letters"),
        ("DELETE", f"/jobs/{nowhere}/dead-letters"),
        ("GET", f"/jobs/{nowhere}/dead-letters/summary"),
        ("GET", f"/cleanups/cleanup-{nowhere}"),
        ("GET", "/cleanups/no,receipt"),
        ("GET", f"/sources/{nowhere}"),
        ("GET", "/nowhere"),
    ]
    for method, path in calls:
        answer = await api.http.request(method, path)
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (404, "urn:ke:problem:not-found"), (method, path)
        assert (answer.headers["content-type"], problem["instance"]) == ("application/problem+json", path)
        assert "pattern" not in problem["detail"], "no regular expression is shown to people"
