"""The client of chat completions and its turnstile, against a real server where one is needed."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from ke.extraction import calls
from ke.extraction.budget import BudgetSpent, TokenBudget
from ke.extraction.calls import MAX_PAUSE_S, Turnstile, retry_after_s
from ke.extraction.chat import Busy, ChatClient, Message, ModelFailed, ModelRejected, NotLetIn, Question
from tests.llm_server import KEY, MODEL, Call, LlmServer, Reply, open_llm, refusing

QUESTION = Question(MODEL, (Message("system", "Read."), Message("user", "Text")), {"type": "object"})
CLOSED = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
STRICT = replace(QUESTION, schema=CLOSED)


@pytest.fixture
async def llm() -> AsyncIterator[LlmServer]:
    async with open_llm() as server:
        yield server


async def error_of(llm: LlmServer, question: Question = QUESTION, **options: Any) -> Exception:
    """What asking ends with."""
    async with ChatClient(llm.endpoint(**options)) as client:
        with pytest.raises(Exception) as caught:
            await client.ask(question)
    return caught.value


async def test_key_is_in_no_error(llm: LlmServer, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint that repeats the key in its refusals does not bring it into an error or a log."""
    caplog.set_level(logging.DEBUG)
    for status in (400, 401, 403, 404, 429, 500):
        llm.script = [Reply(status=status, content=f"The key {KEY} is bad")]
        error = await error_of(llm)
        assert KEY not in repr(error) + str(error.__dict__)
    assert KEY not in caplog.text
    assert llm.calls[0].headers["Authorization"] == f"Bearer {KEY}"


async def test_model_of_a_job_holds_up_no_other(llm: LlmServer) -> None:
    """A model that a request named and that is not there is the request's fault; the operator's own is his."""
    llm.script = [Reply(status=404, content="no such model")]
    async with ChatClient(llm.endpoint()) as client:
        with pytest.raises(ModelRejected):
            await client.ask(replace(QUESTION, model="mine"))
        assert client.turnstile.note == ""
        with pytest.raises(NotLetIn):
            await client.ask(QUESTION)
        assert "HTTP 404" in client.turnstile.note


async def test_redirect_is_not_followed(llm: LlmServer) -> None:
    """The question and the key go to the place that was named, and nowhere else."""
    async with open_llm() as elsewhere:
        target = f"{elsewhere.url}/chat/completions"
        llm.script = [Reply(status=307, headers={"Location": target})]
        assert isinstance(await error_of(llm), NotLetIn)
        assert elsewhere.calls == []


async def test_newer_name_of_the_limit_is_learned(llm: LlmServer) -> None:
    """A model that wants `max_completion_tokens` is asked so from then on."""

    def answer(call: Call) -> Reply:
        if "max_tokens" in call.body:
            return Reply(status=400, content="Unsupported parameter: use 'max_completion_tokens' instead.")
        return Reply('{"a": 1}')

    llm.script = answer
    async with ChatClient(llm.endpoint()) as client:
        assert (await client.ask(QUESTION)).text == '{"a": 1}'
        await client.ask(QUESTION)
    assert ["max_tokens" in call.body for call in llm.calls] == [True, False, False]
    assert llm.calls[-1].body["response_format"]["type"] == "json_schema"


async def test_url_without_a_path_means_v1(llm: LlmServer) -> None:
    """The base may be given with `/v1`, with a slash after it, or as host and port alone."""
    llm.script = [Reply('{"a": 1}')]
    for url in (llm.url, f"{llm.url}/", llm.url.removesuffix("/v1"), f"{llm.url.removesuffix('v1')}"):
        async with ChatClient(llm.endpoint(url=url)) as client:
            assert (await client.ask(QUESTION)).text == '{"a": 1}'


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(status=429, headers={"Retry-After": "5"}), Busy),
        (Reply(status=503), Busy),
        (Reply(status=500), ModelFailed),
        (Reply(status=413), ModelRejected),
        (Reply(body=b"[]"), ModelFailed),
        (Reply(body=b'{"choices": [{"message": null}]}'), ModelFailed),
        (Reply(body=b"\xff\xfe"), ModelFailed),
    ],
)
async def test_each_refusal_has_its_error(llm: LlmServer, reply: Reply, kind: type[Exception]) -> None:
    """What all calls wait for, what is tried again and what is final are told apart."""
    llm.script = [reply]
    assert isinstance(await error_of(llm), kind)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("words", ["Bad Request", "Invalid schema for response_format 'record'"])
