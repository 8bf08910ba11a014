"""The description of the API; `python -m api.openapi` prints it."""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api.problems import MEDIA_TYPE, Problem

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

VERSION: Final = version("ke")
DESCRIPTION: Final = """\
Every job is a Temporal workflow: what was accepted with 202 survives any crash.

- Every error is `application/problem+json` (RFC 9457); tell them apart by `type`, which is stable.
- Lists are `{data, next_cursor}`; ask with `cursor` for what follows.
- Send an `Idempotency-Key` with `POST /jobs`: then a repeat is always safe.
"""
TAGS: Final = [
    {"name": "jobs", "description": "Submit, read and steer"},
    {"name": "sources", "description": "What jobs have stored"},
    {"name": "entities", "description": "Who and what a project's sources name"},
    {"name": "dead letters", "description": "What failed for good"},
    {"name": "cleanups", "description": "Deleting what jobs made, with a receipt"},
    {"name": "search", "description": "Finding it again"},
    {"name": "reconciliations", "description": "The stores against each other, and rows against workflows"},
    {"name": "health", "description": "For whoever watches the gateway"},
]

_UNAVAILABLE: Final = (503, "Something the gateway needs does not answer; `Retry-After` says when to ask again")
_INVALID: Final = (422, "The request does not fit; `errors` says where")
_NO_JOB: Final = (404, "There is no such job")
_NO_ENTITY: Final = (404, "Nothing mentions such an entity")
_BODY: Final = (
    (400, "The body is not JSON"),
    (413, "The body is longer than 256 KB"),
    (415, "The body is not sent as application/json"),
)
_PROBLEMS: Final[dict[str, tuple[tuple[int, str], ...]]] = {
    "submitJob": (*_BODY, (409, "The sources are being cleaned up"), (410, "The key's job was deleted"), _INVALID),
    "listJobs": (_INVALID,),
    "listMergedEntities": (_INVALID,),
    "getMergedEntity": (_NO_ENTITY, _INVALID),
    "listMentioningSources": (_NO_ENTITY, _INVALID),
    "listNeighbours": (_NO_ENTITY, _INVALID),
    "getJob": (_NO_JOB, _INVALID),
    "deleteJob": (_NO_JOB, (409, "It is active, in cleanup, or something is left: `choices`"), _INVALID),
    "cancelJob": (*_BODY, _NO_JOB, (409, "It is in no state in which it can be cancelled, and why"), _INVALID),
    "pauseJob": (_NO_JOB, (409, "It is not running")),
    "resumeJob": (_NO_JOB, (409, "It is not paused")),
    "cleanUpJob": (*_BODY, _NO_JOB, (409, "It, or a job that extracts its sources, is active"), _INVALID),
    "listSources": (_NO_JOB, _INVALID),
    "listPages": (_NO_JOB, _INVALID),
    "listExtractions": (_NO_JOB, _INVALID),
    "listEntities": (_NO_JOB, _INVALID),
    "listRecords": (_NO_JOB, _INVALID),
    "findSources": (_INVALID,),
    "getSource": ((404, "There is no such source"),),
    "listDeadLetters": (_NO_JOB, _INVALID),
    "summarizeDeadLetters": (_NO_JOB, _INVALID),
    "purgeDeadLetters": (_NO_JOB, _INVALID),
    "retryDeadLetters": (
        *_BODY,
        _NO_JOB,
        (409, "It is active, cleaned, being retried, or nothing fits; `type` says which"),
        _INVALID,
    ),
    "getRetry": ((404, "There is no such retry"), _INVALID),
    "forgetSource": ((404, "There is no such source"), (409, "A job that owns or extracts it is active"), _INVALID),
    "cleanUpProject": (*_BODY, (404, "There is no such project"), (409, "Jobs of it are active"), _INVALID),
    "getCleanup": ((404, "There is no such cleanup"),),
    "listProjects": (_INVALID,),
    "search": (*_BODY, (404, "There is no job that `job_ids` names"), _INVALID),
    "reconcile": (*_BODY, (409, "One that may repair less is at work: ask again when it has ended"), _INVALID),
    "listReconciliations": (_INVALID,),
    "getReconciliation": ((404, "There is no such reconciliation, or it is forgotten"),),
    "isReady": (),
}
"""Which problems an operation answers with, beside the 503 that each can."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the problems that this API really answers with."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            _set_problems(operation)
    return document


def _set_problems(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    responses.pop("422", None)
    found = _PROBLEMS.get(operation["operationId"])
    if found is None:
        return
    for status, description in (*found, _UNAVAILABLE):
        responses[str(status)] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }


def install(app: FastAPI) -> None:
    """Makes the app answer /openapi.json with this document, built once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way


def main() -> None:
    """Prints the document, the same at every time."""
    from api.app import assemble  # noqa: PLC0415  (it imports this module)

    json.dump(assemble().openapi(), sys.stdout, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
