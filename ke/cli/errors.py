"""How a command fails: exit codes that scripts can use, and one line (or one document) on stderr.

    CommandFailed            anything a user can understand: the problem document, and the exit code it gives

Everything expected becomes a `CommandFailed`; `ke.cli.main.main` prints it. A traceback means a bug of ours.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Final

from ke.cli.text import clean
from ke.cli.wording import as_commands, option_of
from ke.contracts.errors import InvalidInput, KeError


class ExitCode(IntEnum):
    """What a script may branch on."""

    OK = 0
    NOT_DONE = 1
    """The question was answered, but with no: the job failed, was cancelled or stored nothing, the time was up, ..."""
    USAGE = 2
    """The command or its input cannot be done as it is written."""
    CONFLICT = 3
    """Not in the state that it is in (409)."""
    NOT_FOUND = 4
    """There is no such thing, or no longer (404, 410), whether it is asked for or only named."""
    UNAVAILABLE = 5
    """The gateway, or something behind it, did not answer: try again."""
    INTERRUPTED = 130
    """Ctrl-C."""


EXIT_CODES_HELP: Final = (
    "Exit codes: 0 done · 1 the job failed, was cancelled or stored nothing, or what was asked for did not come true · "
    "2 wrong usage or input · "
    "3 conflict with the current state (409) · 4 not found or gone (404, 410, or named in the input) · "
    "5 the gateway or something behind it "
    "is not reachable · 130 interrupted. "
    "Errors are one line on stderr; with --json they are the API's problem document (RFC 9457)."
)


USAGE: Final = "urn:ke:problem:usage"
"""The type of what this side refuses."""
UNKNOWN_REFERENCE: Final = "urn:ke:problem:unknown-reference"
"""The type of a body that names a job, a source or a dead letter that is not there."""
MAX_ADDRESSES: Final = 20
"""Addresses that a command to be given next has; with more of them only the first ones are named."""


class CommandFailed(Exception):
    """A command could not do what it was asked, and the user is told why."""

    def __init__(self, detail: str, code: ExitCode, problem: Mapping[str, Any] | None = None) -> None:
        """Takes the one line for people, the exit code, and the API's problem document when there is one."""
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.problem = dict(problem) if problem else {"type": "about:blank", "title": code.name, "detail": detail}


def wrong_usage(detail: str) -> CommandFailed:
    """A command that is refused as it is written, before anything is sent."""
    return CommandFailed(detail, ExitCode.USAGE, {"type": USAGE, "title": "Wrong usage", "detail": detail})


def code_for(status: int, problem: Mapping[str, Any]) -> ExitCode:
    """The exit code of an answer of the gateway's: of a body that names what is not there that of a path which does."""
    return ExitCode.NOT_FOUND if problem.get("type") == UNKNOWN_REFERENCE else code_for_status(status)


def code_for_status(status: int) -> ExitCode:
    """The exit code of an HTTP error status."""
    if status == HTTPStatus.CONFLICT:
        return ExitCode.CONFLICT
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return ExitCode.NOT_FOUND
    if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return ExitCode.UNAVAILABLE
    return ExitCode.USAGE


def failure_of(error: KeError) -> CommandFailed:
    """One of our own errors as a failure of a command: input is the user's to change, all else may pass."""
    code = ExitCode.USAGE if isinstance(error, InvalidInput) else ExitCode.UNAVAILABLE
    return CommandFailed(error.message, code, problem_of(error.code, error))


def problem_of(code: str, error: Exception) -> dict[str, str]:
    """A problem document for what went wrong on this side of the API."""
    title = (type(error).__doc__ or "").strip().splitlines()[0].removesuffix(".")
    return {"type": f"urn:ke:problem:{code}", "title": title, "detail": str(error)}


def detail_of(problem: Mapping[str, Any]) -> str:
    """One line for people: the API's own detail, and every further field that is wrong, in the command line's words."""
    line = str(problem.get("detail") or problem.get("title") or "the gateway refused, without saying why")
    errors = [error for error in problem.get("errors") or [] if isinstance(error, Mapping)]
    if errors and (place := _place(errors[0])) and line.startswith(f"{place}: "):
        line = option_of(place) + line.removeprefix(place)
    if len(errors) > 1:  # all of them follow
        line = line.removesuffix(f" (and {len(errors) - 1} more)").removesuffix(".")
    further = [f"{option_of(_place(error))}: {error.get('detail')}".removeprefix(": ") for error in errors[1:]]
    said, next_step = as_commands("; ".join([line.removeprefix("the body: "), *further])), _anew(problem)
    return f"{said.removesuffix('.')}: {next_step}" if next_step else said


def _anew(problem: Mapping[str, Any]) -> str:
    """The command that submits anew what cannot be crawled again; nothing where the problem is another one."""
    for name, command in (("seeds", "crawl"), ("urls", "scrape")):
        if addresses := problem.get(name):
            more = " ..." if len(addresses) > MAX_ADDRESSES else ""
            return f"ke {command} {shlex.join(addresses[:MAX_ADDRESSES])}{more}"
    return ""


def _place(error: Mapping[str, Any]) -> str:
    return str(error.get("pointer") or error.get("parameter") or "")


def report(error: CommandFailed, *, as_json: bool) -> None:
    """Print a failure to stderr: `error: <detail>`, or the problem document as one line of JSON."""
    line = json.dumps(error.problem) if as_json else f"error: {clean(error.detail)}"
    sys.stderr.write(f"{line}\n")
