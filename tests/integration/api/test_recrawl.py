"""Submitting jobs that crawl an earlier one's pages again, and reading what they found."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.jobs import Artifacts, JobKind, JobStatus
from ke.storage.tables import jobs, pages
from tests.integration.api.stack import QUICK, SLOW, ApiStack
from tests.seeding import seed_crawl, seed_job

BODIES = ({"kind": "scrape", "urls": [QUICK]}, {"kind": "crawl", "seeds": [QUICK]})
each_body = pytest.mark.parametrize("body", BODIES, ids=lambda body: body["kind"])


async def submit(api: ApiStack, body: dict[str, Any], job: uuid.UUID | str) -> tuple[int, dict[str, Any]]:
    answer = await api.http.post("/jobs", json={**body, "recrawl_of": str(job)})
    return answer.status_code, answer.json()


@each_body
async def test_ended_job_may_be_crawled_again(api: ApiStack, body: dict[str, Any]) -> None:
    """Whatever its end was; the new job says which one it is."""
    for status in (JobStatus.COMPLETED, JobStatus.CANCELLED, JobStatus.FAILED):
        earlier = await seed_job(api.stores.database, status=status)
        code, job = await submit(api, body, earlier.id)
        assert (code, job["params"]["recrawl_of"]) == (202, str(earlier.id))
        await api.until(job["id"], "completed")


@each_body
async def test_job_that_is_not_there_is_an_unknown_reference(api: ApiStack, body: dict[str, Any]) -> None:
    """No job, or one that fetched nothing: 422 with a pointer, and no job is left behind."""
    code, problem = await submit(api, body, uuid.uuid4())
    told = [{"pointer": "/recrawl_of", "detail": "There is no such job."}]
    assert (code, problem["type"], problem["errors"]) == (422, "urn:ke:problem:unknown-reference", told)
    extract = await seed_job(api.stores.database, kind=JobKind.EXTRACT, params={"source_ids": []})
    code, problem = await submit(api, body, extract.id)
    told = [{"pointer": "/recrawl_of", "detail": "This job fetched no pages."}]
    assert (code, problem["errors"]) == (422, told)
    async with api.stores.database.transaction() as connection:
        left = sa.select(jobs.c.id).where(jobs.c.params["recrawl_of"].astext == str(extract.id))
        assert (await connection.execute(left)).all() == []


@each_body
async def test_job_that_goes_on_cannot_be_crawled_again(api: ApiStack, body: dict[str, Any]) -> None:
    """409, with the state that it is in."""
    running = await seed_job(api.stores.database, status=JobStatus.RUNNING)
    code, problem = await submit(api, body, running.id)
    assert (code, problem["current_status"]) == (409, "running")


@pytest.mark.parametrize("artifacts", [Artifacts.CLEANING, Artifacts.CLEANED, Artifacts.CLEANUP_FAILED])
async def test_job_that_is_cleaned_cannot_be_crawled_again(api: ApiStack, artifacts: Artifacts) -> None:
    """409: there is nothing that its pages could be compared with."""
    earlier = await seed_job(api.stores.database)
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == earlier.id).values(artifacts=artifacts.value))
    code, problem = await submit(api, BODIES[0], earlier.id)
    assert (code, problem["artifacts"]) == (409, artifacts.value)


async def test_cleanup_of_the_earlier_job_waits_for_the_recrawl(api: ApiStack) -> None:
    """While the re-crawl is active a cleanup is refused and names it; afterwards it goes through."""
    earlier = await seed_crawl(api.stores.database, api.stores.vectors)
    _, job = await submit(api, {"kind": "scrape", "urls": [SLOW]}, earlier.id)
    refused = await api.http.post(f"/jobs/{earlier.id}/cleanup")
    assert refused.status_code == 409
    assert job["id"] in refused.json()["detail"]
    assert (await api.http.post(f"/jobs/{job['id']}/cancel")).status_code == 202
    await api.until(job["id"], "cancelled")
    cleaned = await api.http.post(f"/jobs/{earlier.id}/cleanup", headers={"Prefer": "wait=30"})
    assert (cleaned.status_code, cleaned.json()["status"]) == (200, "cleaned")


async def test_pages_that_are_gone_are_listed_with_their_document(api: ApiStack) -> None:
    """`?state=gone` and `?state=unchanged` list pages with the documents of the earlier job."""
    job = await seed_crawl(api.stores.database, api.stores.vectors, n_pages=3)
    document = uuid.uuid4()
    async with api.stores.database.transaction() as connection:
        for number, state in enumerate(("gone", "unchanged")):
            page = sa.update(pages).where(pages.c.job_id == job.id, pages.c.url == f"https://site.example/{number}")
            await connection.execute(page.values(state=state, source_id=document, canonical_url=QUICK))
    for number, state in enumerate(("gone", "unchanged")):
        answer = await api.http.get(f"/jobs/{job.id}/pages", params={"state": state})
        (page,) = answer.json()["data"]
        assert (page["url"], page["source_id"]) == (f"https://site.example/{number}", str(document))
        assert page["canonical_url"] == QUICK
