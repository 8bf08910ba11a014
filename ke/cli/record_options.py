"""The options of `ke crawl`, `ke scrape` and `ke extract` about records, and `ke records`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ke.cli import output
from ke.cli.errors import wrong_usage
from ke.cli.options import ApiUrl, Cursor, JobId, Json, Limit
from ke.cli.session import call
from ke.cli.wording import option_of

Schema = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A JSON Schema: a language model reads records by it out of each source."),
]
Instructions = Annotated[str, typer.Option(metavar="TEXT", help="What the model is told beside the schema.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask; the operator's own by default.")]
MaxTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens that the job may spend on the model.")]

records = typer.Typer(no_args_is_help=True, help="What a language model read out of sources, by a JSON Schema.")


def record_options(schema: Path | None, instructions: str, model: str | None, max_tokens: int | None) -> dict[str, Any]:
    """The members of a job's `extract` that are about records: only what was asked for.

    Raises:
        CommandFailed: The file cannot be read, or has no JSON object in it.
    """
    given = {"instructions": instructions or None, "model": model, "max_tokens": max_tokens}
    members = {name: value for name, value in given.items() if value is not None}
    return members if schema is None else {"schema": _read_schema(schema), **members}


def check_records(spec: Mapping[str, Any]) -> None:
    """Refuses what a job's `extract` says about records that it does not ask for.

    Raises:
        CommandFailed: Something is said, and there is no schema.
    """
    said = next((name for name in ("instructions", "model", "max_tokens") if name in spec), None)
    if said is not None and "schema" not in spec:
        raise wrong_usage(f"{option_of(said)} goes with --schema only")


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = (error.strerror or type(error).__name__).lower()
        raise wrong_usage(f"--schema: {path} cannot be read: {why}") from None
    except UnicodeDecodeError as error:
        raise wrong_usage(f"--schema: {path} is not JSON: it is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise wrong_usage(f"--schema: {path} is not JSON: {error.msg} ({where})") from None
    except (ValueError, RecursionError) as error:  # a number with too many digits, or too deep
        raise wrong_usage(f"--schema: {path} cannot be read as JSON: {error}") from None
    if not isinstance(read, dict):
        raise wrong_usage(f"--schema: {path} is not a JSON Schema: that is an object")
    return read


@records.command("list")
def list_records(
    job: JobId,
    *,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List the records of a job."""
    page = call(api_url, lambda ke: ke.list_records(job, limit=limit, cursor=cursor))
    output.emit(page, output.record_list, as_json=as_json)
