"""The records lane on a real Postgres, a real process pool and a real endpoint, slice by slice, without Temporal."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from activities import records as lane_module
from activities.heartbeat import STOP_S
from activities.records import StructuredActivities
from ke.contracts.activities import CloseJob
from ke.contracts.errors import Fenced, ModelUnavailable, WorkLost
from ke.contracts.jobs import Counters, JobStatus
from ke.runtime.pool import CpuPool
from ke.storage import record_rows
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import get_job
from ke.storage.tables import dead_letters, extraction_tasks, records
from tests.integration.record_lanes import GOOD, SCHEMA, WRONG, Lanes, a_job
from tests.llm_server import Call, LlmServer, Reply, open_llm


@pytest.fixture
async def llm() -> AsyncIterator[LlmServer]:
    async with open_llm() as server:
        yield server


# Right answers


async def test_each_source_becomes_a_record(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """Every source has its record, calls overlap, and tokens and cost are counted in the lane and in the result."""
    job = await a_job(database, pool, [f"Text {n}" for n in range(6)], instructions="Only lighthouses.")
    all_three = asyncio.Event()

    def answer(_: Call) -> Reply:
        if len(llm.calls) == 3:
            all_three.set()
        return replace(GOOD, until=all_three)

    llm.script = answer
    report = await job.run(llm, concurrency=3, price_in=2.0, price_out=10.0)
    assert report.done
    assert report.counters == Counters(records=6, tokens_in=600, tokens_out=60, cost_micros=6 * 300)
    assert await job.data() == [{"name": "Bell Rock", "year": 1810}] * 6
    assert llm.most_at_once == 3
    assert {call.mode for call in llm.calls} == {"json_schema"}  # `year` is optional, which strict mode does not know
    assert all("Only lighthouses." in call.body["messages"][0]["content"] for call in llm.calls)
    assert {call.document for call in llm.calls} == {
        f"URL: https://site.example/{n}\n\n<document>\nText {n}\n</document>" for n in range(6)
    }
    outcome = await end_job(database, CloseJob(job.piece.job_id))
    assert outcome.status is JobStatus.COMPLETED
    assert (outcome.counters.records, outcome.counters.tokens_in, outcome.counters.cost_micros) == (6, 600, 1800)


async def test_properties_keep_the_order_of_the_schema(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """The model is shown them as the user wrote them, in the question and in its format; records read as answered."""
    names = ["reason", "name", "year", "b", "a"]
    schema = {"type": "object", "properties": {name: {"type": ["string", "integer"]} for name in names}}
    llm.script = [Reply(json.dumps(dict.fromkeys(names, 1)))]
    job = await a_job(database, pool, ["Text"], schema=schema)
    await job.run(llm)
    (call,) = llm.calls
    assert list(call.body["response_format"]["json_schema"]["schema"]["properties"]) == names
    assert json.dumps(schema) in call.body["messages"][0]["content"]
    assert [list(data) for data in await job.data()] == [names]


async def test_answers_are_found_among_other_words(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """A code fence, thoughts and polite words around the JSON do no harm, and cost no second call."""
    wrapped = ["```json\n{}\n```", "<think>{{</think>Here: {} Bye.", "{}"]
    llm.script = [Reply(words.replace("{}", '{"name": "A"}')) for words in wrapped]
    job = await a_job(database, pool, ["one", "two", "three"])
    report = await job.run(llm, concurrency=1)
    assert (report.counters.records, len(llm.calls)) == (3, 3)


async def test_list_is_read_part_by_part(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """With a schema of a list a long source is asked about in parts, and each item is a record, in order."""
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}}
    text = "\n\n".join(f"{number} " * 60 for number in range(30))

    def answer(call: Call) -> Reply:
        numbers = dict.fromkeys(int(word) for word in call.document.split("<document>")[1].split() if word.isdigit())
        return Reply(json.dumps({"records": list(numbers)}))

    llm.script = answer
    job = await a_job(database, pool, [text], schema=schema)
    report = await job.run(llm, max_chars=1000)
    assert await job.data() == list(range(30))
    assert (report.counters.records, len(llm.calls) > 2) == (30, True)
    assert [row.number for row in await job.rows(records)] == list(range(30))
    assert llm.calls[0].body["response_format"]["json_schema"]["schema"]["required"] == ["records"]


async def test_long_source_is_cut_and_says_so(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """With a schema of an object only the beginning is read, and the record is marked."""
    llm.script = [GOOD]
    job = await a_job(database, pool, ["word " * 1000, "short"])
    await job.run(llm, max_chars=1000)
    assert sorted((row.truncated, row.number) for row in await job.rows(records)) == [(False, 0), (True, 0)]
    assert max(len(call.document) for call in llm.calls) < 1200


# Wrong ones


async def test_wrong_answer_is_repaired_once(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """The model is shown its answer with what is wrong about it, and both calls are counted."""
    llm.script = [WRONG, GOOD]
    job = await a_job(database, pool, ["Text"])
    report = await job.run(llm)
    assert report.counters == Counters(records=1, tokens_in=200, tokens_out=20)
    repeated = llm.calls[1].body["messages"][2:]
    assert repeated[0] == {"role": "assistant", "content": WRONG.content}
    assert "/name: 7 is not of type 'string'" in repeated[1]["content"]


@pytest.mark.parametrize("content", [WRONG.content, "I do not know.", '{"name": "Bell', '{"name": "A\\u0000"}', ""])
async def test_two_wrong_answers_are_a_dead_letter(
    database: Database, pool: CpuPool, llm: LlmServer, content: str
) -> None:
    """A source of which no valid record comes fails alone, with its tokens counted; the job has errors."""
    llm.script = lambda call: Reply(content) if "bad" in call.document else GOOD
    job = await a_job(database, pool, ["good", "bad"])
    report = await job.run(llm)
    assert report.done
    assert report.counters == Counters(records=1, dead_letters=1, tokens_in=300, tokens_out=30)
    (letter,) = await job.rows(dead_letters)
    assert (letter.subject, letter.error_type, letter.subject_id) == ("record", "schema-mismatch", job.sources[1])
    told = f"The model answered: {content}" if content else "The model answered nothing."
    assert letter.error_message.endswith(told)
    outcome = await end_job(database, CloseJob(job.piece.job_id))
    assert outcome.status is JobStatus.COMPLETED_WITH_ERRORS


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("No.\n\n  Really\x00 not.", "No. Really? not."),
        ('{"name": "' + "\ud800" + '"}', '{"name": "?"}'),
        ("long " * 2000, "long " * 60 + " ..."),
        (json.dumps(dict.fromkeys(("a" * 400, *map(str, range(900))), 1)), '{"' + "a" * 298 + " ..."),
    ],
)
async def test_letter_of_a_wrong_answer_shows_its_beginning(
    database: Database, pool: CpuPool, llm: LlmServer, content: str, told: str
) -> None:
    """On one line, storable and bounded, however much there is to say about what is wrong."""
    schema = {**SCHEMA, "properties": {str(number): {"enum": ["x" * 400]} for number in range(9)}, "required": ["x"]}
    llm.script = [Reply(content)]
    job = await a_job(database, pool, ["Text"], schema=schema)
    await job.run(llm)
    (letter,) = await job.rows(dead_letters)
    assert letter.error_type == "schema-mismatch"
    assert letter.error_message.endswith(f"The model answered: {told}")


@pytest.mark.parametrize(
    ("reply", "error_type"),
    [
        (Reply("x" * 1_100_000), "answer-too-large"),
        (Reply(status=400, content="This model's maximum context length is 10 tokens"), "model-rejected"),
        (Reply("", refusal="I will not."), "model-refused"),
    ],
)
async def test_what_no_repair_helps_is_not_asked_again(
    database: Database, pool: CpuPool, llm: LlmServer, reply: Reply, error_type: str
) -> None:
    """A huge body, a question that is not taken and a refusal cost one call and are a dead letter."""
    llm.script = [reply]
    job = await a_job(database, pool, ["Text"])
    assert (await job.run(llm)).done
    (letter,) = await job.rows(dead_letters)
    assert (letter.error_type, len(llm.calls)) == (error_type, 1)


@pytest.mark.parametrize("reply", [Reply(status=500), Reply(body=b"<html>"), Reply(body=b'{"choices": []}')])
async def test_failing_endpoint_is_tried_four_times(
    database: Database, pool: CpuPool, llm: LlmServer, reply: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors of the server and answers that are none are tried again, at growing distances, and then dead letters."""
    monkeypatch.setattr(lane_module, "FIRST_RETRY_S", 0.05)
    llm.script = lambda call: reply if "bad" in call.document else GOOD
    job = await a_job(database, pool, ["bad", "good"])
    report = await job.run(llm)
    assert (report.done, report.counters.records, report.counters.dead_letters) == (True, 1, 1)
    (letter,) = await job.rows(dead_letters)
    assert (letter.attempts, sum("bad" in call.document for call in llm.calls)) == (4, 4)


