"""Submitting jobs that crawl an earlier one's pages again, and reading what they found."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from ke.contracts.cleanup import ForgettingInput
from ke.contracts.jobs import Artifacts, JobKind, JobStatus
from ke.contracts.naming import FORGETTING_WORKFLOW, TaskQueue, forgetting_id
from ke.storage.tables import extraction_tasks, job_progress, jobs, pages, sources
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
    """409: there is nothing that its pages could be compared with. It says what can be submitted anew."""
    earlier = await seed_job(api.stores.database, params={"seeds": [QUICK]})
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.update(jobs).where(jobs.c.id == earlier.id).values(artifacts=artifacts.value))
    code, problem = await submit(api, BODIES[0], earlier.id)
    assert (code, problem["artifacts"], problem["seeds"]) == (409, artifacts.value, [QUICK])
    assert problem["detail"].endswith("Without recrawl_of its seeds can be submitted anew.")


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
    share = {"recrawl_of": str(earlier.id), "max_gone_share": 0.8}
    refused = await api.http.post("/jobs", json={**body, **share})
    assert refused.status_code == 422
    assert "max_gone_share goes with forget_replaced only" in refused.json()["detail"]
    refused = await api.http.post("/jobs", json={**body, **share, "forget_replaced": True, "max_gone_share": 1.1})
    assert refused.json()["errors"][0]["pointer"] == "/max_gone_share"
    _, job = await submit(api, {**body, "forget_replaced": True, "max_gone_share": 0.8}, earlier.id)
    assert (job["params"]["forget_replaced"], job["params"]["max_gone_share"]) == (True, 0.8)
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
        params = {"recrawl_of": str(first.id)}
        await connection.execute(sa.update(jobs).where(jobs.c.id == second.id).values(params=params))
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


@pytest.mark.parametrize("state", ["changed", "new"])
async def test_what_has_changed_is_asked_of_a_recrawl_only(api: ApiStack, state: str) -> None:
    """Of a first crawl all would be new, and nothing changed: 422 names the parameter."""
    first, _, _ = await replacing(api)
    answer = await api.http.get(f"/jobs/{first}/pages", params={"state": state})
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "state")
    assert answer.json()["detail"] == f"state: {state} is of re-crawls only, and job {first} is none."
    assert await listed(api, first, "gone") == []


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


async def read(api: ApiStack, job: uuid.UUID | str) -> dict[str, Any]:
    answer = await api.http.get(f"/jobs/{job}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def note_result(api: ApiStack, job: uuid.UUID, **params: Any) -> None:
    """Makes a job the re-crawl of another that has found a page changed, and one gone."""
    async with api.stores.database.transaction() as connection:
        result = {"pages_changed": 1, "pages_gone": 1, "pages_new": 0}
        again = {"seeds": [QUICK], "recrawl_of": str(uuid.uuid4()), **params}
        await connection.execute(sa.update(jobs).where(jobs.c.id == job).values(result=result, params=again))


async def test_options_that_are_not_given_are_the_earlier_jobs(api: ApiStack) -> None:
    """Limits, scope, extraction, project and seeds; the job shows what it runs with, and what is from there."""
    options = {
        "limits": {"max_pages": 1000},
        "scope": {"exclude": ["/old"]},
        "extract": {"chunk_tokens": 99, "entities": None},
    }
    first = await api.http.post("/jobs", json={"kind": "crawl", "seeds": [QUICK], "project": "again", **options})
    await api.until(first.json()["id"], "completed")
    code, job = await submit(api, {"kind": "crawl", "scope": {"include": ["/docs"]}}, first.json()["id"])
    assert (code, job["project"], job["params"]["seeds"]) == (202, "again", [QUICK])
    assert (job["params"]["limits"]["max_pages"], job["params"]["extract"]["chunk_tokens"]) == (1000, 99)
    assert (job["params"]["scope"]["include"], job["params"]["scope"]["exclude"]) == (["/docs"], ["/old"])
    taken = ["/project", "/seeds", "/limits/max_pages", "/scope/exclude", "/extract"]
    assert (job["params"]["taken_over"], first.json()["params"].get("taken_over")) == (taken, None)
    ended = await api.until(job["id"], "completed")
    assert ended["params"] == job["params"]
    third = await api.ke.submit_crawl(recrawl_of=job["id"], limits={"max_pages": 500}, extract=None)
    assert (third["params"]["limits"]["max_pages"], third["params"]["extract"]) == (500, None)
    assert third["params"]["scope"] == job["params"]["scope"]


async def test_addresses_are_needed_where_none_can_be_taken_over(api: ApiStack) -> None:
    """Without an earlier job, and of one of another kind: 422 with a pointer."""
    scrape = await seed_job(api.stores.database, kind=JobKind.SCRAPE, params={"urls": [QUICK], "extract": None})
    for body in ({"kind": "crawl"}, {"kind": "crawl", "recrawl_of": str(scrape.id)}):
        answer = await api.http.post("/jobs", json=body)
        told = [{"pointer": "/seeds", "detail": "This is required, unless recrawl_of is a job of the same kind."}]
        assert (answer.status_code, answer.json()["errors"]) == (422, told)
    answer = await api.http.post("/jobs", json={"kind": "scrape", "recrawl_of": str(scrape.id)})
    assert (answer.status_code, answer.json()["params"]["urls"]) == (202, [QUICK])


async def test_key_of_a_recrawl_outlasts_the_earlier_job(api: ApiStack) -> None:
    """The same body under the same key is the same job, also when nothing can be taken over any more."""
    earlier = await api.submit(QUICK, extract={"chunk_tokens": 99, "entities": None})
    await api.until(earlier["id"], "completed")
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"kind": "scrape", "urls": [QUICK], "recrawl_of": earlier["id"]}
    job = (await api.http.post("/jobs", json=body, headers=headers)).json()
    assert job["params"]["extract"]["chunk_tokens"] == 99
    await api.until(job["id"], "completed")
    assert (await api.http.delete(f"/jobs/{earlier['id']}?cleanup=false")).status_code == 204
    again = await api.http.post("/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"], again.json()["params"]) == (202, job["id"], job["params"])
    spelled = await api.http.post("/jobs", json={**body, "reading": "thorough"}, headers=headers)
    assert spelled.json()["type"] == "urn:ke:problem:idempotency-key-reused"


async def test_key_of_a_recrawl_that_gives_nothing_outlasts_the_earlier_job(api: ApiStack) -> None:
    """Also when there is no address any more that could be taken over; of a new job that one is missing."""
    earlier = await api.submit(QUICK)
    await api.until(earlier["id"], "completed")
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"kind": "scrape", "recrawl_of": earlier["id"]}
    job = (await api.http.post("/jobs", json=body, headers=headers)).json()
    await api.until(job["id"], "completed")
    assert (await api.http.delete(f"/jobs/{earlier['id']}?cleanup=false")).status_code == 204
    again = await api.http.post("/jobs", json=body, headers=headers)
    assert (again.status_code, again.json()["id"]) == (202, job["id"]), again.text
    fresh = await api.http.post("/jobs", json=body)
    assert (fresh.status_code, fresh.json()["type"]) == (422, "urn:ke:problem:unknown-reference")
    assert (await api.http.delete(f"/jobs/{job['id']}?cleanup=false")).status_code == 204
    assert (await api.http.post("/jobs", json=body, headers=headers)).status_code == 410


async def test_what_goes_with_a_schema_is_refused_without_one(api: ApiStack) -> None:
    """Where none is taken over either."""
    earlier = await seed_job(api.stores.database, params={"seeds": [QUICK], "extract": None})
    for body in (BODIES[0], {**BODIES[0], "recrawl_of": str(earlier.id)}):
        answer = await api.http.post("/jobs", json={**body, "extract": {"instructions": "Briefly."}})
        told = [{"pointer": "/extract", "detail": "instructions, model and max_tokens go with a schema only."}]
        assert (answer.status_code, answer.json()["errors"]) == (422, told)


async def many_gone(api: ApiStack, job: uuid.UUID) -> None:
    """Lets a re-crawl have found more gone than its earlier job had."""
    of_collect = (job_progress.c.job_id == job) & (job_progress.c.lane == "collect")
    async with api.stores.database.transaction() as connection:
        await connection.execute(sa.update(job_progress).where(of_collect).values(pages_gone=100))


async def test_ended_recrawl_tells_what_is_left_of_before(api: ApiStack) -> None:
    """How many pages' earlier documents are stored; and whether they are still being deleted, where that was asked."""
    first, second, before = await replacing(api)
    await note_result(api, second)
    job = await read(api, second)
    assert (job["previous_stored"], job["forgetting"]) == (2, None)
    assert (job["result"]["pages_changed"], job["result"]["pages_new"]) == (1, 0)
    await note_result(api, second, forget_replaced=True)
    assert (await read(api, second))["forgetting"] == "ended"
    running = await api.temporal.start_workflow(
        "never-begun", id=forgetting_id(f"job-{second}"), task_queue=f"nobody-{second}"
    )
    assert (await read(api, second))["forgetting"] == "running"
    await running.terminate()
    assert (await read(api, second))["forgetting"] == "ended"
    await many_gone(api, second)
    assert (await read(api, second))["forgetting"] == "held"
    await note_result(api, second, forget_replaced=True, max_gone_share=1)
    assert (await read(api, second))["forgetting"] == "ended"
    answer = await api.http.delete(f"/sources/{before[0]}", headers={"Prefer": "wait=30"})
    assert answer.json()["status"] == "cleaned"
    assert (await read(api, second))["previous_stored"] == 1
    listed_jobs = (await api.http.get("/jobs", params={"limit": 200})).json()["data"]
    assert {job["previous_stored"] for job in listed_jobs} == {None}
    assert (await read(api, first))["previous_stored"] is None


