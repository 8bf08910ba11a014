"""Every error as `application/problem+json` (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route

from api.errors import (
    CrossSite,
    MalformedJson,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
    ValidationFailed,
    WrongHost,
)
from ke.contracts.errors import Conflict, Gone, InvalidInput, KeError, NotFound, Unavailable
from ke.wrong_values import detail_of

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 2
TYPE_PREFIX: Final = "urn:ke:problem:"
MAX_ERRORS: Final = 50
"""Entries of `errors`, at most: a body of a thousand wrong URLs is told of the first ones."""

log = structlog.get_logger(__name__)

_STATUS: Final[tuple[tuple[type[KeError], HTTPStatus], ...]] = (
    (MalformedJson, HTTPStatus.BAD_REQUEST),
    (WrongHost, HTTPStatus.MISDIRECTED_REQUEST),
    (CrossSite, HTTPStatus.FORBIDDEN),
    (PayloadTooLarge, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (UnsupportedMediaType, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (MethodNotAllowed, HTTPStatus.METHOD_NOT_ALLOWED),
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Gone, HTTPStatus.GONE),
    (Conflict, HTTPStatus.CONFLICT),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
"""The first class that fits gives the status; what fits none is a fault of ours."""

_HTTP_ERRORS: Final[dict[int, type[KeError]]] = {
    400: MalformedJson,
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}
"""What the framework itself refuses, before a handler runs."""


class FieldProblem(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str | None = Field(None, description="JSON pointer (RFC 6901) into the body", examples=["/urls/3"])
    parameter: str | None = Field(None, description="Name of the query parameter or header", examples=["limit"])
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    type: str = Field(description="Stable: tell problems apart by this", examples=["urn:ke:problem:not-cancellable"])
    title: str = Field(description="The same for every problem of this type")
    status: int = Field(examples=[409])
    detail: str = Field(description="What is wrong with this very request, for people")
    instance: str = Field(description="The request's path")
    current_status: str | None = Field(None, description="The state the job is in, where a job is concerned")
    allowed_actions: list[str] | None = Field(None, description="What can be done with the job in that state")
    errors: list[FieldProblem] | None = Field(None, description="Each field that does not fit")


def status_of(error: KeError) -> HTTPStatus:
    """The HTTP status that an error reads as."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)


def _title(error: KeError) -> str:
    return (type(error).__doc__ or "").strip().splitlines()[0].removesuffix(".")


def document(error: KeError, instance: str) -> dict[str, Any]:
    """The problem document of an error; its extra members go in as they are, empty ones are left out."""
    problem = {
        "type": f"{TYPE_PREFIX}{error.code}",
        "title": _title(error),
        "status": status_of(error).value,
        "detail": error.message,
        "instance": instance,
    }
    return problem | {name: value for name, value in error.extra.items() if value is not None}


def response(error: KeError, instance: str, headers: dict[str, str] | None = None) -> Response:
    """The error as an HTTP response."""
    headers = dict(headers or {})
    if isinstance(error, Unavailable):
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    content = document(error, instance)
    return JSONResponse(content, status_code=content["status"], headers=headers, media_type=MEDIA_TYPE)


def internal_error(instance: str) -> Response:
    """The answer to a fault of ours: nothing of its inside, which is in the log."""
    return response(KeError("The gateway failed; its log says why."), instance)


def pointer_of(location: Sequence[str | int]) -> str:
    """A JSON pointer (RFC 6901) from the steps of a path."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in location)


_KINDS: Final = frozenset({"scrape", "crawl", "extract"})


def _body_location(error: dict[str, Any]) -> list[str | int]:
    """Where in the body an error is: without the step by which pydantic names the member of the union."""
    steps = list(error["loc"][1:])
    if error["type"].startswith("union_tag"):
        return [*steps, "kind"]
    steps = steps[1:] if steps and steps[0] in _KINDS else steps
    return steps[:-1] if _is_about_name(error) else steps


def _is_about_name(error: dict[str, Any]) -> bool:
    """Whether the name of a member is wrong, for which pydantic adds a step to the member's own."""
    return bool(error["loc"][-1] == "[key]" and error["loc"][-2] == error["input"])


def _detail(error: dict[str, Any]) -> str:
    return f"Its name: {detail_of(error)}" if _is_about_name(error) else detail_of(error)


def _without_echoes(found: Sequence[Any]) -> list[Any]:
    """The errors, without those of lists that are too short only because what is wrong in them was not counted."""
    parts = {tuple(error["loc"][:end]) for error in found for end in range(len(error["loc"]))}
    return [error for error in found if error["type"] != "too_short" or tuple(error["loc"]) not in parts]


def field_problem(error: dict[str, Any]) -> dict[str, str]:
    """One of pydantic's errors as a member of `errors`."""
    if error["loc"][0] == "body":
        return {"pointer": pointer_of(_body_location(error)), "detail": _detail(error)}
    return {"parameter": str(error["loc"][1]), "detail": _detail(error)}


def from_validation(error: RequestValidationError) -> KeError:
    """The error that a request which does not fit its schema reads as."""
    found = _without_echoes(error.errors())
    first = found[0]
    if first["type"] == "json_invalid":
        return MalformedJson(f"The body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}.")
    path = [e for e in found if e["loc"][0] == "path"]
    if path:
        # No id has that form, so there is nothing under it.
        name = path[0]["loc"][-1]
        form = "must be an id (a UUID)" if path[0]["type"].startswith("uuid") else "does not have the form of one"
        return NotFound(f"There is nothing here: {name} {form}.")
    problems = [field_problem(e) for e in found[:MAX_ERRORS]]
    where = problems[0].get("pointer", problems[0].get("parameter")) or "the body"
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return ValidationFailed(f"{where}: {problems[0]['detail']}{more}", errors=problems)


def _why_malformed(cause: BaseException) -> str:
    """What the JSON parser could not do with a body."""
    match cause:
        case UnicodeDecodeError():
            return f"The body is not JSON: it is not {cause.encoding.upper()} at byte {cause.start}."
        case RecursionError():
            return "The body is nested too deeply."
        case ValueError():
            return "The body has a number with too many digits."
        case _:
            return "The body cannot be read as JSON."


def from_http(error: HTTPException) -> KeError:
    """The error that one of the framework's own refusals reads as."""
    if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
        return MalformedJson(_why_malformed(error.__cause__))
    kind = _HTTP_ERRORS.get(error.status_code, InvalidInput)
    if kind is NotFound:
        return NotFound("There is no such resource; /openapi.json lists what there is.")
    return kind()


def _allowed(routes: Sequence[BaseRoute], request: Request) -> set[str]:
    """The methods of all routes of a path: the framework tells those of the first one only."""
    found = [
        route for route in routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
    ]
    methods = {method for route in found for method in route.methods or ()}
    return methods | {"HEAD"} if "GET" in methods else methods


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Makes every error of the app a problem document; `routes` are those of its routers."""

    async def on_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, KeError)  # noqa: S101  (registered for it)
        if isinstance(error, Unavailable):
            log.warning("dependency unavailable", code=error.code, detail=error.message)
        elif status_of(error) is HTTPStatus.INTERNAL_SERVER_ERROR:
            log.error("unexpected error", code=error.code, detail=error.message, exc_info=error)
            return internal_error(request.url.path)
        return response(error, request.url.path)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101  (registered for it)
        return response(from_validation(error), request.url.path)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  (registered for it)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            methods = _allowed(routes, request)
            headers |= {"Allow": ", ".join(sorted(methods))} if methods else {}
        return response(from_http(error), request.url.path, headers)

    app.add_exception_handler(KeError, on_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)