async def test_silent_endpoint_is_given_up(
    database: Database, pool: CpuPool, llm: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call ends after its time, and the question is counted as paid for.

    The time is long enough for the second call on a machine that stands still for a while.
    """
    monkeypatch.setattr(lane_module, "FIRST_RETRY_S", 0.05)
    llm.script = [replace(GOOD, wait_s=60), GOOD]
    job = await a_job(database, pool, ["Text"])
    report = await job.run(llm, timeout_s=4.0)
    assert (report.counters.records, len(llm.calls)) == (1, 2)
    assert llm.calls[0].hung_up
    assert report.counters.tokens_in > 100


# What concerns the endpoint as a whole


async def test_pause_is_kept_by_all_calls(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """After a 429 with Retry-After nobody calls until then, no attempt is lost, and the row says what is waited for."""
    busy = Reply(status=429, headers={"Retry-After": "5"})
    llm.script = [busy, busy, GOOD]
    job = await a_job(database, pool, [f"Text {n}" for n in range(4)])
    async with job.at(llm, concurrency=2) as run:
        running = asyncio.create_task(run())
        notes = set()
        while not running.done():
            notes.add((await job.progress()).note)
            await asyncio.sleep(0.1)
        report = await running
    assert (report.counters.records, report.counters.dead_letters, report.note) == (4, 0, "")
    assert llm.calls[2].at - llm.calls[0].at >= 4.9
    told = f"rate limit: the endpoint of the language model asked for a pause (HTTP 429 from {llm.url.split('/')[2]})"
    assert any(note.startswith(told) for note in notes)
    assert (await job.progress()).note == ""


@pytest.mark.parametrize("status", [401, 403, 404, 302])
async def test_operators_fault_costs_no_source(database: Database, pool: CpuPool, llm: LlmServer, status: int) -> None:
    """A wrong key or address makes the lane wait, with a note, until it is put right; a redirect is not followed."""
    llm.script = lambda _: Reply(status=status, content=f"bad key {llm_key}", headers={"Location": "/v1/elsewhere"})
    llm_key = llm.endpoint().key
    job = await a_job(database, pool, ["Text"])
    async with job.at(llm) as run:
        running = asyncio.create_task(run())
        async with asyncio.timeout(60):
            while not (note := (await job.progress()).note):  # noqa: ASYNC110  rows can only be asked for
                await asyncio.sleep(0.05)
        assert note.startswith(f"the endpoint of the language model refuses our calls (HTTP {status})")
        assert f"look at KE_LLM_URL ({llm.url.split('/')[2]})" in note
        assert llm_key not in note
        llm.script = [GOOD]
        report = await running
    assert report.done
    assert (report.counters.records, report.counters.dead_letters) == (1, 0)


async def test_endpoint_that_is_away_is_waited_for(database: Database, pool: CpuPool) -> None:
    """Nobody at the address: the slice ends with a note and its sources given back; the next one finds the endpoint."""
    gone = LlmServer()
    job = await a_job(database, pool, ["Text"])
    with socket.socket() as kept:
        # Nobody listens at it, and no other process is given it meanwhile.
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        gone.url = f"http://127.0.0.1:{kept.getsockname()[1]}/v1"
        await away_and_back(job, gone)


async def away_and_back(job: Lanes, gone: LlmServer) -> None:
    async with job.at(gone) as run:
        report = await run(max_seconds=5)
        assert (report.done, report.counters) == (False, Counters())
        host = gone.url.split("/")[2]
        assert report.note.startswith(f"the endpoint of the language model at {host} cannot be reached")
        assert await job.states() == ["pending"]
        async with open_llm(int(gone.url.split(":")[2].split("/")[0])) as back:
            back.script = [GOOD]
            assert (await run()).counters.records == 1


async def test_worker_without_an_endpoint_hands_the_slice_back(database: Database, pool: CpuPool) -> None:
    """The slice fails in a way that Temporal tries again, on another worker."""
    job = await a_job(database, pool, ["Text"])
    with pytest.raises(ModelUnavailable) as caught:
        await ActivityEnvironment().run(StructuredActivities(database, pool, None).extract_records, job.piece)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("status", "words", "knows"),
    [
        (400, "'response_format.type' must be 'json_object' or 'text'", "json_object"),
        (500, 'response_format type must be one of "text" or "json_object", but got: json_schema', "json_object"),
        (422, "response_format: unknown field", "text"),
    ],
)
async def test_endpoint_is_asked_as_it_understands(
    database: Database, pool: CpuPool, llm: LlmServer, status: int, words: str, knows: str
) -> None:
    """Less is asked for where `response_format` is refused, and the next call begins with what worked."""
    llm.script = lambda call: GOOD if call.mode == knows else Reply(status=status, content=words)
    job = await a_job(database, pool, ["one", "two"])
    report = await job.run(llm, concurrency=1)
    assert (report.counters.records, report.counters.dead_letters) == (2, 0)
    assert [call.mode for call in llm.calls].count(knows) == 2
    assert llm.calls[-1].mode == llm.calls[-2].mode == knows


async def test_strict_that_is_refused_costs_one_call(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """An endpoint without strict mode is asked for it once, not for each source; answers are checked all the same."""
    schema = {**SCHEMA, "required": ["name", "year"]}
    wrong = Reply('{"name": "Bell Rock"}')

    def answer(call: Call) -> Reply:
        return wrong if "bad" in call.document else GOOD

    llm.script = lambda call: Reply(status=400, content="Bad Request") if call.mode == "strict" else answer(call)
    job = await a_job(database, pool, ["one", "two", "bad", "three"], schema=schema)
    report = await job.run(llm, concurrency=1)
    assert (report.counters.records, report.counters.dead_letters) == (3, 1)
    assert [call.mode for call in llm.calls] == ["strict"] + ["json_schema"] * 5


# Stopping


async def test_cancel_hangs_up_in_the_middle_of_a_call(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """A cancelled slice breaks its calls off at once, gives their sources back, and counts what it asked."""
    llm.script = lambda call: GOOD if "0" in call.document.split("<document>")[1] else replace(GOOD, wait_s=60)
    job = await a_job(database, pool, [f"Text {n}" for n in range(4)])
    environment = ActivityEnvironment()
    async with job.at(llm, concurrency=2) as run:
        running = asyncio.create_task(run(environment))
        async with asyncio.timeout(60):
            while len(llm.calls) < 3 or not await job.data():  # noqa: ASYNC110  rows can only be asked for
                await asyncio.sleep(0.05)
        environment.cancel()
        async with asyncio.timeout(STOP_S):
            report = await running
            while sum(call.hung_up for call in llm.calls) < 2:  # noqa: ASYNC110  the server sees it a moment later
                await asyncio.sleep(0.01)
    assert (report.interrupted, report.done, report.counters.records) == (True, False, 1)
    assert {"Text 0" in call.document: call.hung_up for call in llm.calls} == {True: False, False: True}
    assert report.counters.tokens_in > 100
    assert await job.states() == ["done", "pending", "pending", "pending"]
    outcome = await end_job(database, CloseJob(job.piece.job_id, cancelled=True))
    assert (outcome.counters.records, outcome.counters.records_skipped) == (1, 3)
    assert outcome.counters.tokens_in == report.counters.tokens_in


async def test_end_of_a_slice_lets_calls_finish(
    database: Database, pool: CpuPool, llm: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is under way when the slice's time is over is not thrown away, and no other begins."""
    go_on, gone_by = asyncio.Event(), 0.0
    llm.script = [replace(GOOD, until=go_on)]
    job = await a_job(database, pool, [f"Text {n}" for n in range(4)])
    async with job.at(llm, concurrency=2) as run:
        with monkeypatch.context() as patched:
            patched.setattr(lane_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + gone_by))
            running = asyncio.create_task(run(max_seconds=600))
            async with asyncio.timeout(60):
                while len(llm.calls) < 2:  # noqa: ASYNC110  the server appends to a list
                    await asyncio.sleep(0.01)
            gone_by = 3600.0
            go_on.set()
            report = await running
        assert (report.done, report.counters.records, len(llm.calls)) == (False, 2, 2)
        report = await run()
    assert (report.done, report.counters.records, len(llm.calls)) == (True, 4, 4)


