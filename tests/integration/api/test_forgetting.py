"""Forgetting one source over HTTP."""

import uuid
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from ke.contracts.cleanup import StoreCounts
from ke.contracts.jobs import JobStatus
from ke.storage.tables import jobs
from tests.cleaning import run_step
from tests.integration.api.stack import ApiStack
from tests.seeding import Seeded, seed_crawl, seed_extract, store_counts

WAIT = {"Prefer": "wait=30"}
ZEROS = asdict(StoreCounts())
OF_A_SOURCE = asdict(StoreCounts(vectors=4, sources=1, extractions=4, entities=8, pages=1, records=2))
"""What `seed_crawl` makes of each source."""


async def _crawl(api: ApiStack, **options: Any) -> Seeded:
    return await seed_crawl(api.stores.database, api.stores.vectors, **options)


async def test_forgotten_source_is_gone_with_all_that_was_made_of_it(api: ApiStack) -> None:
    """The receipt tells what was deleted, by whichever job it was made; the rest of the jobs stays as it was."""
    owner = await _crawl(api)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner)
    before = (await api.http.get(f"/jobs/{owner.id}")).json()
    source = owner.sources[1]
    answer = await api.http.delete(f"/sources/{source}", headers=WAIT)
    receipt = answer.json()
    assert (answer.status_code, receipt["status"]) == (200, "cleaned"), receipt
    assert answer.headers["Location"] == f"/cleanups/cleanup-source-{source}"
    assert (receipt["scope"], receipt["source_id"], receipt["job_id"]) == ("source", str(source), str(owner.id))
    by_both = asdict(StoreCounts(vectors=6, sources=1, extractions=6, entities=10, pages=1, records=4))
    assert (receipt["planned"], receipt["deleted"], receipt["remaining"]) == (by_both, by_both, ZEROS)
    assert (await api.http.get(f"/sources/{source}")).status_code == 404
    assert (await api.http.get(f"/jobs/{owner.id}")).json() == before
    left = await store_counts(api.stores.database, api.stores.vectors, owner.id)
    assert asdict(left + StoreCounts(**by_both)) == asdict(owner.counts + other.counts)
    for headers in (WAIT, None):
        again = await api.http.delete(f"/sources/{source}", headers=headers)
        assert (again.status_code, again.json()) == (200, receipt)
    assert (await api.http.get(f"/cleanups/{receipt['id']}")).json() == receipt


async def test_dry_run_counts_a_source_and_deletes_nothing(api: ApiStack) -> None:
    """A dry run tells what would go, and all of it is there afterwards."""
    owner = await _crawl(api)
    answer = await api.http.delete(f"/sources/{owner.sources[0]}", params={"dry_run": "true"})
    assert (answer.status_code, answer.json()["status"], answer.json()["planned"]) == (200, "planned", OF_A_SOURCE)
    assert await store_counts(api.stores.database, api.stores.vectors, owner.id) == owner.counts
    assert (await api.http.get(f"/cleanups/{answer.json()['id']}")).status_code == 404


async def test_source_that_never_was_is_not_found(api: ApiStack) -> None:
    """There is nothing to forget."""
    assert (await api.http.delete(f"/sources/{uuid.uuid4()}")).status_code == 404


async def test_source_of_a_busy_job_is_not_forgotten(api: ApiStack) -> None:
    """While its job is active or being retried, or another works on that job's sources, it is refused with the name."""
    active = await _crawl(api, status=JobStatus.PAUSED)
    retried, shared = await _crawl(api), await _crawl(api)
    async with api.stores.database.transaction() as connection:
        retry = sa.update(jobs).where(jobs.c.id == retried.id).values(retry_id=f"retry-{retried.id}-1")
        await connection.execute(retry)
    reader = await seed_extract(api.stores.database, api.stores.vectors, shared, status=JobStatus.PAUSED)
    for owner, blocker in ((active, active), (retried, retried), (shared, reader)):
        for params in ({}, {"dry_run": "true"}):
            answer = await api.http.delete(f"/sources/{owner.sources[0]}", params=params)
            problem = answer.json()
            assert (answer.status_code, problem["type"]) == (409, "urn:ke:problem:job-active")
            assert problem["blocked_by"] == [str(blocker.id)]
            assert str(blocker.id) in problem["detail"]


async def test_receipt_of_a_terminated_run_is_closed_when_it_is_read(idle_api: ApiStack) -> None:
    """A run that was ended from Temporal's own tools leaves no receipt that runs for ever, and another can begin."""
    owner = await _crawl(idle_api)
    source = owner.sources[0]
    started = await idle_api.http.delete(f"/sources/{source}")
    assert (started.status_code, started.json()["status"], started.json()["planned"]) == (202, "running", OF_A_SOURCE)
    for step in ("begin_cleanup", "delete_vectors"):
        await run_step(idle_api.stores, owner, step, source=source)
    temporal = await idle_api.app.state.gateway.engine._connection.client()
    await temporal.get_workflow_handle(f"cleanup-source-{source}").terminate("by a test")
    receipt = (await idle_api.http.get(f"/cleanups/cleanup-source-{source}")).json()
    assert (receipt["status"], receipt["planned"]) == ("failed", OF_A_SOURCE)
    assert (receipt["deleted"], receipt["remaining"]) == ({**ZEROS, "vectors": 4}, {**OF_A_SOURCE, "vectors": 0})
    assert "terminated" in receipt["error"]
    again = await idle_api.http.delete(f"/sources/{source}")
    assert (again.status_code, again.json()["status"]) == (202, "running")


async def test_client_forgets_a_source(api: ApiStack) -> None:
    """The Python client does the same, and a repeat is safe."""
    owner = await _crawl(api)
    source = str(owner.sources[0])
    plan = await api.ke.forget_source(source, dry_run=True)
    receipt = await api.ke.forget_source(source, wait_s=30)
    assert (plan["status"], receipt["status"], receipt["deleted"]) == ("planned", "cleaned", plan["planned"])
    assert await api.ke.forget_source(source) == receipt
