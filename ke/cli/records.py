"""`ke receipts`, `ke retries`, `ke sources`: what jobs leave behind."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode, wrong_usage
from ke.cli.jobs import show_cleanup
from ke.cli.options import (
    ApiUrl,
    Cursor,
    DryRun,
    Json,
    Limit,
    ReceiptId,
    RetryId,
    Timeout,
    Wait,
    is_url,
    parse_job_id,
    parse_source,
)
from ke.cli.receipts import clean_up
from ke.cli.session import call
from ke.cli.text import local_time

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient
    from ke.client_types import Page, Receipt, SourceItem

MAX_SAME_URL: Final = 10
"""Documents with one URL that are named."""
MAX_FOUND: Final = 200
"""Documents with one URL among which that of a job is looked for."""

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
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", parser=parse_job_id, help="Only those of this job.")
    ] = None,
    *,
    url_prefix: Annotated[
        str | None, typer.Option(metavar="URL", help="Only those whose URL begins so; without JOB: of all jobs.")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(metavar="STATE", help="With JOB: only those that extraction left so: done, failed, skipped, ..."),
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List the sources of a job, or those of all jobs whose URL begins so: by URL, of each the newest first."""
    if job is None and (url_prefix is None or state is not None):
        raise wrong_usage("say a job (ke jobs list names them), or for the sources of all jobs --url-prefix URL alone")

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        if job is None:
            return await ke.find_sources(url_prefix=url_prefix, limit=limit, cursor=cursor)
        return await ke.list_sources(job, state=state, url_prefix=url_prefix, limit=limit, cursor=cursor)

    nothing = _no_sources(job, is_filtered=state is not None or url_prefix is not None)
    output.emit(call(api_url, work), lambda out, page: output.source_list(out, page, nothing=nothing), as_json=as_json)


def _no_sources(job: str | None, *, is_filtered: bool) -> str:
    """What to say, and where to look, when a list of sources is empty."""
    if job is None:
        return "No stored document has such a URL: ke jobs list shows the jobs, ke jobs pages JOB all URLs of one."
    if is_filtered:
        return f"No source of the job is so: ke sources list {job} shows all it has."
    return f"The job has no sources: ke jobs get {job} says how it stands, ke jobs pages {job} what became of each URL."


@sources.command("get")
def get_source(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", parser=parse_source, help="A source id, or the URL of the document.")
    ],
    *,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Show the text of a source, as Markdown: of several with one URL the newest."""
    output.emit(call(api_url, lambda ke: _read(ke, source)), output.source_text, as_json=as_json)


async def _with_url(ke: KnowledgeExtractionClient, url: str, limit: int) -> Page[SourceItem]:
    page = await ke.find_sources(url=url, limit=limit)
    if not page["data"]:
        raise _not_found(f"no document is stored with the URL {url}")
    return page


def _not_found(what: str) -> CommandFailed:
    detail = f"{what}: ke sources list --url-prefix URL shows what there is"
    return CommandFailed(detail, ExitCode.NOT_FOUND, {"type": "urn:ke:problem:not-found", "detail": detail})


async def _read(ke: KnowledgeExtractionClient, source: str) -> Mapping[str, Any]:
    if not is_url(source):
        return await ke.get_source(source)
    page = await _with_url(ke, source, MAX_SAME_URL)
    if len(page["data"]) > 1:
        newest, *older = map(_where_from, page["data"])
        output.note(f"This is the newest document with this URL: {newest}")
        for item in older:
            output.note(f"older: {item}")
        if page["next_cursor"]:
            output.note(f"There are more: ke sources list --url-prefix {shlex.quote(page['data'][0]['url'])}")
    return await ke.get_source(page["data"][0]["id"])


async def _only_one(ke: KnowledgeExtractionClient, url: str, job: str | None) -> str:
    """The id of the document with a URL, of one job or of whichever: what cannot be undone is not guessed.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    found = (await _with_url(ke, url, MAX_FOUND))["data"]
    fitting = [item for item in found if job in {None, item["job_id"]}]
    if not fitting:
        raise _not_found(f"job {job} has stored no document with the URL {url}")
    if len(fitting) == 1:
        return fitting[0]["id"]
    named = ", ".join(f"{item['id']} of job {item['job_id']}" for item in fitting[:MAX_SAME_URL])
    more = ", ..." if len(fitting) > MAX_SAME_URL else ""
    raise wrong_usage(f"several documents have this URL: say which, by its id or with --job: {named}{more}")


def _where_from(source: Mapping[str, Any]) -> str:
    """Which of several documents with one URL this is."""
    fetched = local_time(source["fetched_at"])
    return f"{source['id']}  fetched {fetched}  project {source['project']}  job {source['job_id']}"


@sources.command("forget")
def forget_source(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            parser=parse_source,
            help="A source id, or the URL of the document, if it is the only one.",
        ),
    ],
    *,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", parser=parse_job_id, help="With a URL: that of the document of this job."),
    ] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete one source with all that was made of it: vectors, extractions, entities, records, dead letters, pages."""
    if job is not None and not is_url(source):
        raise wrong_usage("--job goes with a URL: a source's id is of one job")

    async def work(ke: KnowledgeExtractionClient) -> Receipt:
        found = await _only_one(ke, source, job) if is_url(source) else source
        return await ke.forget_source(found, dry_run=dry_run)

    clean_up(
        work,
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )
