"""Forgetting a part from the command line and by MCP tools, against a small real HTTP server."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import Client

from ke.cli.main import run
from ke.mcp.server import create_server
from tests.integration.api_twin import COUNTS, ZEROS, ApiTwin, serving


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        monkeypatch.setenv("KE_API_URL", twin.url)
        yield twin


def _shown(output: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.readouterr().out)
    return found


@pytest.mark.parametrize("command", [["projects", "cleanup", "a"], ["jobs", "cleanup"], ["sources", "forget"]])
@pytest.mark.parametrize(("jobs", "more"), [(1, ""), (12, " and 2 more")])
def test_extractions_of_other_jobs_that_go_too_are_told(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: list[str], jobs: int, more: str
) -> None:
    """In a line with the jobs and their projects: before, when it has begun, and of a receipt that is read again."""
    if command[0] == "jobs":
        command = [*command, api.add_job("completed")]
    elif command[0] == "sources":
        command = [*command, str(uuid.uuid4())]
    assert run([*command, "--dry-run"]) == 0
    assert "other job" not in "".join(capsys.readouterr())
    by = [{"job_id": str(uuid.uuid4()), "project": f"b{number}"} for number in range(min(jobs, 10))]
    api.relying = {"extractions": 1200, "extract_jobs": jobs, "extracted_by": by}
    named = ", ".join(f"{each['job_id']} (project {each['project']})" for each in by)
    whose = "1,200 extractions of 1 other job" if jobs == 1 else "1,200 extractions of 12 other jobs"
    for options, go in ((["--dry-run"], "would go"), ([], "will go"), (["--wait"], "went")):
        assert run([*command, *options]) == 0
        assert f"{whose} {go} too, out of every search: {named}{more}\n" in capsys.readouterr().err
    assert run(["receipts", "get", next(iter(api.receipts))]) == 0
    assert f"{whose} went too, out of every search: {named}{more}\n" in capsys.readouterr().err


def test_sources_forget_waits_and_shows_the_receipt(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """With --wait it is the receipt of what was deleted; --dry-run counts only; the receipt can be had again."""
    source = str(uuid.uuid4())
    assert run(["sources", "forget", source, "--dry-run", "--json"]) == 0
    assert (_shown(capsys)["status"], api.receipts) == ("planned", {})
    assert run(["sources", "forget", source, "--wait", "--json"]) == 0
    receipt = _shown(capsys)
    assert (receipt["source_id"], receipt["deleted"], receipt["remaining"]) == (source, COUNTS, ZEROS)
    assert run(["receipts", "get", receipt["id"], "--json"]) == 0
    assert _shown(capsys) == receipt
    assert run(["sources", "forget", source]) == 0
    shown = capsys.readouterr()
    assert source in shown.out
    assert f"ke receipts get cleanup-source-{source}" in shown.err
    assert run(["sources", "forget", "nonsense"]) == 2


def test_source_is_forgotten_by_its_url(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Where one document has it, of all or of a job; of several none is guessed, and all are named."""
    ids, jobs = ([str(uuid.uuid4()) for _ in range(3)] for _ in range(2))
    jobs[1] = api.add_job("completed")
    api.sources = [{"id": ids[n], "url": "https://e.com/a", "job_id": jobs[n]} for n in range(2)]
    api.sources.append({"id": ids[2], "url": "https://e.com/b", "job_id": jobs[2]})
    api.pages = [{"url": "https://e.com/a", "state": "fetched", "source_id": ids[1], "source_is_stored": True}]
    assert run(["sources", "forget", "https://e.com/b", "--dry-run"]) == 0
    assert _deleted(api) == []
    assert run(["sources", "forget", "https://e.com/a", "--job", jobs[1]]) == 0
    assert _deleted(api) == [ids[1]]
    assert "other page" not in capsys.readouterr().err
    assert run(["sources", "forget", "https://e.com/a"]) == 2
    assert f"{ids[0]} of job {jobs[0]}, {ids[1]} of job {jobs[1]}" in capsys.readouterr().err
    assert run(["sources", "forget", "https://e.com/a", "--job", jobs[2]]) == 4
    assert run(["sources", "forget", "https://e.com/c"]) == 4
    assert "with --job JOB that of a duplicate is found too" in capsys.readouterr().err
    assert run(["sources", "forget", ids[0], "--job", jobs[0]]) == 2
    assert _deleted(api) == [ids[1]]


