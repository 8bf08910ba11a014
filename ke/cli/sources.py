"""`ke sources`: the documents that jobs have stored."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode, wrong_usage
from ke.cli.options import (
    ApiUrl,
    Cursor,
    DryRun,
    Json,
    Limit,
    OfUrl,
    Timeout,
    Wait,
    is_url,
    parse_job_id,
    parse_source,
)
from ke.cli.receipts import clean_up
from ke.cli.session import call
from ke.cli.text import count, local_time

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient
    from ke.client_types import Page, PageItem, Receipt, Source, SourceItem

MAX_SAME_URL: Final = 10
"""Documents with one URL that are named."""
MAX_FOUND: Final = 200
"""Documents with one URL among which the only one is looked for."""
_BECAME: Final = {
    "duplicate": "is a duplicate",
    "unchanged": "is unchanged",
    "gone": "is gone",
    "fetched": "leads elsewhere",
}
"""Of a page whose document has another URL, or is of another job."""

app = typer.Typer(no_args_is_help=True, help="The documents that jobs have stored.")

OfJob = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="JOB",
        parser=parse_job_id,
        help="With a URL: the document that the page has in this job, also that of a duplicate or unchanged page.",
    ),
]


@app.command("list")
def list_sources(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", parser=parse_job_id, help="Only those of this job.")
    ] = None,
    *,
    url: OfUrl = None,
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
    """List the sources of a job, or those of all jobs with a URL, or whose URL begins so: of each the newest first."""
    if url is not None and url_prefix is not None:
        raise wrong_usage("give --url or --url-prefix: one of them says it all")
    if job is None and (state is not None or (url is None and url_prefix is None)):
        raise wrong_usage(
            "say a job (ke jobs list names them), or for the sources of all jobs --url URL or --url-prefix URL alone"
        )

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        if job is None:
            return await ke.find_sources(url=url, url_prefix=url_prefix, limit=limit, cursor=cursor)
        return await ke.list_sources(job, state=state, url=url, url_prefix=url_prefix, limit=limit, cursor=cursor)

    nothing = _no_sources(job, url, is_filtered=state is not None or url_prefix is not None)
    output.emit(call(api_url, work), lambda out, page: output.source_list(out, page, nothing=nothing), as_json=as_json)


def _no_sources(job: str | None, url: str | None, *, is_filtered: bool) -> str:
    """What to say, and where to look, when a list of sources is empty."""
    if url is not None:
        command = f"ke sources get {shlex.quote(url)} --job {job or 'JOB'}"
        return f"No document is stored with this URL: {command} shows that of a duplicate or unchanged page."
    if job is None:
        return "No stored document has such a URL: ke jobs list shows the jobs, ke jobs pages JOB all URLs of one."
    if is_filtered:
        return f"No source of the job is so: ke sources list {job} shows all it has."
    return f"The job has no sources: ke jobs get {job} says how it stands, ke jobs pages {job} what became of each URL."


@app.command("get")
def get_source(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", parser=parse_source, help="A source id, or the URL of the document.")
    ],
    *,
    job: OfJob = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Show the text of a source, as Markdown: of several with one URL the newest."""
    _check_job(source, job)
    output.emit(call(api_url, lambda ke: _read(ke, source, job)), output.source_text, as_json=as_json)


