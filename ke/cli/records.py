"""`ke receipts`, `ke retries`, `ke sources`, `ke projects`: what jobs leave behind."""

from typing import Annotated

import typer

from ke.cli import output
from ke.cli.jobs import show_cleanup
from ke.cli.options import ApiUrl, Cursor, DryRun, JobId, Json, Limit, ReceiptId, RetryId, SourceId, Timeout, Wait
from ke.cli.receipts import clean_up
from ke.cli.session import call

receipts = typer.Typer(no_args_is_help=True, help="The receipts of cleanups; they outlive what they are of.")
retries = typer.Typer(no_args_is_help=True, help="Retries of dead letters; `ke dead-letters retry` starts one.")
projects = typer.Typer(no_args_is_help=True, help="What the jobs of a project made, together.")
sources = typer.Typer(no_args_is_help=True, help="The documents that jobs have stored.")


@receipts.command("get")
def get_receipt(receipt: ReceiptId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show what a cleanup planned, deleted and left."""
    show_cleanup(receipt, as_json=as_json, api_url=api_url)


@retries.command("get")
def get_retry(retry: RetryId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show how a retry stands: what it took up, what succeeded, what failed again."""
    output.emit(call(api_url, lambda ke: ke.get_retry(retry)), output.retry_detail, as_json=as_json)


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
def get_source(source: SourceId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show the text of a source, as Markdown."""
    output.emit(call(api_url, lambda ke: ke.get_source(source)), output.source_text, as_json=as_json)


@sources.command("forget")
def forget_source(
    source: SourceId,
    *,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete one source with all that was made of it: vectors, extractions, entities, its place in the frontier."""
    clean_up(
        lambda ke: ke.forget_source(source, dry_run=dry_run),
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )


@projects.command("cleanup")
def clean_up_project(
    project: Annotated[str, typer.Argument(metavar="NAME", help="The project's name.")],
    *,
    dry_run: DryRun = False,
    delete_record: Annotated[bool, typer.Option("--delete-record", help="Delete the jobs' records too.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete all that the ended jobs of a project made; refused while it has active jobs."""
    clean_up(
        lambda ke: ke.cleanup_project(project, dry_run=dry_run, delete_record=delete_record),
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )
