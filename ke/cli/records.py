"""`ke receipts`, `ke sources`, `ke dead-letters`: what jobs leave behind."""

from typing import Annotated

import typer

from ke.cli import output
from ke.cli.jobs import show_cleanup
from ke.cli.options import ApiUrl, Cursor, JobId, Json, Limit, parse_source_id
from ke.cli.session import call

receipts = typer.Typer(no_args_is_help=True, help="The receipts of cleanups; they outlive their jobs.")
sources = typer.Typer(no_args_is_help=True, help="The documents that jobs have stored.")
dead_letters = typer.Typer(no_args_is_help=True, help="Pages and sources that failed for good.")


@receipts.command("get")
def get_receipt(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show what a job's cleanup planned, deleted and left."""
    show_cleanup(job, as_json=as_json, api_url=api_url)


@sources.command("list")
def list_sources(
    job: JobId,
    *,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help="Only those that extraction left so: done, failed, skipped, ...")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List the sources of a job."""
    page = call(api_url, lambda ke: ke.list_sources(job, state=state, limit=limit, cursor=cursor))
    output.emit(page, output.source_list, as_json=as_json)


@sources.command("get")
def get_source(
    source: Annotated[str, typer.Argument(metavar="SOURCE", parser=parse_source_id, help="A source id.")],
    *,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Show the text of a source, as Markdown."""
    output.emit(call(api_url, lambda ke: ke.get_source(source)), output.source_text, as_json=as_json)


@dead_letters.command("list")
def list_dead_letters(
    job: JobId, *, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False, api_url: ApiUrl = None
) -> None:
    """List what of a job failed for good, and why."""
    page = call(api_url, lambda ke: ke.list_dead_letters(job, limit=limit, cursor=cursor))
    output.emit(page, output.dead_letter_list, as_json=as_json)


@dead_letters.command("purge")
def purge_dead_letters(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Delete a job's dead letters."""
    purged = call(api_url, lambda ke: ke.purge_dead_letters(job))
    output.emit(
        {"purged": purged}, lambda out, _: out.print(f"Purged {output.letters(purged)} of job {job}."), as_json=as_json
    )