@app.command("forget")
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
    job: OfJob = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete one source with all that was made of it: vectors, extractions, entities, records, dead letters, pages.

    Other pages that have it, as duplicates or unchanged in a later job, are named: they go with it.
    """
    _check_job(source, job)

    async def work(ke: KnowledgeExtractionClient) -> Receipt:
        found = await _only_one(ke, source, job) if is_url(source) else source
        plan = await _plan(ke, found, is_needed=dry_run)
        if plan is not None:
            _tell_other_pages(plan)
        return plan if dry_run and plan is not None else await ke.forget_source(found)

    clean_up(
        work,
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )


async def _plan(ke: KnowledgeExtractionClient, source: str, *, is_needed: bool) -> Receipt | None:
    """What would go; None where a store that counts it is away, and it is only to be told: it is deleted durably."""
    from ke.client import ApiError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    try:
        return await ke.forget_source(source, dry_run=True)
    except ApiError as error:
        if is_needed or error.status != HTTPStatus.SERVICE_UNAVAILABLE:
            raise
        output.note(f"What other pages have this document cannot be told: {error.detail}")
        return None


def _check_job(source: str, job: str | None) -> None:
    if job is not None and not is_url(source):
        raise wrong_usage("--job goes with a URL: a source's id is of one job")


def _tell_other_pages(plan: Receipt) -> None:
    """Name the other pages that have a document, on stderr; nothing where none has."""
    other = plan.get("other_pages")
    if not other or not other["pages"]:
        return
    number, first = other["pages"], other["first"]
    has_it, goes = ("other page has", "goes") if number == 1 else ("other pages have", "go")
    part = f"; the first {len(first)}" if number > len(first) else ""
    output.note(f"{count(number)} {has_it} this document, and {goes} with it{part}:")
    for page in first:
        output.note(f"{page['state']}: {page['url']}  job {page['job_id']}")


async def _read(ke: KnowledgeExtractionClient, source: str, job: str | None) -> Mapping[str, Any]:
    if not is_url(source):
        return await ke.get_source(source)
    if job is not None:
        return await _of_page(ke, source, job)
    page = await _with_url(ke, source, MAX_SAME_URL)
    if len(page["data"]) > 1:
        newest, *older = map(_where_from, page["data"])
        output.note(f"This is the newest document with this URL: {newest}")
        for item in older:
            output.note(f"older: {item}")
        if page["next_cursor"]:
            output.note(f"There are more: ke sources list --url {shlex.quote(page['data'][0]['url'])}")
    return await ke.get_source(page["data"][0]["id"])


async def _only_one(ke: KnowledgeExtractionClient, url: str, job: str | None) -> str:
    """The id of the document with a URL, or of the page that has it in a job: what cannot be undone is not guessed.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    if job is not None:
        return (await _of_page(ke, url, job))["id"]
    return _single((await _with_url(ke, url, MAX_FOUND))["data"], "say which, by its id or with --job")


def _single(found: Sequence[SourceItem], what_to_say: str) -> str:
    if len(found) == 1:
        return found[0]["id"]
    named = ", ".join(f"{item['id']} of job {item['job_id']}" for item in found[:MAX_SAME_URL])
    more = ", ..." if len(found) > MAX_SAME_URL else ""
    raise wrong_usage(f"several documents have this URL: {what_to_say}: {named}{more}")


async def _with_url(ke: KnowledgeExtractionClient, url: str, limit: int) -> Page[SourceItem]:
    page = await ke.find_sources(url=url, limit=limit)
    if not page["data"]:
        raise _not_found(
            f"no document is stored with the URL {url}: with --job JOB that of a duplicate is found too, "
            "and ke sources list --url-prefix URL shows what there is"
        )
    return page


async def _of_page(ke: KnowledgeExtractionClient, url: str, job: str) -> Source:
    """The document that the page with this URL has in a job, whichever URL and job it was stored for.

    Where these are others, they are told on stderr.

    Raises:
        CommandFailed: There is no such page, or it has no document.
    """
    found = (await ke.list_pages(job, url=url, limit=1))["data"]
    page = found[0] if found else None
    if page is None or page["source_id"] is None:
        return await ke.get_source(await _without_page(ke, url, job, page))
    if not page["source_is_stored"]:
        raise _not_found(f"the document that {page['url']} had in job {job} was deleted since")
    document = await ke.get_source(page["source_id"])
    stored = f" for {document['url']}" if document["url"] != page["url"] else ""
    stored += f" by job {document['job_id']}" if document["job_id"] != job else ""
    if stored:
        became = _BECAME.get(page["state"], f"is {page['state']}")
        output.note(f"{page['url']} {became} in job {job}: its document is {document['id']}, stored{stored}")
    return document


async def _without_page(ke: KnowledgeExtractionClient, url: str, job: str, page: PageItem | None) -> str:
    """The id of a document of a job with a URL that no page with a document has: a redirect led to it, say."""
    found = (await ke.list_sources(job, url=url, limit=MAX_FOUND))["data"]
    if not found and page is not None:
        why = f" ({page['reason']})" if page["reason"] else ""
        raise _not_found(f"{page['url']} has no document in job {job}: {page['state']}{why}")
    if not found:
        raise _not_found(f"job {job} has no page with the URL {url}: ke jobs pages {job} lists those it has")
    return _single(found, "say which, by its id")


def _not_found(detail: str) -> CommandFailed:
    return CommandFailed(detail, ExitCode.NOT_FOUND, {"type": "urn:ke:problem:not-found", "detail": detail})


def _where_from(source: Mapping[str, Any]) -> str:
    """Which of several documents with one URL this is."""
    fetched = local_time(source["fetched_at"])
    return f"{source['id']}  fetched {fetched}  project {source['project']}  job {source['job_id']}"
