"""Records by a schema on a whole stack: made, cancelled in the middle of a call, survived, and cleaned."""

import json
import re
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from examples.serve import SiteServer
from ke.client import Job
from tests.e2e.sites import PAGES
from tests.e2e.stack import Stack, eventually
from tests.llm_server import KEY, Call, LlmServer, Reply

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}},
    "required": ["title"],
    "additionalProperties": False,
}
GOOD = Reply('{"title": "A page"}')
OPTIONS = {"entities": None, "schema": SCHEMA}
CALL_S = 50.0
"""Of a call that a cancel does not wait for."""


async def submitted(stack: Stack, site: SiteServer, pages: int, **options: Any) -> Job:
    """A scrape of so many pages, with records."""
    urls = [f"{site.url}/page-{number}.html" for number in range(1, pages + 1)]
    async with stack.client() as client:
        return await client.submit_scrape(urls, extract={**OPTIONS, **options})


async def ended(stack: Stack, job: Job) -> Job:
    """The job when it has ended."""
    async with stack.client() as client:
        return await eventually(lambda: client.get_job(job["id"], wait_s=10), lambda j: j["completed_at"] is not None)


def asked(llm: LlmServer) -> int:
    return len(llm.calls)


async def until_asked(llm: LlmServer, number: int) -> None:
    async def look() -> int:
        return asked(llm)

    await eventually(look, lambda seen: seen >= number, every_s=0.05)


async def test_pages_become_records(stack: Stack, big_site: SiteServer, llm: LlmServer, tmp_path: Path) -> None:
    """A scrape ends with a record of each page, listed by client and CLI; the key is in no log, row or history."""
    assert PAGES > 12
    llm.calls.clear()
    llm.script = [GOOD]
    job = await ended(stack, await submitted(stack, big_site, 12))
    result = job["result"]
    assert result is not None
    assert (job["status"], result["records"], result["sources_extracted"]) == ("completed", 12, 12)
    assert (result["tokens_in"], result["tokens_out"], result["cost_micros"]) == (1200, 120, 12 * 300)
    async with stack.client() as client:
        listed = [record async for record in client.iterate_records(job["id"])]
    assert [record["data"] for record in listed] == [{"title": "A page"}] * 12
    shown = await stack.ke("records", "list", job["id"], "--limit", "5", "--json")
    assert [record["id"] for record in shown.document["data"]] == [record["id"] for record in listed[:5]]
    assert llm.calls[0].headers["Authorization"] == f"Bearer {KEY}"
    history = await stack.ke("temporal", "workflow", "show", "--workflow-id", job["workflow_id"], "--output", "json")
    assert "extract_records" in history.out
    assert KEY not in history.out + json.dumps(job)
    logs = [path.read_text(errors="replace") for path in (stack.data_dir / "logs").iterdir()]
    assert logs
    assert not any(KEY in log for log in logs)


async def test_schema_comes_from_a_file(stack: Stack, example_site: SiteServer, llm: LlmServer, tmp_path: Path) -> None:
    """The CLI takes a schema as a file, and says what is wrong with one that cannot be used."""
    llm.script = [GOOD]
    file = tmp_path / "schema.json"
    file.write_text(json.dumps(SCHEMA))
    url = f"{example_site.url}/index.html"
    done = await stack.ke("scrape", url, "--no-entities", "--schema", str(file), "--wait", "--json")
    assert (done.code, done.document["result"]["records"]) == (0, 1), done.err
    file.write_text('{"type": "object", "properties": {"a": {"$ref": "https://elsewhere.example/a"}}}')
    refused = await stack.ke("scrape", url, "--schema", str(file), "--json")
    assert refused.code == 2
    assert "leaves the schema" in refused.out + refused.err


def lighthouse(call: Call) -> Reply:
    """Reads what the documents' example asks for, by patterns."""
    patterns = (r"^# (.+)$", r"On \d+ \w+ (\d{4}) a light was shown", r"The first keeper was ([A-Z]\w+ [A-Z]\w+)")
    name, year, keeper = (re.findall(pattern, call.document, re.MULTILINE)[0] for pattern in patterns)
    return Reply(json.dumps({"name": name, "first_lit": int(year), "first_keeper": keeper}))


async def test_example_of_the_document_is_true(stack: Stack, example_site: SiteServer, llm: LlmServer) -> None:
    """The commands of docs/records.md print what it shows, but for spaces and lines left out."""
    folder = Path(__file__).parents[2]
    document = (folder / "docs" / "records.md").read_text()
    file = "examples/lighthouse.json"
    assert re.findall(r"```json\n(.+?)```", document, re.DOTALL) == [(folder / file).read_text()]
    (console,) = re.findall(r"```console\n(.+?)```", document, re.DOTALL)
    llm.script = lighthouse
    shown = console.replace("127.0.0.1:8000", example_site.host_port)
    steps = re.findall(r"^\$ ke (.+)\n((?:(?!\$ ).*\n)+)", shown, re.MULTILINE)
    assert len(steps) == 2
    for command, lines in steps:
        done = await stack.ke(*command.replace(file, str(folder / file)).split())
        printed = [line.split() for line in done.out.splitlines()]
        assert done.code == 0, done.err
        for line in lines.splitlines():
            assert line == "..." or line.split() in printed, done.out
    assert llm.calls[-1].mode == "strict"


async def test_cancel_in_the_middle_of_a_call_then_clean(stack: Stack, big_site: SiteServer, llm: LlmServer) -> None:
    """The job is cancelled within seconds, the endpoint sees the hang-up, and a cleanup leaves no record."""
    llm.calls.clear()
    llm.script = lambda _: GOOD if len(llm.calls) <= 2 else replace(GOOD, wait_s=CALL_S)
    job = await submitted(stack, big_site, 8)
    await until_asked(llm, 5)
    async with stack.client() as client:
        await eventually(lambda: client.get_job(job["id"]), lambda j: j["progress"]["sources"] == 8)
        asked_at = time.monotonic()
        await client.cancel_job(job["id"], cleanup=True)
        job = await ended(stack, job)
        took_s = time.monotonic() - asked_at
        assert job["status"] == "cancelled"
        assert took_s < CALL_S / 2
        result = job["result"]
        assert result is not None
        assert (result["records"], result["records_skipped"]) == (2, 6)
        assert result["tokens_in"] > 200

        async def hung_up() -> list[bool]:
            return [call.hung_up for call in llm.calls]

        await eventually(hung_up, lambda seen: seen == [False, False, True, True, True], timeout_s=CALL_S / 2)
        await eventually(lambda: client.get_job(job["id"]), lambda j: j["artifacts"] == "cleaned")
        receipt = await client.get_cleanup(f"cleanup-{job['id']}")
    assert (receipt["deleted"]["records"], receipt["remaining"]["records"]) == (2, 0)
    left = await stack.sql("SELECT count(*) n FROM records WHERE job_id = $1", uuid.UUID(job["id"]))
    assert left[0]["n"] == 0


async def interruptions(stack: Stack, job: Job) -> int:
    """How many attempts at slices of the job's records lane came to nothing, by Temporal's history."""
    history = await stack.ke("temporal", "workflow", "show", "--workflow-id", job["workflow_id"], "--output", "json")
    events = history.document["events"]
    scheduled = [event for event in events if "activityTaskScheduledEventAttributes" in event]
    started = [
        event["activityTaskStartedEventAttributes"] for event in events if "activityTaskStartedEventAttributes" in event
    ]
    slices = {
        event["eventId"]
        for event in scheduled
        if event["activityTaskScheduledEventAttributes"]["activityType"]["name"] == "extract_records"
    }
    return sum(one["attempt"] - 1 for one in started if one["scheduledEventId"] in slices)


async def test_killed_worker_repeats_no_more_than_was_under_way(
    stack: Stack, big_site: SiteServer, llm: LlmServer
) -> None:
    """After SIGKILL every page has one record, and only the calls that were under way were made twice.

    Those are as many as a worker has at once, for each attempt that broke off: the killed one, and on a busy machine
    also one whose heartbeats came too late.
    """
    at_once = 3
    llm.calls.clear()
    llm.script = [replace(GOOD, wait_s=1.0)]
    job = await submitted(stack, big_site, 12)
    await until_asked(llm, 5)
    stack.kill_worker()
    job = await ended(stack, job)
    assert job["result"] is not None
    assert (job["status"], job["result"]["records"]) == ("completed", 12)
    assert {len(call.body["messages"]) for call in llm.calls} == {2}  # none was asked to answer better
    broken_off = await interruptions(stack, job)
    assert broken_off >= 1
    assert 12 <= asked(llm) <= 12 + at_once * broken_off
    rows = await stack.sql("SELECT count(DISTINCT source_id) n FROM records WHERE job_id = $1", uuid.UUID(job["id"]))
    assert rows[0]["n"] == 12
