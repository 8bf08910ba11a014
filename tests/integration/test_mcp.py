"""The MCP tools as an agent meets them: the SDK's own client over stdio, against a small real HTTP server."""

import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

from ke.mcp.server import create_server
from tests.integration.api_twin import COUNTS, ZEROS, ApiTwin, serving

TIME_LIMIT_S = 60.0


@pytest.fixture
def api() -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        yield twin


@asynccontextmanager
async def connected(url: str, *command: str) -> AsyncIterator[Client]:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=list(command) or ["-m", "ke.mcp.server"],
        env={"KE_API_URL": url},
    )
    async with Client(parameters, read_timeout_seconds=TIME_LIMIT_S) as client:
        yield client


def words(result: CallToolResult) -> str:
    return "".join(getattr(block, "text", "") for block in result.content)


def error_of(result: CallToolResult) -> dict[str, Any]:
    assert result.is_error
    error: dict[str, Any] = result.structured_content["error"]
    return error


async def test_tools_are_described_with_schemas_and_hints(api: ApiTwin) -> None:
    """An agent learns from the list alone what each tool takes and gives, and which ones destroy."""
    async with connected(api.url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {
        "cancel_job",
        "cleanup_job",
        "cleanup_project",
        "delete_job_record",
        "extract_records",
        "forget_source",
        "get_job",
        "get_retry",
        "list_dead_letters",
        "list_jobs",
        "list_pages",
        "list_records",
        "list_sources",
        "read_source",
        "retry_dead_letters",
        "summarize_dead_letters",
        "crawl",
        "scrape",
        "search",
        "list_entities",
        "entity_neighbours",
    } == set(tools)
    for tool in tools.values():
        assert tool.description
        assert tool.output_schema
        assert tool.annotations
        assert tool.input_schema["additionalProperties"] is False
        assert all(field.get("description") for field in tool.input_schema["properties"].values())
    destructive = {name for name, tool in tools.items() if tool.annotations and tool.annotations.destructive_hint}
    assert destructive == {"cancel_job", "cleanup_job", "cleanup_project", "delete_job_record", "forget_source"}
    reading = {name for name, tool in tools.items() if tool.annotations and tool.annotations.read_only_hint}
    assert reading == {
        "entity_neighbours",
        "get_job",
        "get_retry",
        "list_dead_letters",
        "summarize_dead_letters",
        "list_entities",
        "list_jobs",
        "list_pages",
        "list_records",
        "list_sources",
        "read_source",
        "search",
    }


async def test_cancel_passes_reason_and_cleanup_and_gives_the_job(api: ApiTwin) -> None:
    """The answer is the gateway's, as structured content and as text."""
    job = api.add_job("running")
    async with connected(api.url) as client:
        result = await client.call_tool("cancel_job", {"job_id": job, "reason": "enough", "cleanup": True})
        ended = await client.call_tool("get_job", {"job_id": f"job-{job}"})
        ended = await client.call_tool("get_job", {"job_id": job})
    assert not result.is_error
    assert result.structured_content["status"] == "cancelling"
    assert json.loads(words(result))["id"] == job
    assert next(call.body for call in api.calls if call.method == "POST") == {"cleanup": True, "reason": "enough"}
    assert ended.structured_content["result"]["cancellation"]["reason"] == "enough"


@pytest.mark.parametrize("status", ["completed", "cancelled", "cancelling", "failed"])
async def test_a_refused_cancel_says_why(api: ApiTwin, status: str) -> None:
    """A 409 is a structured error with the gateway's own type, status, detail and what is possible instead."""
    job = api.add_job(status)
    async with connected(api.url) as client:
        result = await client.call_tool("cancel_job", {"job_id": job})
    error = error_of(result)
    assert error["type"] == "urn:ke:problem:not-cancellable"
    assert error["status"] == 409
    assert error["detail"] == f"The job is {status}: it cannot be cancelled."
    assert error["current_status"] == status
    assert error["allowed_actions"] == ["cleanup", "delete"]
    assert error["detail"] in words(result)
    assert "already exists" not in words(result)


async def test_cleanup_counts_first_and_then_gives_the_receipt(api: ApiTwin) -> None:
    """A dry run deletes nothing; the real one answers with what was deleted and what remains; again is the same."""
    job = api.add_job("completed")
    async with connected(api.url) as client:
        plan = await client.call_tool("cleanup_job", {"job_id": job, "dry_run": True})
        assert not api.receipts
        receipt = await client.call_tool("cleanup_job", {"job_id": job})
        again = await client.call_tool("cleanup_job", {"job_id": job})
    assert plan.structured_content["status"] == "planned"
    assert plan.structured_content["planned"] == COUNTS
    assert receipt.structured_content["status"] == "cleaned"
    assert receipt.structured_content["deleted"] == COUNTS
    assert receipt.structured_content["remaining"] == ZEROS
    assert again.structured_content == receipt.structured_content


async def test_cleanup_of_an_active_job_is_refused(api: ApiTwin) -> None:
    """The error says that the job goes on, and what to do first."""
    job = api.add_job("running")
    async with connected(api.url) as client:
        error = error_of(await client.call_tool("cleanup_job", {"job_id": job}))
    assert error["type"] == "urn:ke:problem:job-active"
    assert error["allowed_actions"] == ["cancel"]


async def test_delete_asks_for_a_choice_and_then_deletes(api: ApiTwin) -> None:
    """Without `cleanup` a job with artifacts is refused; with false the record goes; then it is unknown."""
    job = api.add_job("completed")
    async with connected(api.url) as client:
        refused = error_of(await client.call_tool("delete_job_record", {"job_id": job}))
        deleted = await client.call_tool("delete_job_record", {"job_id": job, "cleanup": False})
        gone = error_of(await client.call_tool("get_job", {"job_id": job}))
    assert refused["type"] == "urn:ke:problem:artifacts-present"
    assert deleted.structured_content == {"job_id": job, "deleted": True, "receipt": None}
    assert gone["status"] == 404


async def test_delete_with_cleanup_gives_the_receipt(api: ApiTwin) -> None:
    """The record goes after the cleanup, whose receipt is in the answer."""
    job = api.add_job("cancelled")
    async with connected(api.url) as client:
        result = await client.call_tool("delete_job_record", {"job_id": job, "cleanup": True})
    assert result.structured_content["deleted"] is False
    assert result.structured_content["receipt"]["deleted"] == COUNTS


async def test_jobs_are_started_listed_and_searched(api: ApiTwin) -> None:
    """The thin tools reach the gateway with what it expects."""
    api.hits = [{"text": "t", "score": 0.5, "url": "https://e.com/", "source_id": "s", "job_id": "j"}]
    async with connected(api.url) as client:
        crawled = await client.call_tool("crawl", {"urls": ["https://e.com/"], "max_pages": 3, "extract": False})
        assert not {"reading", "browser", "project"} & set(api.calls[-1].body)
        assert api.calls[-1].body["limits"] == {"max_pages": 3}
        assert api.calls[-1].body["extract"] is None
        await client.call_tool("scrape", {"urls": ["https://e.com/a"], "idempotency_key": "k"})
        assert api.calls[-1].body["extract"] == {}
        assert api.calls[-1].headers["Idempotency-Key"] == "k"
        listed = await client.call_tool("list_jobs", {"status": ["queued"], "limit": 5})
        found = await client.call_tool("search", {"query": "lamps", "job_ids": [crawled.structured_content["id"]]})
    assert len(listed.structured_content["data"]) == 2
    assert found.structured_content["data"] == api.hits
    assert api.calls[-1].body["job_ids"] == [crawled.structured_content["id"]]


async def test_entities_are_listed_and_followed(api: ApiTwin) -> None:
    """What is asked for reaches the gateway, and a neighbour tells how many passages mention both."""
    entity = api.entity
    async with connected(api.url) as client:
        listed = await client.call_tool("list_entities", {"name": "bell", "label": "GPE"})
        assert api.calls[-1].query == {"label": "GPE", "q": "bell", "limit": "20"}
        near = await client.call_tool("entity_neighbours", {"entity_id": entity["id"], "limit": 3})
        assert (api.calls[-1].path, api.calls[-1].query["limit"]) == (f"/entities/{entity['id']}/neighbours", "3")
        refused = await client.call_tool("entity_neighbours", {"entity_id": "../jobs"})
    assert listed.structured_content["data"][0]["name"] == "Bell Rock"
    assert near.structured_content["data"][0]["together"] == 2
    assert refused.is_error


async def test_search_takes_all_that_the_api_does(api: ApiTwin) -> None:
    """Each argument is a member of the body, by the same name; what is not given is not sent."""
    arguments = {
        "query": "lamps",
        "mode": "text",
        "limit": 3,
        "project": "docs",
        "url_prefix": "https://e.com/",
        "language": "en",
        "date_from": "2024-01-01",
        "date_to": "2024-12-31",
        "entity": "Ada",
        "entity_label": "PERSON",
        "distinct_sources": False,
        "embedder": "minilm",
        "rerank": "minilm",
    }
    async with connected(api.url) as client:
        await client.call_tool("search", arguments)
        assert api.calls[-1].body == arguments
        await client.call_tool("search", {"query": "lamps"})
    assert api.calls[-1].body == {"query": "lamps", "mode": "hybrid", "limit": 10, "distinct_sources": True}


async def test_refused_input_keeps_the_field_errors(api: ApiTwin) -> None:
    """A 422 passes through whole."""
    async with connected(api.url) as client:
        error = error_of(await client.call_tool("crawl", {"urls": ["ftp://e.com/"]}))
    assert error["status"] == 422
    assert error["errors"][0]["pointer"] == "/seeds/0"


async def test_only_an_id_becomes_part_of_a_url(api: ApiTwin) -> None:
    """A word that is no id is a structured error, and nothing is sent; an unknown id is the gateway's 404."""
    async with connected(api.url) as client:
        error = error_of(await client.call_tool("get_job", {"job_id": "../readyz"}))
        assert not api.calls
        unknown = error_of(await client.call_tool("get_job", {"job_id": str(uuid.uuid4())}))
    assert error["type"] == "urn:ke:problem:invalid-input"
    assert unknown["status"] == 404


async def test_arguments_that_do_not_fit_are_errors_and_the_server_goes_on(api: ApiTwin) -> None:
    """They are refused before the tool runs, in one line and without the words of a library."""
    async with connected(api.url) as client:
        result = await client.call_tool("list_jobs", {"limit": 0})
        error = error_of(result)
        assert (error["type"], error["status"]) == ("urn:ke:problem:invalid-input", 422)
        assert error["errors"] == [{"argument": "limit", "detail": "This must be at least 1."}]
        assert words(result) == "Refused (422, urn:ke:problem:invalid-input): limit: This must be at least 1."
        missing = await client.call_tool("get_job", {"wait_s": 99})
        assert words(missing).endswith("job_id: This is required. wait_s: This must be at most 45.")
        assert not (await client.call_tool("list_jobs", {})).is_error


async def test_arguments_that_a_tool_does_not_have_are_refused_by_name(api: ApiTwin) -> None:
    """A limit in the wrong place starts no job without it; the error says which is meant, and what is missing."""
    async with Client(create_server()) as client:
        misnamed = error_of(await client.call_tool("read_source", {"url": "https://e.com/"}))["detail"]
        many = {"url": "https://e.com/", "page": 1, "size": 2}
        listed = error_of(await client.call_tool("read_source", many))
        result = await client.call_tool("crawl", {"urls": ["https://e.com/"], "limits": {"max_pages": 5}})
    detail = error_of(result)["detail"]
    assert detail.startswith("limits: `crawl` has no such argument; it has urls, max_pages, max_depth, ")
    assert misnamed.startswith("url: `read_source` has no such argument; it has source_id, ")
    assert misnamed.endswith(". source_id: This is required.")
    assert listed["detail"].endswith(" (and 1 more)")
    assert [one["argument"] for one in listed["errors"]] == [*many, "source_id"]
    assert "\n" not in words(result)
    assert not api.calls


async def test_a_gateway_that_is_away_is_a_structured_error() -> None:
    """Nothing listens: the tool says so, and the server goes on."""
    async with connected("http://127.0.0.1:1") as client:
        error = error_of(await client.call_tool("cancel_job", {"job_id": str(uuid.uuid4())}))
        assert error["type"] == "urn:ke:problem:gateway-unreachable"
        assert error["status"] == 503
        assert (await client.list_tools()).tools


async def test_a_dependency_that_is_down_is_a_structured_error(api: ApiTwin) -> None:
    """The gateway's 503 passes through."""
    api.broken = True
    async with connected(api.url) as client:
        error = error_of(await client.call_tool("list_jobs", {}))
    assert error["type"] == "urn:ke:problem:database-unavailable"


async def test_ke_mcp_serves_the_same_tools(api: ApiTwin) -> None:
    """The command of the CLI is this server; `--api-url` names the gateway."""
    async with connected("http://127.0.0.1:1", "-m", "ke", "mcp", "--api-url", api.url) as client:
        assert not (await client.call_tool("list_jobs", {})).is_error


async def test_records_are_asked_for_and_listed(api: ApiTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schema reaches the gateway as it is, in an extract job of all that the named job stored; records come back."""
    monkeypatch.setenv("KE_API_URL", api.url)
    job = api.add_job("completed")
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    api.records = [{"source_id": "a", "url": "https://e.com/x", "data": {"name": "A"}, "truncated": False}]
    async with Client(create_server()) as client:
        asked = {"source_job_id": f"job-{job}", "schema": schema, "instructions": "Brief.", "max_tokens": 9}
        started = await client.call_tool("extract_records", asked)
        body = api.calls[-1].body
        assert started.structured_content["kind"] == "extract"
        assert (body["source_job_id"], body["schema"], body["instructions"], body["max_tokens"]) == (
            job,
            schema,
            "Brief.",
            9,
        )
        listed = await client.call_tool("list_records", {"job_id": job, "limit": 3})
    assert listed.structured_content == {"data": api.records, "next_cursor": None}
    assert api.calls[-1].query == {"limit": "3"}


async def test_retry_passes_what_is_chosen(api: ApiTwin) -> None:
    """The tool tries again what its caller names, and nothing narrower when nothing is named."""
    job = api.add_job("completed_with_errors")
    chosen = {"error_type": "http-500", "url_prefix": "https://e.com/"}
    async with connected(api.url) as client:
        result = await client.call_tool("retry_dead_letters", {"job_id": job, **chosen})
        assert result.structured_content["id"] == f"retry-{job}-1"
        assert api.calls[-1].body == chosen
        await client.call_tool("retry_dead_letters", {"job_id": job})
    assert api.calls[-1].body == {}


async def test_dead_letters_are_listed_and_a_retry_is_read(api: ApiTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters reach the gateway; a retry is told as it stands; what is no retry's id is refused before it is sent."""
    monkeypatch.setenv("KE_API_URL", api.url)
    job = api.add_job("completed_with_errors")
    letter = {"id": "a", "subject": "page", "url": "https://e.com/x", "error_type": "http-500", "attempts": 3}
    letter["found_on"] = "https://e.com/"
    api.letters = [letter]
    chosen = {"subject": "page", "error_type": "http-500", "url_prefix": "https://e.com/", "cursor": "c"}
    async with Client(create_server()) as client:
        listed = await client.call_tool("list_dead_letters", {"job_id": job, "limit": 7, **chosen})
        assert listed.structured_content == {"data": [letter], "next_cursor": None}
        assert api.calls[-1].query == {**chosen, "limit": "7"}
        counted = await client.call_tool("summarize_dead_letters", {"job_id": job, "subject": "page"})
        assert (api.calls[-1].path, api.calls[-1].query) == (f"/jobs/{job}/dead-letters/summary", {"subject": "page"})
        started = await client.call_tool("retry_dead_letters", {"job_id": job})
        read = await client.call_tool("get_retry", {"retry_id": started.structured_content["id"]})
        sent = len(api.calls)
        refused = error_of(await client.call_tool("get_retry", {"retry_id": "../readyz"}))
    assert (read.structured_content["status"], read.structured_content["letters"]) == ("completed", 1)
    assert counted.structured_content["data"][0]["letters"] == 1
    assert refused["type"] == "urn:ke:problem:invalid-input"
    assert len(api.calls) == sent


async def test_recrawl_and_scope_reach_the_gateway(api: ApiTwin) -> None:
    """By the names that the API has; what is not given is not sent."""
    earlier = api.add_job("completed")
    again = {"recrawl_of": earlier, "forget_replaced": True, "browser": True}
    scope = {"include": ["/docs"], "exclude": ["/old"], "drop_params": ["utm_*"]}
    async with connected(api.url) as client:
        await client.call_tool("crawl", {"urls": ["https://e.com/"], **again, **scope})
        crawled = api.calls[-1].body
        assert {name: crawled[name] for name in again} == again
        assert crawled["scope"] == scope
        await client.call_tool("scrape", {"urls": ["https://e.com/"], **again})
        assert {name: api.calls[-1].body[name] for name in again} == again
        await client.call_tool("crawl", {"urls": ["https://e.com/"]})
        assert not {"scope", *again} & set(api.calls[-1].body)
        for tool in ("crawl", "scrape"):
            await client.call_tool(tool, {"recrawl_of": earlier})
            assert set(api.calls[-1].body) == {"kind", "recrawl_of", "labels"}
            await client.call_tool(tool, {"recrawl_of": earlier, "extract": True, "browser": False})
            assert (api.calls[-1].body["extract"], api.calls[-1].body["browser"]) == ({}, False)


async def test_cleanup_tells_whose_pages_rely_on_what_goes(api: ApiTwin) -> None:
    """As the gateway does, in the dry run too."""
    job, later = api.add_job("completed"), api.add_job("completed")
    extracted = {"extractions": 2, "extract_jobs": 1, "extracted_by": [{"job_id": later, "project": "b"}]}
    api.relying = {"pages": 3, "jobs": 1, "job_ids": [later], **extracted}
    async with connected(api.url) as client:
        for dry_run in (True, False):
            told = await client.call_tool("cleanup_job", {"job_id": job, "dry_run": dry_run})
            assert told.structured_content["relying"] == api.relying


async def test_source_is_read_a_part_at_a_time(api: ApiTwin) -> None:
    """The parts make the whole text, and each says where the next one begins; metadata comes along."""
    job, source = api.add_job("completed"), str(uuid.uuid4())
    text = "".join(chr(0x410 + number % 32) for number in range(25))
    about = {"id": source, "job_id": job, "url": "https://e.com/a", "title": "A", "metadata": {"author": "Ada"}}
    api.sources = [{**about, "text": text}]
    async with connected(api.url) as client:
        listed = await client.call_tool("list_sources", {"job_id": job, "limit": 3})
        assert listed.structured_content["data"][0]["id"] == source
        assert api.calls[-1].query == {"limit": "3"}
        parts, offset = [], 0
        while offset is not None:
            read = await client.call_tool("read_source", {"source_id": source, "offset": offset, "max_chars": 10})
            part = read.structured_content
            assert (part["offset"], part["total_chars"], part["metadata"]) == (offset, 25, {"author": "Ada"})
            parts.append(part["text"])
            offset = part["next_offset"]
        by_url = await client.call_tool("read_source", {"source_id": "https://e.com/a"})
        assert by_url.structured_content["id"] == source
        nothing = error_of(await client.call_tool("read_source", {"source_id": "https://e.com/none"}))
        assert nothing["detail"].startswith("No document is stored with the URL https://e.com/none.")
        assert "`list_pages`" in nothing["detail"]
        of_url = await client.call_tool("list_sources", {"job_id": job, "url": "https://e.com/none"})
        assert of_url.structured_content["data"] == []
        refused = error_of(await client.call_tool("read_source", {"source_id": "../jobs"}))
        much = error_of(await client.call_tool("read_source", {"source_id": source, "max_chars": 1_000_000}))
    assert ("".join(parts), [len(part) for part in parts]) == (text, [10, 10, 5])
    assert refused["type"] == "urn:ke:problem:invalid-input"
    assert much["errors"][0]["argument"] == "max_chars"


async def test_pages_of_a_recrawl_name_the_documents_they_had(api: ApiTwin) -> None:
    """So that an agent can forget them."""
    job, before = api.add_job("completed"), str(uuid.uuid4())
    page = {"url": "https://e.com/a", "state": "gone", "previous_source_id": before, "previous_is_stored": True}
    api.pages = [page, {"url": "https://e.com/b", "state": "unchanged"}]
    async with connected(api.url) as client:
        listed = await client.call_tool("list_pages", {"job_id": job, "state": "gone"})
        assert listed.structured_content["data"] == [page]
        assert api.calls[-1].query == {"state": "gone", "limit": "20"}
        one = await client.call_tool("list_pages", {"job_id": job, "url": "https://e.com/b"})
    assert [found["state"] for found in one.structured_content["data"]] == ["unchanged"]


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("To delete what it made: POST /jobs/{id}/cleanup.", "To delete what it made: `cleanup_job`."),
        ("What it made is deleted: GET /cleanups/cleanup-{id}.", "What it made is deleted: `cleanup_job`."),
        ("GET /cleanups/cleanup-project-a.b-{id} tells how far.", "`cleanup_project` tells how far."),
        (
            "DELETE with ?cleanup=true to delete these first, or with ?cleanup=false to keep them.",
            "Call `delete_job_record` with cleanup=true to delete these first, or with cleanup=false to keep them.",
        ),
    ],
)
async def test_hints_name_tools_and_no_routes(api: ApiTwin, told: str, shown: str) -> None:
    """An agent has no HTTP: what the gateway advises, it is told in terms of the tools, and what it may do as well."""
    job = api.add_job("completed")
    api.refusal = told.replace("{id}", job)
    async with connected(api.url) as client:
        result = await client.call_tool("cancel_job", {"job_id": job})
    assert error_of(result)["detail"] == shown
    assert shown in words(result)
    assert "Possible now: `cleanup_job`, `delete_job_record`" in words(result)
