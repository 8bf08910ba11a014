"""Submitting jobs that crawl an earlier one's pages again, and reading what they found."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.cleanup import ForgettingInput
from ke.contracts.jobs import Artifacts, JobKind, JobStatus
from ke.contracts.naming import FORGETTING_WORKFLOW, TaskQueue, forgetting_id
from ke.storage.tables import extraction_tasks, jobs, pages, sources
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


@each_body
async def test_forgetting_goes_with_a_recrawl_only(api: ApiStack, body: dict[str, Any]) -> None:
    """Without an earlier job there is nothing to forget: 422. With one the job says that it will."""
    refused = await api.http.post("/jobs", json={**body, "forget_replaced": True})
    assert refused.status_code == 422
    assert "forget_replaced goes with recrawl_of only" in refused.json()["detail"]
    earlier = await seed_job(api.stores.database)
    _, job = await submit(api, {**body, "forget_replaced": True}, earlier.id)
    assert job["params"]["forget_replaced"] is True
    await api.until(job["id"], "completed")


async def replacing(api: ApiStack) -> tuple[uuid.UUID, uuid.UUID, list[uuid.UUID]]:
    """A crawl, and a re-crawl that has found its first two pages changed and gone; with their earlier documents."""
    first = await seed_crawl(api.stores.database, api.stores.vectors, n_pages=4, n_sources=4)
    second = await seed_crawl(api.stores.database, api.stores.vectors, n_pages=4, n_sources=4)
    async with api.stores.database.transaction() as connection:
        of_first = sa.select(sources.c.id).where(sources.c.job_id == first.id).order_by(sources.c.seq)
        before = list((await connection.execute(of_first)).scalars())
        states = (("fetched", before[0]), ("gone", before[1]), ("unchanged", None), ("fetched", None))
        for number, (state, document) in enumerate(states):
            page = sa.update(pages).where(pages.c.job_id == second.id, pages.c.url == f"https://site.example/{number}")
            now = None if state == "gone" else second.sources[number]
            values = {"state": state, "source_id": now, "fetched_at": sa.func.now()}
            await connection.execute(page.values(previous_source_id=document, **values))
        done = sa.update(extraction_tasks).where(extraction_tasks.c.job_id == second.id).values(record_state="done")
        await connection.execute(done)
    return first.id, second.id, before


async def listed(api: ApiStack, job: uuid.UUID, state: str) -> list[tuple[str, str | None, bool | None]]:
    answer = await api.http.get(f"/jobs/{job}/pages", params={"state": state})
    assert answer.status_code == 200, answer.text
    names = ("url", "previous_source_id", "previous_is_stored")
    found = [tuple(page[name] for name in names) for page in answer.json()["data"]]
    return [(url.removeprefix("https://site.example/"), source, there) for url, source, there in found]


async def test_pages_are_listed_by_what_has_become_of_them(api: ApiStack) -> None:
    """`changed` and `new` tell apart what `fetched` has together; a state that there is not is refused."""
    _, second, before = await replacing(api)
    assert await listed(api, second, "changed") == [("0", str(before[0]), True)]
    assert await listed(api, second, "gone") == [("1", str(before[1]), True)]
    assert await listed(api, second, "new") == [("3", None, None)]
    assert {url for url, *_ in await listed(api, second, "fetched")} == {"0", "3"}
    assert (await api.http.get(f"/jobs/{second}/pages", params={"state": "other"})).status_code == 422
    assert [page["url"] async for page in api.ke.iterate_pages(str(second), state="new")] == ["https://site.example/3"]


async def test_replaced_documents_are_deleted_with_receipts(api: ApiStack) -> None:
    """By the cleanup of a single source: vectors, chunks and all; what is not replaced stays, of both jobs."""
    first, second, before = await replacing(api)
    forgotten = await api.temporal.execute_workflow(
        FORGETTING_WORKFLOW,
        ForgettingInput(str(second), sources_a_run=1),
        id=forgetting_id(f"job-{second}"),
        task_queue=TaskQueue.CLEANUP.value,
    )
    assert forgotten == 2
    for document in before[:2]:
        receipt = (await api.http.get(f"/cleanups/cleanup-source-{document}")).json()
        assert (receipt["status"], receipt["job_id"], receipt["deleted"]["sources"]) == ("cleaned", str(first), 1)
        assert receipt["deleted"]["vectors"] == receipt["deleted"]["extractions"] > 0
        assert not any(receipt["remaining"].values())
        assert (await api.http.get(f"/sources/{document}")).status_code == 404
    for document in before[2:]:
        assert (await api.http.get(f"/sources/{document}")).status_code == 200
    assert await listed(api, second, "changed") == [("0", str(before[0]), False)]
    assert len((await api.http.get(f"/jobs/{second}/sources")).json()["data"]) == 4
