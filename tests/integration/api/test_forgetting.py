"""Forgetting one source over HTTP."""

import uuid
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from ke.contracts.cleanup import StoreCounts
from ke.contracts.ids import page_id
from ke.contracts.jobs import JobStatus
from ke.storage.tables import jobs, pages
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


async def test_dry_run_names_the_other_pages_that_have_the_source(api: ApiStack) -> None:
    """Duplicates of its job, and pages that later jobs found as they were: the newest first, not those that are gone.

    Not the page that it was stored for, nor what is of a job that is deleted; and no receipt keeps their URLs.
    """
    owner = await _crawl(api)
    late = await _crawl(api, n_sources=0, n_pages=4)
    deleted = await _crawl(api, n_sources=0, n_pages=1)
    source = owner.sources[0]
    async with api.stores.database.transaction() as connection:
        late_states = ("unchanged", "duplicate", "gone")
        states = {owner.id: ("fetched", "duplicate"), late.id: late_states, deleted.id: ("unchanged",)}
        for job, of_pages in states.items():
            for number, state in enumerate(of_pages):
                page = sa.update(pages).where(pages.c.id == page_id(job, f"https://site.example/{number}"))
                await connection.execute(page.values(state=state, source_id=source))
        gone = sa.update(jobs).where(jobs.c.id == deleted.id).values(deleted_at=sa.func.now())
        await connection.execute(gone)
    plan = (await api.http.delete(f"/sources/{source}", params={"dry_run": "true"})).json()
    first = [(page["url"], page["job_id"], page["state"]) for page in plan["other_pages"]["first"]]
    assert (plan["other_pages"]["pages"], first) == (
        3,
        [
            ("https://site.example/0", str(late.id), "unchanged"),
            ("https://site.example/1", str(late.id), "duplicate"),
            ("https://site.example/1", str(owner.id), "duplicate"),
        ],
    )
    none = (await api.http.delete(f"/sources/{owner.sources[2]}", params={"dry_run": "true"})).json()
    assert none["other_pages"] == {"pages": 0, "first": []}
    receipt = (await api.http.delete(f"/sources/{source}", headers=WAIT)).json()
    assert (receipt["status"], receipt["other_pages"]) == ("cleaned", None)
    again = (await api.http.delete(f"/sources/{source}", params={"dry_run": "true"})).json()
    assert again["other_pages"] == {"pages": 0, "first": []}


async def test_plan_for_a_source_names_the_first_of_many_pages(api: ApiStack) -> None:
    """All are counted; the page of its own URL is not among them, to which a redirect of another one had led before."""
    owner = await _crawl(api, n_pages=30)
    async with api.stores.database.transaction() as connection:
        its = sa.update(pages).where(pages.c.job_id == owner.id)
        await connection.execute(its.values(state="duplicate", source_id=owner.sources[0]))
        redirected = sa.update(pages).where(pages.c.id == page_id(owner.id, "https://site.example/7"))
        await connection.execute(redirected.values(state="fetched"))
    other = (await api.ke.forget_source(str(owner.sources[0]), dry_run=True))["other_pages"]
    assert other is not None
    numbers = [int(page["url"].rpartition("/")[2]) for page in other["first"]]
    assert (other["pages"], numbers) == (28, [number for number in range(1, 22) if number != 7])


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
