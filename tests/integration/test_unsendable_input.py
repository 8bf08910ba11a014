"""What cannot be sent is refused in words, by the client, the command line and the MCP tools."""

import math
import os
import subprocess
import sys

import httpx
import pytest
from mcp_types import CallToolResult

from ke.client import ApiError, GatewayUnreachable, KnowledgeExtractionClient, RequestRefused
from ke.gateway import BadGatewayUrl, find_gateway, without_password
from ke.mcp.calls import answer

URL = "http://127.0.0.1:1"
SITE = "https://site.example/"


def ke(*arguments: bytes | str, api_url: str = URL) -> "subprocess.CompletedProcess[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    command = [sys.executable, "-m", "ke", *arguments]
    env = kept | {"KE_API_URL": api_url, "COLUMNS": "200"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("crawl", SITE, "--delay", "nan"),
        ("crawl", SITE, "--delay", "inf"),
        ("scrape", SITE, "--key", "ü"),
        ("scrape", SITE, "--key", "a\nb"),
        ("scrape", SITE, "--label", b"a=\xff"),
        ("search", b"a\xff"),
        ("jobs", "list", "--project", b"\xff"),
    ],
    ids=str,
)
def test_command_with_unsendable_input_is_wrong_usage(arguments):
    """Input that no request can carry ends a command with status 2 and one line."""
    done = ke(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


async def test_client_refuses_what_it_cannot_send():
    """Text that is not Unicode, a number that is none, and a header that is none raise one error of the client."""
    async with KnowledgeExtractionClient(URL) as client:
        with pytest.raises(RequestRefused, match="Unicode"):
            await client.get_job("\udcff")
        with pytest.raises(RequestRefused):
            await client.submit_crawl([SITE], rate={"delay_s": math.nan})
        with pytest.raises(RequestRefused, match="printable ASCII"):
            await client.submit_scrape([SITE], idempotency_key="a\nb")


async def test_tool_answers_unsendable_input_with_a_problem(monkeypatch):
    """An MCP tool answers with a structured error."""
    monkeypatch.setenv("KE_API_URL", URL)

    async def work(client: KnowledgeExtractionClient) -> dict[str, object]:
        return {"data": await client.search("\udcff")}

    result: CallToolResult = await answer(work)
    assert result.is_error
    assert result.structured_content is not None
    assert result.structured_content["error"]["type"] == "urn:ke:problem:request-refused"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://user:se/cr@t@host:1/x", "http://host:1/x"),
        ("user:secret@host", "host"),
        ("http://host:8080", "http://host:8080"),
    ],
)
def test_password_is_left_out(url, shown):
    """What people read of an address is without its account, whatever the password is made of."""
    assert without_password(url) == shown


async def test_errors_tell_no_password():
    """No error about the gateway's address says the password in it."""
    address = "http://user:secret@127.0.0.1:1"
    async with KnowledgeExtractionClient(address, timeout_s=30) as client:
        with pytest.raises(GatewayUnreachable) as caught:
            await client.list_jobs()
    assert "secret" not in str(caught.value)
    assert "http://127.0.0.1:1" in str(caught.value)
    with pytest.raises(BadGatewayUrl) as refused:
        find_gateway("ftp://user:secret@host")
    assert "secret" not in str(refused.value)
    transport = httpx.MockTransport(lambda _: httpx.Response(502))
    async with KnowledgeExtractionClient(address, transport=transport) as client:
        with pytest.raises(ApiError, match="not an API of ke") as elsewhere:
            await client.list_jobs()
    assert "secret" not in str(elsewhere.value)
