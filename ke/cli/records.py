"""`ke receipts`, `ke retries`: what cleanups and retries of dead letters have done."""

from __future__ import annotations

import typer

from ke.cli import output
from ke.cli.jobs import show_cleanup
from ke.cli.options import ApiUrl, Json, ReceiptId, RetryId
from ke.cli.session import call

receipts = typer.Typer(no_args_is_help=True, help="The receipts of cleanups; they outlive what they are of.")
retries = typer.Typer(no_args_is_help=True, help="Retries of dead letters; `ke dead-letters retry` starts one.")


@receipts.command("get")
def get_receipt(receipt: ReceiptId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show what a cleanup planned, deleted and left."""
    show_cleanup(receipt, as_json=as_json, api_url=api_url)


@retries.command("get")
def get_retry(retry: RetryId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show how a retry stands: what it took up, what succeeded, what failed again."""
    output.emit(call(api_url, lambda ke: ke.get_retry(retry)), output.retry_detail, as_json=as_json)
