"""Options and arguments that several commands share."""

import math
from typing import Annotated

import typer

from ke.contracts.errors import InvalidInput
from ke.gateway import entity_id_of, job_id_of, project_of, retry_id_of, source_id_of


def parse_job_id(value: str) -> str:
    """The job id in `value`: a UUID, as it is or as the name of its workflow (`job-<id>`) or receipt.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return job_id_of(value)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None


def parse_source_id(value: str) -> str:
    """The source id in `value`: a UUID.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return source_id_of(value)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None


def is_url(value: str) -> bool:
    """Whether a source is named by its URL, and not by its id."""
    return value.lower().startswith(("http://", "https://"))


def parse_source(value: str) -> str:
    """The source's id or URL in `value`.

    Raises:
        typer.BadParameter: It is neither.
    """
    found = value.strip()
    if is_url(found):
        return found
    try:
        return source_id_of(found)
    except InvalidInput:
        raise typer.BadParameter(f"{value!r} is neither a source's id nor an http or https URL.") from None


def parse_entity_id(value: str) -> str:
    """The entity id in `value`: a UUID.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return entity_id_of(value)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None


def parse_retry_id(value: str) -> str:
    """The id of a retry in `value`: `retry-<job>-<number>`.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return retry_id_of(value)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None


def receipt_id(job_id: str) -> str:
    """The id of a job's cleanup receipt: `ke.contracts.naming.cleanup_id`, without loading Temporal's SDK for it."""
    return f"cleanup-{job_id}"


def parse_receipt_id(value: str) -> str:
    """The receipt's id in `value`: as it is (`cleanup-...`), or that of the job whose id it is.

    Raises:
        typer.BadParameter: It is none.
    """
    found = value.strip()
    if found.startswith(("cleanup-source-", "cleanup-project-")):
        return found
    try:
        return receipt_id(job_id_of(found))
    except InvalidInput:
        kinds = "cleanup-<job>, cleanup-source-<source> or cleanup-project-<name>-<run>"
        raise typer.BadParameter(f"{value!r} is no receipt's id ({kinds}), and no job's.") from None


def parse_project(value: str) -> str:
    """The name of a project.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        return project_of(value)
    except InvalidInput as error:
        raise typer.BadParameter(error.message) from None


def parse_seconds(value: str) -> float:
    """A number of seconds, not less than 0.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        seconds = float(value)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds >= 0):
        raise typer.BadParameter(f"{value!r} is not a number of seconds")
    return seconds


def parse_label(value: str) -> str:
    """Check that `value` is `key=value`.

    Raises:
        typer.BadParameter: It is not.
    """
    key, separator, _ = value.partition("=")
    if not key or not separator:
        raise typer.BadParameter(f"{value!r} is not key=value")
    return value


def labels_of(pairs: list[str] | None) -> dict[str, str]:
    """The labels that `key=value` pairs name; the last of a key counts."""
    split = (pair.partition("=") for pair in pairs or [])
    return {key: value for key, _, value in split}


ApiUrl = Annotated[
    str | None,
    typer.Option(
        "--api-url",
        envvar="KE_API_URL",
        metavar="URL",
        help="The gateway; else the one that KE_DATA_DIR/endpoints.json names (.ke/ by default).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on stdout.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", parser=parse_job_id, help="A job id, or job-<id>.")]
EntityId = Annotated[
    str,
    typer.Argument(metavar="ENTITY", parser=parse_entity_id, help="An entity's id, as `ke entities list` tells it."),
]
ReceiptId = Annotated[
    str, typer.Argument(metavar="RECEIPT", parser=parse_receipt_id, help="A receipt's id, or that of its job.")
]
RetryId = Annotated[
    str, typer.Argument(metavar="RETRY", parser=parse_retry_id, help="A retry's id, retry-<job>-<number>.")
]
OfUrl = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="Only that with exactly this URL, in any spelling.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")]
Cursor = Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on where the list before this one ended.")]
Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Entries, at most; the gateway gives 200 at once.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]
Timeout = Annotated[
    float | None,
    typer.Option(
        parser=parse_seconds,
        metavar="SECONDS",
        help="Stop waiting after so long (exit code 1); what was asked for goes on.",
    ),
]
