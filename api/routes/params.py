"""The parameters that several routes take."""

import json
import re
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final, get_args, get_origin
from uuid import UUID

from fastapi import Header, Path, Query, Request, Response
from fastapi.routing import APIRoute
from pydantic import AfterValidator, AwareDatetime, StringConstraints
from pydantic_core import PydanticCustomError

from api.errors import MalformedJson, ValidationFailed
from api.problems import MAX_ERRORS
from api.views import ReceiptView

MAX_WAIT_S: Final = 60
IDEMPOTENCY_KEY: Final = "Idempotency-Key"
MAX_PREFER_CHARS: Final = 1000
_ONCE: Final = "This is given more than once."
_VISIBLE: Final = re.compile(r"^[\x21-\x7e]+$")
_WAIT: Final = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d+)", re.IGNORECASE)


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("moment_range", "In UTC this is not within the years 1 to 9999") from None


def _visible(key: str) -> str:
    if not _VISIBLE.fullmatch(key):
        raise PydanticCustomError("visible_ascii", "A key has visible ASCII characters only, and no spaces")
    return key


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
JobId = Annotated[UUID, Path(description="The job")]
SourceId = Annotated[UUID, Path(description="The source")]
WaitS = Annotated[
    float,
    Query(ge=0, le=MAX_WAIT_S, allow_inf_nan=False, description="Seconds to wait for the job's end, at most"),
]
IdempotencyKey = Annotated[
    Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_visible)] | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        json_schema_extra={"pattern": _VISIBLE.pattern},
        description="Names the job: the same key and body give the same job, however often they are sent",
    ),
]
Prefer = Annotated[str | None, Header(description="`wait=30`: wait so many seconds for the end (RFC 7240)")]


def preferred_wait_s(prefer: str | None) -> float:
    """The seconds that a `Prefer: wait=` header asks for, at most `MAX_WAIT_S`; what it does not say is 0.

    A preference is never refused (RFC 7240, section 2).
    """
    found = _WAIT.search((prefer or "")[:MAX_PREFER_CHARS])
    return min(float(found[1]), float(MAX_WAIT_S)) if found else 0.0


RECEIPT_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    202: {"description": "The cleanup runs; `Location` is its receipt"},
    200: {"description": "A dry run, or the cleanup has ended", "model": ReceiptView},
}
"""The good answers of every route that `tell_receipt` answers for."""


def tell_receipt(response: Response, receipt_id: str, *, is_over: bool, wait_s: float, dry_run: bool) -> None:
    """Sets status and headers of an answer that is a receipt: 200 when it is the last word, else 202."""
    response.status_code = HTTPStatus.OK if is_over else HTTPStatus.ACCEPTED
    if dry_run:
        return
    response.headers["Location"] = f"/cleanups/{receipt_id}"
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"


async def check_names(request: Request) -> None:
    """Refuses query parameters that the route does not have, and repeats of what has one value.

    Otherwise a misspelt filter would be none, and of `cleanup=false&cleanup=true` one would count.

    Raises:
        ValidationFailed: With the parameter's name.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)  # noqa: S101  (it is a dependency of such routes only)
    is_list = {param.alias: _is_list(param.field_info.annotation) for param in route.dependant.query_params}
    problems = [
        {"parameter": name, "detail": detail}
        for name in dict.fromkeys(request.query_params)
        if (detail := _unfit(len(request.query_params.getlist(name)), is_list=is_list.get(name)))
    ]
    if len(request.headers.getlist(IDEMPOTENCY_KEY)) > 1:
        problems.append({"parameter": IDEMPOTENCY_KEY, "detail": _ONCE})
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        first = problems[0]
        raise ValidationFailed(f"{first['parameter'][:100]}: {first['detail']}{more}", errors=problems[:MAX_ERRORS])


async def check_members(request: Request) -> None:
    """Refuses a body in which an object has a member twice: of two values the last one would count, unseen.

    Raises:
        MalformedJson: With the member's name.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)  # noqa: S101  (it is a dependency of such routes only)
    if route.body_field is not None and (body := await request.body()):
        # It was read before, so it is JSON.
        json.loads(body, object_pairs_hook=_once_each)


def _once_each(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in members:
        if name in found:
            raise MalformedJson(f"The body has {name[:100]!r} more than once in one object.")
        found[name] = value
    return found


def _unfit(times: int, *, is_list: bool | None) -> str | None:
    if is_list is None:
        return "There is no such parameter here."
    return _ONCE if times > 1 and not is_list else None


def _is_list(annotation: object) -> bool:
    return any(get_origin(kind) is list for kind in (annotation, *get_args(annotation)))
