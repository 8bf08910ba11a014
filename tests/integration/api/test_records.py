"""Jobs with a schema, and the records that they made, over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from activities.failures import FailureInterceptor
from activities.records import StructuredActivities
from ke.contracts.naming import TaskQueue
from ke.runtime.pool import CpuPool
from ke.runtime.settings import Settings
from tests.integration.api.stack import QUICK, ApiStack, open_gateway
from tests.llm_server import KEY, MODEL
from tests.seeding import seed_crawl, seed_extract
from tests.stores import Stores

SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {"year": {"type": "integer"}, "name": {"type": "string"}, "at": {"type": "string"}},
}


def scrape(**extract: Any) -> dict[str, Any]:
    return {"kind": "scrape", "urls": [QUICK], "extract": extract}


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    return {"type": "object", **schema}


@pytest.fixture
async def modelled(
    api: ApiStack, api_settings: Settings, api_stores: Stores, api_temporal: WorkflowEnvironment
) -> AsyncIterator[ApiStack]:
    """A gateway of a stack with a language model, which nobody serves at first."""
    model = {"llm_url": "http://127.0.0.1:9/v1", "llm_api_key": SecretStr(KEY), "llm_model": MODEL}
    settings = api_settings.model_copy(update=model)
    async with open_gateway(settings, api_stores, api_temporal.client) as stack:
        yield stack


async def refused(stack: ApiStack, body: dict[str, Any]) -> dict[str, Any]:
    """The one error of a submit that is refused."""
    answer = await stack.http.post("/jobs", content=json.dumps(body), headers={"Content-Type": "application/json"})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:ke:problem:validation-failed"), answer.text
    (error,) = problem["errors"]
    return error


async def test_schema_without_a_language_model_is_refused(api: ApiStack) -> None:
    """A stack that was told of none says so, at the place of the schema, and accepts nothing."""
    error = await refused(api, scrape(schema=SCHEMA, model="m"))
    assert error["pointer"] == "/extract/schema"
    assert "KE_LLM_URL is not set" in error["detail"]
    owner = await seed_crawl(api.stores.database, api.stores.vectors)
    error = await refused(api, {"kind": "extract", "source_job_id": str(owner.id), "schema": SCHEMA})
    assert error["pointer"] == "/schema"


@pytest.mark.parametrize(
    ("extract", "pointer"),
    [
        ({"schema": {"type": "string"}}, "/extract/schema"),
        ({"schema": {"type": "object", "properties": 7}}, "/extract/schema"),
        ({"schema": {"type": "object", "properties": {"a": {"$ref": "https://a.example/"}}}}, "/extract/schema"),
        ({"schema": {"type": "object", "description": "\x00"}}, "/extract/schema"),
        ({"schema": {"type": "object", "description": "\ud800"}}, "/extract/schema"),
        ({"schema": deep(300)}, "/extract/schema"),
        ({"schema": []}, "/extract/schema"),
        ({"schema": "object"}, "/extract/schema"),
        ({"schema": SCHEMA, "max_tokens": 0}, "/extract/max_tokens"),
        ({"schema": SCHEMA, "max_tokens": "9"}, "/extract/max_tokens"),
        ({"schema": SCHEMA, "instructions": "x" * 8001}, "/extract/instructions"),
        ({"schema": SCHEMA, "instructions": "\x00"}, "/extract/instructions"),
        ({"schema": SCHEMA, "model": ""}, "/extract/model"),
        ({"record_schema": SCHEMA}, "/extract/record_schema"),
        ({"max_tokens": 5}, "/extract"),
        ({"instructions": "Be brief."}, "/extract"),
    ],
)
async def test_schema_that_cannot_be_used_is_refused(modelled: ApiStack, extract: dict[str, Any], pointer: str) -> None:
    """The problem points at what is wrong about records, and nothing is accepted."""
    assert (await refused(modelled, scrape(**extract)))["pointer"] == pointer


async def test_job_reads_with_its_schema_and_its_default_model(modelled: ApiStack) -> None:
    """A schema reads in the parameters as it was given; the same key with another schema is another body."""
    headers = {"Idempotency-Key": "records-1"}
    first = await modelled.http.post("/jobs", json=scrape(schema=SCHEMA, max_tokens=9), headers=headers)
    assert first.status_code == 202, first.text
    told = first.json()["params"]["extract"]
    assert (told["schema"], told["model"], told["max_tokens"]) == (SCHEMA, None, 9)
    assert json.dumps(told["schema"]) == json.dumps(SCHEMA)  # the order of its properties too
    assert KEY not in first.text
    again = await modelled.http.post("/jobs", json=scrape(schema=SCHEMA, max_tokens=9), headers=headers)
    assert again.json()["id"] == first.json()["id"]
    other = await modelled.http.post("/jobs", json=scrape(schema={"type": "object"}), headers=headers)
    assert other.json()["type"] == "urn:ke:problem:idempotency-key-reused"
    await modelled.http.post(f"/jobs/{first.json()['id']}/cancel")


async def test_records_are_listed_once_each(api: ApiStack) -> None:
    """A job lists what it made, also of other jobs' sources, page by page; the client goes over all of them."""
    owner = await seed_crawl(api.stores.database, api.stores.vectors, n_sources=4)
    other = await seed_extract(api.stores.database, api.stores.vectors, owner)
    for job in (owner, other):
        listed = [record async for record in api.ke.iterate_records(str(job.id))]
        assert len({record["id"] for record in listed}) == len(listed) == 8
        assert {record["job_id"] for record in listed} == {str(job.id)}
    page = (await api.http.get(f"/jobs/{owner.id}/records", params={"limit": 3})).json()
    assert [record["number"] for record in page["data"]] == [0, 1, 0]
    assert page["data"][0]["data"] == {"number": 0}
    assert page["data"][0]["url"] == "https://site.example/0"
    assert page["next_cursor"]
    missing = await api.http.get("/jobs/0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11/records")
    assert missing.status_code == 404


@asynccontextmanager
async def worker_without_a_model(stack: ApiStack) -> AsyncIterator[None]:
    """A worker for records alone, without KE_LLM_URL."""
    pool = CpuPool(1)
    lane = StructuredActivities(stack.stores.database, pool, None)
    try:
        async with Worker(
            stack.temporal,
            task_queue=TaskQueue.RECORDS,
            activities=[lane.extract_records],
            interceptors=[FailureInterceptor()],
        ):
            yield
    finally:
        await pool.close()


async def until_told(stack: ApiStack, job_id: str, words: str) -> str:
    """What the job waits for, once that has these words in it."""
    told = ""
    async with asyncio.timeout(30):
        while words not in told:
            await asyncio.sleep(0.1)
            told = (await stack.http.get(f"/jobs/{job_id}")).json()["waiting_for"] or ""
    return told


async def test_job_tells_what_its_records_wait_for(modelled: ApiStack) -> None:
    """Where there is no worker for records, or only one that was told of no endpoint, the job says so."""
    owner = await seed_crawl(modelled.stores.database, modelled.stores.vectors)
    body = {"kind": "extract", "source_job_id": str(owner.id), "schema": SCHEMA}
    job_id = (await modelled.http.post("/jobs", json=body)).json()["id"]
    await until_told(modelled, job_id, "no worker polls the task queue ke-records")
    async with worker_without_a_model(modelled):
        await until_told(modelled, job_id, "the language model does not answer: extract_records failed")
    await modelled.http.post(f"/jobs/{job_id}/cancel")
    assert (await modelled.until(job_id, "cancelled"))["result"]["records"] == 0
