"""One tool call's conversation with the gateway; a refusal becomes a structured error, never an exception."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from mcp_types import CallToolResult, TextContent
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ke.client import ApiError, GatewayUnreachable, KnowledgeExtractionClient, RequestRefused
from ke.contracts.errors import InvalidInput, KeError
from ke.gateway import find_gateway
from ke.wrong_values import detail_of

TIMEOUT_S: Final = 15.0
"""Seconds for one call, the time it is asked to wait not counted."""
MAX_TOLD: Final = 3
"""Arguments that do not fit of which the line tells; the problem document has all."""

_CALLS: Final = (
    (re.compile(r"POST /jobs/[\w-]+/cleanup"), "`cleanup_job`"),
    (re.compile(r"GET /cleanups/cleanup-project-\S+(?= tells)"), "`cleanup_project`"),
    (re.compile(r"GET /cleanups/cleanup-[\w-]+"), "`cleanup_job`"),
    (re.compile(r"DELETE with \?cleanup=true"), "Call `delete_job_record` with cleanup=true"),
    (re.compile(r"\?(cleanup=false)"), r"\1"),
)
"""What the gateway's words call its routes, and the tools that do the same."""
_ACTIONS: Final = {
    "cancel": "`cancel_job`",
    "cleanup": "`cleanup_job`",
    "delete": "`delete_job_record`",
    "retry": "`retry_dead_letters`",
}
"""The actions on a job for which there is a tool."""

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
        detail = in_terms_of_tools(error.detail)
        return refusal({**error.problem, "type": error.type, "status": error.status, "detail": detail})
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


def in_terms_of_tools(detail: str) -> str:
    """What the gateway says, with the tools in place of its routes: an agent has no other way to it."""
    for route, tool in _CALLS:
        detail = route.sub(tool, detail)
    return detail


def refused_arguments(tool: str, error: ValidationError, names: Sequence[str]) -> CallToolResult:
    """Arguments that do not fit, in one line that says which and why, first those that the tool does not have.

    Args:
        tool: Its name.
        error: What does not fit.
        names: The arguments that the tool has.
    """
    # One that is missing is often there, under a name that the tool does not have.
    wrong = sorted(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    found = [_argument(tool, one, names) for one in wrong]
    told = " ".join(f"{one['argument']}: {one['detail']}" for one in found[:MAX_TOLD])
    more = f" (and {len(found) - MAX_TOLD} more)" if len(found) > MAX_TOLD else ""
    return refusal(
        {
            "type": "urn:ke:problem:invalid-input",
            "title": "The arguments do not fit the tool",
            "status": HTTPStatus.UNPROCESSABLE_ENTITY.value,
            "detail": f"{told}{more}",
            "errors": found,
        }
    )


def _argument(tool: str, wrong: ErrorDetails, names: Sequence[str]) -> dict[str, str]:
    place = ".".join(map(str, wrong["loc"]))
    if wrong["type"] == "extra_forbidden":
        return {"argument": place, "detail": f"`{tool}` has no such argument; it has {', '.join(names)}."}
    return {"argument": place, "detail": detail_of(wrong)}


def refusal(problem: Mapping[str, Any]) -> CallToolResult:
    """A problem document as a tool's error: whole for programs, and in words for the model."""
    words = f"Refused ({problem.get('status')}, {problem.get('type')}): {problem.get('detail')}"
    if problem.get("current_status"):
        words += f"\nThe job's status: {problem['current_status']}"
    if problem.get("allowed_actions"):
        words += f"\nPossible now: {', '.join(_ACTIONS.get(name, name) for name in problem['allowed_actions'])}"
    return CallToolResult(
        content=[TextContent(type="text", text=words)], structured_content={"error": dict(problem)}, is_error=True
    )


def _problem(code: str, status: HTTPStatus, error: Exception, detail: str) -> dict[str, Any]:
    title = (type(error).__doc__ or "").strip().splitlines()[0].removesuffix(".")
    return {"type": f"urn:ke:problem:{code}", "title": title, "status": status.value, "detail": detail}
