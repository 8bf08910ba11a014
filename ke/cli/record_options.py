"""The options of `ke crawl`, `ke scrape` and `ke extract` about records, and `ke records`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ke.cli import output
from ke.cli.options import ApiUrl, Cursor, JobId, Json, Limit
from ke.cli.session import call

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
        typer.BadParameter: The file cannot be read, or has no JSON object in it.
    """
    given = {"instructions": instructions or None, "model": model, "max_tokens": max_tokens}
    members = {name: value for name, value in given.items() if value is not None}
    if schema is None:
        return members
    try:
        read = json.loads(schema.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"--schema {schema}: {error}") from None
    if not isinstance(read, dict):
        raise typer.BadParameter(f"--schema {schema}: a JSON Schema is an object")
    return {"schema": read, **members}


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