@pytest.mark.parametrize(
    ("refused", "asked"),
    [
        ({"strict"}, ["strict", "json_schema"]),
        ({"strict", "json_schema"}, ["strict", "json_schema", "json_object"]),
        ({"strict", "json_schema", "json_object"}, ["strict", "json_schema", "json_object", "text"]),
    ],
)
async def test_strict_that_is_refused_is_asked_for_once(
    llm: LlmServer, status: int, words: str, refused: set[str], asked: list[str]
) -> None:
    """Less is asked for step by step, whatever the refusal says, and later calls begin with what worked."""
    llm.script = refusing(refused, Reply('{"a": 1}'), status, words)
    async with ChatClient(llm.endpoint()) as client:
        for _ in range(3):
            assert (await client.ask(STRICT)).text == '{"a": 1}'
    assert [call.mode for call in llm.calls] == asked + [asked[-1]] * 2


async def test_refusal_after_a_success_is_not_about_the_mode(llm: LlmServer) -> None:
    """What has worked for a schema is not given up for a refusal that says nothing of it."""
    llm.script = [Reply('{"a": 1}'), Reply(status=400, content="Bad Request")]
    async with ChatClient(llm.endpoint()) as client:
        await client.ask(STRICT)
        with pytest.raises(ModelRejected):
            await client.ask(STRICT)
    assert [call.mode for call in llm.calls] == ["strict"] * 2


async def test_strict_is_asked_for_only_where_the_schema_qualifies(llm: LlmServer) -> None:
    """An endpoint that refuses `strict` for other schemas, as OpenAI's does, is never asked so."""
    llm.script = refusing({"strict"}, Reply('{"a": 1}'), 400, "Invalid schema for response_format")
    async with ChatClient(llm.endpoint()) as client:
        await client.ask(QUESTION)
    assert [call.mode for call in llm.calls] == ["json_schema"]


def test_retry_after_is_read_in_both_forms() -> None:
    """A number of seconds or a date, never longer than the longest pause; nonsense is nothing."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_s("7") == 7
    assert 30 < (retry_after_s(later) or 0) <= 60
    assert retry_after_s("99999") == MAX_PAUSE_S
    assert retry_after_s("-5") == 0
    assert [retry_after_s(value) for value in (None, "", "soon", "nan")] == [None] * 4


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The turnstile's clock, which stands still but for what a test adds to `now`."""
    clock = SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(calls, "time", clock)
    return clock


async def test_pauses_double_until_a_call_succeeds(clock: SimpleNamespace) -> None:
    """Without a Retry-After pauses grow, calls that fail together count once, and a success ends the trouble."""
    turnstile = Turnstile(2)
    turnstile.pause("away")
    clock.now += 0.25
    turnstile.pause("away")
    assert turnstile._left_s == 0.75
    clock.now += 0.75
    turnstile.pause("away")
    assert turnstile._left_s == 2.0
    assert turnstile.note.startswith("away; the next call at ")
    turnstile.succeeded()
    assert turnstile.note == ""


async def test_at_once_is_not_taken_at_its_word(clock: SimpleNamespace) -> None:
    """An endpoint that refuses and says Retry-After: 0 is not asked again in the same moment."""
    turnstile = Turnstile(1)
    turnstile.pause("busy", 0.0)
    assert turnstile._left_s == 1.0


async def test_turnstile_lets_so_many_through_and_none_in_a_pause() -> None:
    """Calls that waited for a place while a pause was asked for wait for its end too."""
    turnstile = Turnstile(1)
    began: list[float] = []

    async def call(*, pause: bool) -> None:
        async with turnstile.turn():
            began.append(time.monotonic())
            await asyncio.sleep(0.05)
            if pause:
                turnstile.pause("busy", 1.2)

    await asyncio.gather(call(pause=True), call(pause=False))
    assert began[1] - began[0] >= 1.2


async def test_budget_waits_for_what_may_be_given_back() -> None:
    """A call that does not fit beside another waits for it, goes on when there is room, and is refused when not."""
    budget, done = TokenBudget(1000, 0), asyncio.Event()

    async def other() -> None:
        async with budget.reserve(100, 500) as part:
            part.use(100, 500)
            done.set()

    async with budget.reserve(100, 500) as part:
        waiting = asyncio.create_task(other())
        await asyncio.sleep(0.05)
        assert not done.is_set()
        part.use(100, 100)
    await waiting
    with pytest.raises(BudgetSpent):
        async with budget.reserve(100, 500):
            pass


async def test_budget_learns_that_questions_are_longer_than_estimated() -> None:
    """A question that had twice the tokens makes the next one hold twice as many."""
    budget = TokenBudget(1000, 0)
    async with budget.reserve(200, 100) as part:
        part.use(400, 100)
    with pytest.raises(BudgetSpent):
        async with budget.reserve(250, 100):
            pass
