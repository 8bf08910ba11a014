"""A client of any endpoint that speaks OpenAI's chat completions: one question, one bounded answer, what it cost."""

import asyncio
import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import httpx

from ke.contracts.errors import KeError, ModelUnavailable
from ke.extraction.calls import Turnstile, retry_after_s
from ke.extraction.strict_schemas import takes_strict

MAX_ANSWER_BYTES: Final = 1_000_000
"""Of a response's body: a long answer is some 50 kB."""
CONNECT_S: Final = 10.0
_MAX_TOLD: Final = 300
"""Characters of an endpoint's own words in an error."""
_REMEMBERED: Final = 256
"""Pairs of model and schema of which it is remembered what the endpoint takes."""
_BYTES_PER_TOKEN: Final = 3
"""Bytes of UTF-8 to a token: English has 4, Chinese about 3, so that an estimate is rather high."""
_TOKENS_PER_MESSAGE: Final = 8

Mode = Literal["strict", "schema", "object", "text"]
_MODES: Final[tuple[Mode, ...]] = ("strict", "schema", "object", "text")
"""What is asked for in `response_format`, from the most to the least; endpoints know the first ones or do not."""
_ABOUT_FORMAT: Final = re.compile(r"response_format|json_object|schema|grammar|structured|guided", re.IGNORECASE)
"""In the refusal of an endpoint that does not know a mode, or not for this schema. Old llama.cpp says it with 500."""
_ABOUT_LENGTH: Final = re.compile(r"context|token|length|too (long|large)", re.IGNORECASE)
"""In the refusal of a question that is too long, which no other mode makes shorter."""

_NOT_LET_IN: Final = frozenset({401, 402, 403, 404, 405, 407})
_OF_A_MODEL: Final = frozenset({403, 404})
"""Those that can be about one model alone."""
_BUSY: Final = frozenset({429, 503})
_FAILED: Final = frozenset({408, 409, 425})
_BAD_REQUEST: Final = frozenset({400, 422})
_OF_A_FORMAT: Final = _BAD_REQUEST | {500, 501}


class Busy(ModelUnavailable):
    """The endpoint asks for a pause."""

    code = "model-busy"


class NotLetIn(ModelUnavailable):
    """The endpoint does not take our calls: its address, the key or the model's name is wrong."""

    code = "model-refuses-us"


class ModelFailed(KeError):
    """The endpoint failed at this call."""

    code = "model-failed"
    retryable = True


class ModelSilent(ModelFailed):
    """The model did not answer in time, or the call broke off; it may have been paid for."""

    code = "model-silent"


class BadAnswer(ModelFailed):
    """The endpoint's answer is not one of the chat completions protocol."""

    code = "model-bad-answer"


class ModelRejected(KeError):
    """The endpoint does not take this question."""

    code = "model-rejected"


