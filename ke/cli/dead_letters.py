"""`ke dead-letters`: what failed for good, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ke.cli import output
from ke.cli.endings import check_retry
from ke.cli.options import ApiUrl, Cursor, JobId, Json, Limit, Timeout, Wait
from ke.cli.session import call
from ke.cli.watch import follow_retry
from ke.contracts.retries import RetryStatus

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

app = typer.Typer(no_args_is_help=True, help="Pages, sources and records that failed for good.")


class Subject(StrEnum):
    """What a dead letter is of."""

    PAGE = "page"
    SOURCE = "source"
    RECORD = "record"


OfSubject = Annotated[Subject | None, typer.Option("--subject", help="Only pages, sources, or records.")]
OfType = Annotated[
    str | None, typer.Option("--error-type", metavar="CODE", help="Only with this error, such as http-500.")
]
OfUrls = Annotated[str | None, typer.Option("--url-prefix", metavar="URL", help="Only of URLs that begin so.")]


@app.command("list")
def list_dead_letters(
    job: JobId,
    *,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List what of a job failed for good, and why."""
    page = call(
        api_url,
        lambda ke: ke.list_dead_letters(
            job, subject=subject, error_type=error_type, url_prefix=url_prefix, limit=limit, cursor=cursor
        ),
    )
    output.emit(page, output.dead_letter_list, as_json=as_json)


@app.command("summary")
def summarize_dead_letters(
    job: JobId,
    *,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Count what of a job failed for good, by error, with the first one of each."""
    summary = call(
        api_url,
        lambda ke: ke.summarize_dead_letters(job, subject=subject, error_type=error_type, url_prefix=url_prefix),
    )
    output.emit(summary, output.dead_letter_summary, as_json=as_json)


@app.command("retry")
def retry_dead_letters(
    job: JobId,
    *,
    ids: Annotated[
        list[str] | None, typer.Option("--id", metavar="ID", help="Only this dead letter; may be repeated.")
    ] = None,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Try what failed for good once more: all of it, or what fits. `ke jobs cancel` stops it."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        started = await ke.retry_dead_letters(
            job, ids=ids or None, subject=subject, error_type=error_type, url_prefix=url_prefix
        )
        return await follow_retry(ke, started["id"], timeout_s=timeout) if wait else started

    retry = call(api_url, work)
    output.emit(retry, output.retry_detail, as_json=as_json)
    if retry["status"] == RetryStatus.RUNNING:
        output.note(f"The retry is at work. To see how it stands: ke retries get {retry['id']}")
    check_retry(retry)


@app.command("purge")
def purge_dead_letters(
    job: JobId,
    *,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete a job's dead letters: all of them, or what fits."""
    purged = call(
        api_url,
        lambda ke: ke.purge_dead_letters(job, subject=subject, error_type=error_type, url_prefix=url_prefix),
    )
    output.emit(
        {"purged": purged}, lambda out, _: out.print(f"Purged {output.letters(purged)} of job {job}."), as_json=as_json
    )