async def test_cleanup_names_the_jobs_whose_pages_rely_on_it(api: ApiStack) -> None:
    """In its dry run, its answer and its receipt, of a job, of a source and of a project; and the pages tell it."""
    project = f"p-{uuid.uuid4()}"
    first = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=3, project=project)
    second = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=0, n_pages=3)
    async with api.stores.database.transaction() as connection:
        for number, source in enumerate(first.sources):
            page = sa.update(pages).where(pages.c.job_id == second.id, pages.c.url == f"https://site.example/{number}")
            await connection.execute(page.values(state="unchanged", source_id=source))
    no_chunks = {"extractions": 0, "extract_jobs": 0, "extracted_by": []}
    of_one, of_all = ({"pages": number, "jobs": 1, "job_ids": [str(second.id)], **no_chunks} for number in (1, 3))
    one = await api.http.delete(f"/sources/{first.sources[0]}", params={"dry_run": "true"})
    assert (one.json()["relying"], one.json()["planned"]["pages"]) == (of_one, 2)
    whole = await api.http.post(f"/projects/{project}/cleanup", json={"dry_run": True})
    assert whole.json()["relying"] == of_all
    plan = await api.http.post(f"/jobs/{first.id}/cleanup", json={"dry_run": True})
    assert (plan.json()["relying"], plan.json()["planned"]["pages"]) == (of_all, 3)
    pages_of = f"/jobs/{second.id}/pages"
    assert {page["source_is_stored"] for page in (await api.http.get(pages_of)).json()["data"]} == {True}
    accepted = await api.http.post(f"/projects/{project}/cleanup")
    assert accepted.json()["relying"] == of_all
    done = await api.http.post(f"/jobs/{first.id}/cleanup", headers={"Prefer": "wait=30"})
    assert (done.json()["status"], done.json()["relying"]) == ("cleaned", of_all)
    for receipt in (f"cleanup-{first.id}", accepted.json()["id"]):
        assert (await api.http.get(f"/cleanups/{receipt}")).json()["relying"] == of_all
    left = (await api.http.get(pages_of)).json()["data"]
    assert [(page["state"], page["source_is_stored"]) for page in left] == [("unchanged", False)] * 3
