"""One tool call's conversation with the gateway; a refusal becomes a structured error, never an exception."""

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from mcp_types import CallToolResult, TextContent

from ke.client import ApiError, GatewayUnreachable, KnowledgeExtractionClient, RequestRefused
from ke.contracts.errors import InvalidInput, KeError
from ke.gateway import find_gateway

TIMEOUT_S: Final = 15.0
"""Seconds for one call, the time it is asked to wait not counted."""

Work = Callable[[KnowledgeExtractionClient], Awaitable[Mapping[str, Any]]]


async def answer(work: Work) -> CallToolResult:
    """Run `work` with an open client.

    The gateway is looked for at each call: an embedded stack that was restarted may have another port.

    Returns:
        The document that `work` gives, as structured content and as text; or, with `is_error`, `{"error": problem}`
        with the gateway's own problem document in it.
    """
    try:
        async with KnowledgeExtractionClient(find_gateway(), TIMEOUT_S) as client:
            document = await work(client)
    except ApiError as error:
        return refusal({**error.problem, "type": error.type, "status": error.status, "detail": error.detail})
    except RequestRefused as error:
        return refusal(_problem("request-refused", HTTPStatus.UNPROCESSABLE_ENTITY, error, str(error)))
    except GatewayUnreachable as error:
        return refusal(_problem("gateway-unreachable", HTTPStatus.SERVICE_UNAVAILABLE, error, str(error)))
    except KeError as error:
        refused = isinstance(error, InvalidInput)
        status = HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.SERVICE_UNAVAILABLE
        return refusal(_problem(error.code, status, error, error.message))
    text = json.dumps(document, ensure_ascii=False, indent=1)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=dict(document))


def refusal(problem: Mapping[str, Any]) -> CallToolResult:
    """A problem document as a tool's error: whole for programs, and in words for the model."""
    words = f"Refused ({problem.get('status')}, {problem.get('type')}): {problem.get('detail')}"
    if problem.get("current_status"):
        words += f"\nThe job's status: {problem['current_status']}"
    if problem.get("allowed_actions"):
        words += f"\nPossible now: {', '.join(map(str, problem['allowed_actions']))}"
    return CallToolResult(
        content=[TextContent(type="text", text=words)], structured_content={"error": dict(problem)}, is_error=True
    )


def _problem(code: str, status: HTTPStatus, error: Exception, detail: str) -> dict[str, Any]:
    title = (type(error).__doc__ or "").strip().splitlines()[0].removesuffix(".")
    return {"type": f"urn:ke:problem:{code}", "title": title, "status": status.value, "detail": detail}
