"""The MCP tools against the whole system, with the SDK's own client."""

import sys
import uuid
from typing import Any

from mcp import Client, StdioServerParameters
from mcp_types import CallToolResult

from examples.serve import SiteServer
from tests.e2e.sites import slowly
from tests.e2e.stack import Stack

TIME_LIMIT_S = 120.0


def agent(stack: Stack) -> Client:
    parameters = StdioServerParameters(
        command=sys.executable, args=["-m", "ke", "mcp"], env={"KE_DATA_DIR": str(stack.data_dir), "KE_API_URL": ""}
    )
    return Client(parameters, read_timeout_seconds=TIME_LIMIT_S)


def error_of(result: CallToolResult) -> dict[str, Any]:
    assert result.is_error
    error: dict[str, Any] = result.structured_content["error"]
    return error


async def ended(client: Client, job_id: str) -> dict[str, Any]:
    for _ in range(5):
        job: dict[str, Any] = (await client.call_tool("get_job", {"job_id": job_id, "wait_s": 30})).structured_content
        if job["completed_at"]:
            return job
    raise AssertionError(f"job {job_id} has not ended: {job['status']}")


async def test_an_agent_cancels_cleans_up_and_deletes(stack: Stack, big_site: SiteServer) -> None:
    """A whole life of a job through the tools; each refusal on the way says why in the gateway's own words."""
    async with agent(stack) as client:
        with slowly(big_site):
            started = await client.call_tool("crawl", {"urls": [f"{big_site.url}/"], "extract": False})
            job_id = started.structured_content["id"]
            early = error_of(await client.call_tool("cleanup_job", {"job_id": job_id}))
            assert (early["type"], early["status"]) == ("urn:ke:problem:job-active", 409)
            cancelled = await client.call_tool("cancel_job", {"job_id": job_id, "reason": "an agent's whim"})
            assert not cancelled.is_error
        job = await ended(client, job_id)
        assert job["status"] == "cancelled"
        assert job["result"]["cancellation"]["reason"] == "an agent's whim"
        late = error_of(await client.call_tool("cancel_job", {"job_id": job_id}))
        assert (late["type"], late["status"]) == ("urn:ke:problem:not-cancellable", 409)
        assert late["current_status"] == "cancelled"
        assert "already exists" not in late["detail"]
        receipt = await client.call_tool("cleanup_job", {"job_id": job_id})
        assert receipt.structured_content["status"] == "cleaned"
        assert not any(receipt.structured_content["remaining"].values())
        deleted = await client.call_tool("delete_job_record", {"job_id": job_id})
        assert deleted.structured_content["deleted"] is True
        assert error_of(await client.call_tool("get_job", {"job_id": job_id}))["status"] == 404


async def test_an_agent_deletes_with_cleanup_and_reads_what_it_may_not(stack: Stack, example_site: SiteServer) -> None:
    """Artifacts need a decision; an unknown job and a refused address are the gateway's own problems."""
    async with agent(stack) as client:
        started = await client.call_tool("scrape", {"urls": [f"{example_site.url}/pharos.html"]})
        job = await ended(client, started.structured_content["id"])
        undecided = error_of(await client.call_tool("delete_job_record", {"job_id": job["id"]}))
        assert undecided["type"] == "urn:ke:problem:artifacts-present"
        hits = await client.call_tool("search", {"query": "Alexandria", "job_ids": [job["id"]]})
        assert hits.structured_content["data"]
        deleted = await client.call_tool("delete_job_record", {"job_id": job["id"], "cleanup": True})
        assert deleted.structured_content["receipt"]["job_id"] == job["id"]
        unknown = error_of(await client.call_tool("get_job", {"job_id": str(uuid.uuid4())}))
        assert (unknown["type"], unknown["status"]) == ("urn:ke:problem:not-found", 404)
        refused = error_of(await client.call_tool("crawl", {"urls": ["http://127.0.0.1:9/"]}))
        assert refused["status"] == 422
