"""A small local server that speaks OpenAI's chat completions, and does what a test tells it to: also badly."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from ke.extraction.chat import ChatEndpoint

KEY = "sk-test-0123456789"
MODEL = "small-model"


@dataclass(frozen=True)
class Reply:
    """What the server does with one call."""

    content: str = "{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of an answer of the protocol."""
    wait_s: float = 0.0
    until: asyncio.Event | None = None
    """Set when it may answer."""
    usage: tuple[int, int] | None = (100, 10)
    finish: str = "stop"
    refusal: str | None = None


@dataclass
class Call:
    """A call as it came in."""

    body: dict[str, Any]
    headers: Mapping[str, str]
    at: float
    hung_up: bool = False
    """Whether the caller was gone before the answer."""

    @property
    def document(self) -> str:
        """What the model was shown first."""
        return str(self.body["messages"][1]["content"])

    @property
    def mode(self) -> str:
        """The mode that was asked for."""
        wanted = self.body.get("response_format", {"type": "text"})
        strict = wanted.get("json_schema", {}).get("strict")
        return "strict" if strict else str(wanted["type"])


Script = Callable[[Call], Reply] | Sequence[Reply]


def refusing(modes: Collection[str], reply: Reply, status: int, words: str) -> Script:
    """A server that does not take these modes, and says so in these words."""
    return lambda call: Reply(status=status, content=words) if call.mode in modes else reply


class LlmServer:
    """The server; `script` says what it answers: a function, or one reply after the other, the last one for ever."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.at_once = 0
        self.most_at_once = 0
        self.url = ""
        self.script: Script = [Reply()]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(await request.json(), request.headers, asyncio.get_running_loop().time())
        self.calls.append(call)
        reply = self._reply(call)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(reply.wait_s)
            if reply.until is not None:
                await reply.until.wait()
        except asyncio.CancelledError:
            call.hung_up = True
            raise
        finally:
            self.at_once -= 1
        body = reply.body if reply.body is not None else _completion(reply)
        return web.Response(
            status=reply.status, body=body, headers=dict(reply.headers), content_type="application/json"
        )

    def _reply(self, call: Call) -> Reply:
        if callable(self.script):
            return self.script(call)
        return self.script[min(len(self.calls), len(self.script)) - 1]

    def endpoint(self, **options: Any) -> ChatEndpoint:
        values = {
            "url": self.url,
            "key": KEY,
            "model": MODEL,
            "concurrency": 4,
            "timeout_s": 30.0,
            "max_output_tokens": 500,
            "max_chars": 48_000,
        }
        return ChatEndpoint(**{**values, **options})


def _completion(reply: Reply) -> bytes:
    if reply.status != 200:
        return json.dumps({"error": {"message": reply.content, "type": "error"}}).encode()
    message = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    answer: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish}],
    }
    if reply.usage is not None:
        names = ("prompt_tokens", "completion_tokens")
        answer["usage"] = dict(zip(names, reply.usage, strict=True)) | {"total_tokens": sum(reply.usage)}
    return json.dumps(answer).encode()


@asynccontextmanager
async def open_llm(port: int = 0) -> AsyncIterator[LlmServer]:
    """A server on a free port, or on this one."""
    server = LlmServer()
    app = web.Application(client_max_size=10_000_000)
    app.router.add_post("/v1/chat/completions", server.handle)
    # So that a caller who hangs up is seen.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    bound = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{bound}/v1"
    try:
        yield server
    finally:
        await runner.cleanup()