def _deleted(api: ApiTwin) -> list[str]:
    """The sources that were really deleted."""
    calls = [call for call in api.calls if call.method == "DELETE" and "dry_run" not in call.query]
    return [call.path.removeprefix("/sources/") for call in calls]


def test_source_is_forgotten_by_the_url_of_a_page_that_has_it(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """In a job: which document that is, of which URL and job, is said before it goes."""
    source, owner, job = str(uuid.uuid4()), str(uuid.uuid4()), api.add_job("completed")
    api.sources = [{"id": source, "url": "https://e.com/a", "job_id": owner}]
    api.pages = [{"url": "https://e.com/b", "state": "unchanged", "source_id": source, "source_is_stored": True}]
    assert run(["sources", "forget", "https://e.com/b", "--job", job]) == 0
    stored = f"its document is {source}, stored for https://e.com/a by job {owner}\n"
    assert f"https://e.com/b is unchanged in job {job}: {stored}" in capsys.readouterr().err
    assert _deleted(api) == [source]


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--dry-run", "--json"]], ids=str)
def test_other_pages_that_have_a_source_are_named(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """On stderr, the first of them; also when it is really forgotten."""
    source, job = str(uuid.uuid4()), str(uuid.uuid4())
    first = [{"url": f"https://e.com/{n}", "job_id": job, "state": "duplicate"} for n in range(20)]
    api.other_pages = {"pages": 1234, "first": first}
    assert run(["sources", "forget", source, *options]) == 0
    shown = capsys.readouterr()
    head, *named = shown.err.splitlines()[:21]
    assert head == "1,234 other pages have this document, and go with it; the first 20:"
    assert named == [f"duplicate: {page['url']}  job {job}" for page in first]
    if "--json" in options:
        assert json.loads(shown.out)["other_pages"] == api.other_pages
    api.other_pages = {"pages": 1, "first": first[:1]}
    assert run(["sources", "forget", source, *options]) == 0
    assert "1 other page has this document, and goes with it:\n" in capsys.readouterr().err


def test_source_is_forgotten_though_a_store_is_away(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """The deletion is durable; only what would go cannot be told."""
    api.is_uncounted = True
    source = str(uuid.uuid4())
    assert run(["sources", "forget", source, "--dry-run"]) == 5
    assert _deleted(api) == []
    assert run(["sources", "forget", source]) == 0
    assert "cannot be told: The vector store did not answer." in capsys.readouterr().err
    assert _deleted(api) == [source]


def test_projects_cleanup_sends_what_was_asked_for(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Its options reach the gateway; the receipt names the project and its jobs; a busy project is exit code 3."""
    assert run(["projects", "cleanup", "lights", "--delete-record", "--wait"]) == 0
    assert next(call.body for call in api.calls if call.method == "POST") == {"dry_run": False, "delete_record": True}
    words = capsys.readouterr().out.split()
    assert words[words.index("project") + 1] == "lights"
    assert words[words.index("jobs") + 1] == "2"
    assert run(["projects", "cleanup", "busy"]) == 3
    assert "active jobs" in capsys.readouterr().err
    assert run(["projects", "cleanup", "lights", "--dry-run", "--json"]) == 0
    assert _shown(capsys)["planned"] == COUNTS


async def test_agents_forget_a_page_and_clean_up_a_project(api: ApiTwin) -> None:
    """The tools pass on what they are told, and give receipts; what is no source id is refused before it is sent."""
    source = str(uuid.uuid4())
    api.other_pages = {"pages": 1, "first": [{"url": "https://e.com/b", "job_id": source, "state": "duplicate"}]}
    async with Client(create_server()) as client:
        plan = await client.call_tool("forget_source", {"source_id": source, "dry_run": True})
        started = await client.call_tool("forget_source", {"source_id": source})
        project = await client.call_tool("cleanup_project", {"project": "lights", "delete_record": True})
        refused = await client.call_tool("forget_source", {"source_id": "../jobs"})
    assert plan.structured_content["status"] == "planned"
    assert plan.structured_content["other_pages"] == api.other_pages
    assert (started.structured_content["scope"], started.structured_content["source_id"]) == ("source", source)
    assert (project.structured_content["project"], project.structured_content["jobs"]) == ("lights", 2)
    assert refused.structured_content["error"]["type"] == "urn:ke:problem:invalid-input"
    waits = [call.headers.get("Prefer") for call in api.calls]
    assert waits == [None, "wait=30", "wait=30"]