async def test_crash_before_a_commit_repeats_only_what_was_under_way(
    database: Database, pool: CpuPool, llm: LlmServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slice that dies between answer and commit: the next one asks again for those, once each."""
    llm.script = [GOOD]
    job = await a_job(database, pool, [f"Text {n}" for n in range(6)])
    store, stored = record_rows.store_records, 0

    async def dying(*arguments: Any) -> Counters:
        nonlocal stored
        stored += 1
        if stored > 3:
            raise RuntimeError("killed")
        return await store(*arguments)

    async with job.at(llm, concurrency=2) as run:
        with monkeypatch.context() as patch:
            patch.setattr(record_rows, "store_records", dying)
            with pytest.raises(RuntimeError):
                await run()
        before = len(llm.calls)
        report = await run()
    assert (report.done, report.counters.records) == (True, 6)
    assert len(await job.rows(records)) == 6
    assert len(llm.calls) - 6 <= 2
    assert before <= 5


async def test_late_worker_cannot_write_any_more(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """Of two slices of one lane the first is refused, and each source has one record."""
    is_late, go_on = asyncio.Event(), asyncio.Event()

    def answer(call: Call) -> Reply:
        if not call.headers["Authorization"].endswith("late"):
            return GOOD
        is_late.set()
        return replace(GOOD, until=go_on)

    llm.script = answer
    job = await a_job(database, pool, [f"Text {n}" for n in range(4)])
    async with job.at(llm, key="late") as first, job.at(llm) as second:
        late = asyncio.create_task(first())
        await asyncio.wait_for(is_late.wait(), 60)
        report = await second()
        go_on.set()
        with pytest.raises((WorkLost, Fenced)):
            await late
    assert (report.done, len(await job.rows(records))) == (True, 4)


# The budget


async def test_budget_is_never_passed_and_the_rest_is_skipped(
    database: Database, pool: CpuPool, llm: LlmServer
) -> None:
    """Calls stop where the next one might not fit; what is left is skipped, counted, and says why."""

    def answer(call: Call) -> Reply:
        return replace(GOOD, usage=(sum(len(m["content"]) for m in call.body["messages"]) // 4, 400))

    llm.script = answer
    job = await a_job(database, pool, [f"Text {n} " * 50 for n in range(12)], max_tokens=6_000)
    report = await job.run(llm)
    counters = report.counters
    assert report.done
    assert counters.records + counters.records_skipped == 12
    assert min(counters.records, counters.records_skipped) > 0
    assert counters.tokens_in + counters.tokens_out <= 6_000
    reasons = {row.record_reason for row in await job.rows(extraction_tasks) if row.record_state == "skipped"}
    assert reasons == {"the budget of 6000 tokens covers no further call"}
    outcome = await end_job(database, CloseJob(job.piece.job_id))
    assert (outcome.status, outcome.counters.records_skipped) == (JobStatus.COMPLETED, counters.records_skipped)
    async with database.transaction() as connection:
        row = await get_job(connection, uuid.UUID(job.piece.job_id))
    assert row.result is not None
    assert row.result["limits_reached"] == ["max_tokens"]


async def test_usage_that_is_not_told_is_estimated(database: Database, pool: CpuPool, llm: LlmServer) -> None:
    """An endpoint that counts nothing does not make the budget endless."""
    llm.script = [replace(GOOD, usage=None)]
    job = await a_job(database, pool, ["Text " * 100] * 30, max_tokens=8_000)
    counters = (await job.run(llm)).counters
    assert 0 < counters.tokens_in + counters.tokens_out <= 8_000
    assert counters.records_skipped > 0