class AnswerTooLarge(KeError):
    """The answer is too large."""

    code = "answer-too-large"


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Where a model is, and what it costs."""

    url: str
    """What `/chat/completions` is appended to, after `/v1` where it has no path."""
    key: str | None
    model: str | None
    """Of calls that name none."""
    concurrency: int
    timeout_s: float
    """Of a whole call."""
    max_output_tokens: int
    max_chars: int
    """Characters of a source in one call."""
    price_in: float = 0.0
    """For a million tokens."""
    price_out: float = 0.0


@dataclass(frozen=True, slots=True)
class Message:
    """A part of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Question:
    """What a model is asked."""

    model: str
    messages: Sequence[Message]
    schema: Mapping[str, Any] | None
    """What the answer must be valid against, with an object at the top; None: only that it is JSON is asked for."""

    @property
    def estimated_tokens(self) -> int:
        """About how many tokens it has, rather too many than too few."""
        tokens = sum(estimate_tokens(m.content) + _TOKENS_PER_MESSAGE for m in self.messages)
        return tokens + (estimate_tokens(json.dumps(self.schema)) if self.schema is not None else 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What it said."""

    text: str
    tokens_in: int
    """As the endpoint counts them; where it does not, about how many."""
    tokens_out: int
    cut_off: bool
    """Whether it had more to say than the limit of tokens let it."""
    refusal: str = ""


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has, rather too many than too few."""
    return len(text.encode(errors="replace")) // _BYTES_PER_TOKEN + 1


class ChatClient:
    """Asks one endpoint, for all jobs of a worker."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self.endpoint = endpoint
        self.turnstile = Turnstile(endpoint.concurrency)
        self._modes: OrderedDict[str, Mode] = OrderedDict()
        self._limit_names: dict[str, str] = {}
        version = "" if httpx.URL(endpoint.url).path.strip("/") else "/v1"
        self._host = httpx.URL(endpoint.url).netloc.decode("ascii", "replace")  # without a user and password
        self._url = f"{endpoint.url.rstrip('/')}{version}/chat/completions"
        # No proxy or .netrc of the environment, and no redirect: the operator named one place, and the key goes there.
        self._http = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(endpoint.timeout_s, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, question: Question) -> Answer:
        """One call; more, where the endpoint has to be asked in a way that it understands first.

        `strict` is asked for where the schema qualifies. Where an answer of 400 or 422 may be about that, less is asked
        for, down to nothing but text, and what has worked is remembered for all calls with this model and schema.
        Cancelled, it hangs up at once.

        Raises:
            Busy: The endpoint asks for a pause, which all calls of this client keep from now on.
            NotLetIn: The operator has something to put right. Calls pause as well.
            ModelUnavailable: There is nobody at its address. Calls pause as well.
            ModelFailed: An error of the endpoint.
            ModelSilent: No answer in time.
            BadAnswer: One that is not of the protocol.
            ModelRejected: It does not take this question.
            AnswerTooLarge: The answer has more than `MAX_ANSWER_BYTES`.
        """
        key = _key_of(question)
        known = self._modes.get(key)
        mode = known or _first_mode(question.schema)
        while True:
            status, headers, body = await self._post(self._request(question, mode))
            if status == httpx.codes.OK:
                self._remember(key, mode)
                self.turnstile.succeeded()
                return self._answer(question, body)
            told = self._told(body)
            if _is_about_limit(status, told) and question.model not in self._limit_names:
                self._limit_names[question.model] = "max_completion_tokens"
            elif mode != _MODES[-1] and _may_be_about_mode(status, told, has_worked=mode == known):
                mode = _MODES[_MODES.index(mode) + 1]
            else:
                raise self._refusal(question, status, headers, told)

    def _remember(self, key: str, mode: Mode) -> None:
        self._modes[key] = mode
        self._modes.move_to_end(key)
        if len(self._modes) > _REMEMBERED:
            self._modes.popitem(last=False)

    def _request(self, question: Question, mode: Mode) -> bytes:
        body: dict[str, Any] = {
            "model": question.model,
            "messages": [{"role": m.role, "content": m.content} for m in question.messages],
            self._limit_names.get(question.model, "max_tokens"): self.endpoint.max_output_tokens,
            "stream": False,
        }
        if mode == "object":
            body["response_format"] = {"type": "json_object"}
        elif mode != "text":
            schema = {"name": "record", "schema": question.schema, "strict": mode == "strict"}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return json.dumps(body).encode()

    async def _post(self, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        headers = {"content-type": "application/json", "accept": "application/json", "accept-encoding": "identity"}
        if self.endpoint.key is not None:
            headers["authorization"] = f"Bearer {self.endpoint.key}"
        try:
            async with (
                asyncio.timeout(self.endpoint.timeout_s),
                self._http.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                return response.status_code, response.headers, await _read(response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self.turnstile.pause(f"the endpoint of the language model at {self._host} cannot be reached")
            raise ModelUnavailable("The endpoint of the language model cannot be reached.") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ModelSilent(f"The model did not answer within {self.endpoint.timeout_s:g} s.") from error
        except httpx.HTTPError as error:
            raise ModelSilent(f"The call broke off: {type(error).__name__}.") from error

    def _refusal(self, question: Question, status: int, headers: httpx.Headers, told: str) -> KeError:
        """The error that a status means; calls pause where it concerns them all."""
        if status in _BUSY:
            self.turnstile.pause(
                f"rate limit: the endpoint of the language model asked for a pause (HTTP {status} from {self._host})",
                retry_after_s(headers.get("retry-after")),
            )
            return Busy(f"HTTP {status}")
        if status in _OF_A_MODEL and question.model != self.endpoint.model:
            # A job chose this model, and must not hold up the others.
            return ModelRejected(f"HTTP {status} for the model {question.model}.")
        if status in _NOT_LET_IN or 300 <= status < 400:  # noqa: PLR2004  (the redirects)
            # Without its words: some endpoints repeat a part of the key in them.
            reason = f"the endpoint of the language model refuses our calls (HTTP {status}): look at KE_LLM_URL "
            self.turnstile.pause(f"{reason}({self._host}), KE_LLM_API_KEY and the model's name")
            return NotLetIn(f"The endpoint of the language model refuses our calls (HTTP {status}).")
        if status in _FAILED or status >= 500:  # noqa: PLR2004  (the server's own errors)
            return ModelFailed(f"HTTP {status}: {told}")
        return ModelRejected(f"HTTP {status}: {told}")

    def _told(self, body: bytes) -> str:
        """What an endpoint says of its error, shortened, and without the key."""
        text = body.decode(errors="replace")
        try:
            found = json.loads(text)
            error = found.get("error", found) if isinstance(found, dict) else found
            text = str(error.get("message", error) if isinstance(error, dict) else error)
        except (ValueError, RecursionError):
            pass
        if self.endpoint.key:
            text = text.replace(self.endpoint.key, "***")
        return " ".join(text.replace("\x00", "").split())[:_MAX_TOLD]

    def _answer(self, question: Question, body: bytes) -> Answer:
        try:
            found = json.loads(body)
            choice = found["choices"][0]
            content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
            usage = found.get("usage") or {}
            counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise BadAnswer from None
        text = content if isinstance(content, str) else ""
        return Answer(
            text=text,
            tokens_in=_count(counts[0], question.estimated_tokens),
            tokens_out=_count(counts[1], estimate_tokens(text)),
            cut_off=choice.get("finish_reason") == "length",
            refusal=refusal[:_MAX_TOLD] if isinstance(refusal, str) else "",
        )


async def _read(response: httpx.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise AnswerTooLarge(f"The endpoint's answer has more than {MAX_ANSWER_BYTES} bytes.")
        parts.append(part)
    return b"".join(parts)


def _count(told: object, estimated: int) -> int:
    is_number = isinstance(told, int) and not isinstance(told, bool)
    return told if is_number and 0 <= told < 2**31 else estimated  # type: ignore[operator, return-value]


def _is_about_limit(status: int, told: str) -> bool:
    """Whether a newer model of OpenAI's wants the limit of tokens under its newer name."""
    return status == httpx.codes.BAD_REQUEST and "max_completion_tokens" in told


def _may_be_about_mode(status: int, told: str, *, has_worked: bool) -> bool:
    """Whether a refusal can be about what was asked for in `response_format`, which many do not say."""
    if _ABOUT_FORMAT.search(told):
        return status in _OF_A_FORMAT
    return status in _BAD_REQUEST and not has_worked and not _ABOUT_LENGTH.search(told)


def _first_mode(schema: Mapping[str, Any] | None) -> Mode:
    if schema is None:
        return "object"
    return "strict" if takes_strict(schema) else "schema"


def _key_of(question: Question) -> str:
    digest = hashlib.sha256(json.dumps(question.schema, sort_keys=True).encode()).hexdigest()
    return f"{question.model} {digest}"
