"""`ke receipts`, `ke retries`, `ke sources`: what jobs leave behind."""

from typing import Annotated

import typer

from ke.cli import output
from ke.cli.jobs import show_cleanup
from ke.cli.options import (
    ApiUrl,
    Cursor,
    DryRun,
    JobId,
    Json,
    Limit,
    ReceiptId,
    RetryId,
    SourceId,
    Timeout,
    Wait,
)
from ke.cli.receipts import clean_up
from ke.cli.session import call

receipts = typer.Typer(no_args_is_help=True, help="The receipts of cleanups; they outlive what they are of.")
retries = typer.Typer(no_args_is_help=True, help="Retries of dead letters; `ke dead-letters retry` starts one.")
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
    """Delete one source with all that was made of it: vectors, extractions, entities, records, dead letters, pages."""
    clean_up(
        lambda ke: ke.forget_source(source, dry_run=dry_run),
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )
