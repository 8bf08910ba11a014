"""The project of an extract job that names none: that of the sources it reads."""

import uuid
from typing import Any

from tests.integration.api.stack import QUICK, ApiStack
from tests.seeding import Seeded, seed_crawl

KEY = "Idempotency-Key"


async def a_crawl(api: ApiStack, project: str, **options: Any) -> Seeded:
    return await seed_crawl(api.stores.database, api.stores.vectors, n_sources=2, project=project, **options)


async def extract(api: ApiStack, key: str | None = None, **members: Any) -> Any:
    body = {"kind": "extract", "entities": None, **members}
    return await api.http.post("/jobs", json=body, headers={KEY: key} if key else {})


async def project_of(api: ApiStack, **members: Any) -> str:
    answer = await extract(api, **members)
    assert answer.status_code == 202, answer.text
    project: str = (await api.http.get(f"/jobs/{answer.json()['id']}")).json()["project"]
    return project


async def test_extract_job_belongs_to_the_project_of_its_sources(api: ApiStack) -> None:
    """Of a job, of single sources, and of sources of several jobs of one project; what is given wins."""
    first, second = await a_crawl(api, "lights"), await a_crawl(api, "lights")
    assert await project_of(api, source_job_id=str(first.id)) == "lights"
    assert await project_of(api, source_job_id=str(first.id), project=None) == "lights"
    both = [str(first.sources[0]), str(second.sources[0])]
    assert await project_of(api, source_ids=both) == "lights"
    for given in ("default", "other"):
        assert await project_of(api, source_ids=both, project=given) == given
    assert await project_of(api, source_job_id=str((await a_crawl(api, "default")).id)) == "default"


async def test_sources_of_a_job_whose_record_is_deleted_keep_its_project(api: ApiStack) -> None:
    """They are there still, and so is what they belong to."""
    owner = await a_crawl(api, "lights")
    assert (await api.http.delete(f"/jobs/{owner.id}?cleanup=false")).status_code == 204
    assert await project_of(api, source_ids=[str(owner.sources[0])]) == "lights"


async def test_sources_of_several_projects_need_one_to_be_named(api: ApiStack) -> None:
    """It is not guessed which is meant, and the projects are told; with one it is accepted."""
    owners = [await a_crawl(api, project) for project in ("lights", "bells")]
    sources = [str(owner.sources[0]) for owner in owners]
    answer = await extract(api, source_ids=sources)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:ke:problem:validation-failed")
    told = "The sources are of several projects (bells, lights): name one."
    assert answer.json()["errors"] == [{"pointer": "/project", "detail": told}]
    assert await project_of(api, source_ids=sources, project="bells") == "bells"


async def test_key_of_an_extract_job_tells_a_project_from_none(api: ApiStack) -> None:
    """The same body gives the same job, also when that of its sources is deleted; with a project it is another body."""
    owner, key = await a_crawl(api, "lights"), str(uuid.uuid4())
    members = {"source_job_id": str(owner.id)}
    job = (await extract(api, key, **members)).json()
    await api.until(job["id"], "completed")
    answer = await extract(api, key, **members, project="lights")
    assert answer.json()["type"] == "urn:ke:problem:idempotency-key-reused"
    assert (await api.http.delete(f"/jobs/{owner.id}?cleanup=false")).status_code == 204
    again = await extract(api, key, **members)
    assert (again.status_code, again.json()["id"], again.json()["project"]) == (202, job["id"], "lights")


async def test_fetching_jobs_belong_to_default(api: ApiStack) -> None:
    """A scrape or crawl that names no project has no sources to go by."""
    assert (await api.submit(QUICK))["project"] == "default"
