"""`ke crawl`, `ke scrape`, `ke extract`: new jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from ke.cli import output
from ke.cli.errors import wrong_usage
from ke.cli.jobs import watch_to_end
from ke.cli.options import (
    ApiUrl,
    Json,
    Timeout,
    labels_of,
    parse_job_id,
    parse_label,
    parse_project,
    parse_seconds,
    parse_source_id,
)
from ke.cli.record_options import Instructions, MaxTokens, Model, Schema, check_records, record_options
from ke.cli.session import call
from ke.cli.wording import option_of
from ke.client_types import NOT_GIVEN

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient
    from ke.client_types import Extract as ExtractOptions

FINDER: Final = "spacy"
"""The finder of named entities that `--entities` asks for."""

Urls = Annotated[
    list[str] | None,
    typer.Argument(metavar="URL...", help="http or https addresses; those of --recrawl-of when not given."),
]
Extract = Annotated[
    bool | None,
    typer.Option(
        "--extract/--no-extract",
        help="Turn the pages into chunks, vectors and entities too (the default).",
        show_default=False,
    ),
]
Reading = Annotated[
    Literal["thorough", "fast"] | None,
    typer.Option(metavar="HOW", help="How to find a page's content: thorough (the default), or fast."),
]
ChunkSize = Annotated[
    int | None, typer.Option(metavar="N", help="Sources in a batch of the extraction; all in one pass when not given.")
]
ChunkTokens = Annotated[int | None, typer.Option(metavar="N", help="Tokens in a chunk, at most (256 by default).")]
Embedder = Annotated[
    str | None, typer.Option(metavar="NAME", help="What makes the vectors: wordllama (the default), or minilm.")
]
Entities = Annotated[
    bool | None,
    typer.Option("--entities/--no-entities", help="Look for named entities (the default).", show_default=False),
]
RecrawlOf = Annotated[
    str | None,
    typer.Option(
        "--recrawl-of",
        metavar="JOB",
        parser=parse_job_id,
        help="Ask for this job's pages again, and take only what has changed since; options that are not given are "
        "that job's, labels aside.",
    ),
]
ForgetReplaced = Annotated[
    bool,
    typer.Option(
        "--forget-replaced",
        help="With --recrawl-of: in the end delete the earlier documents of pages that changed or are gone.",
    ),
]
Rendered = Annotated[
    bool | None,
    typer.Option(
        "--browser/--no-browser",
        help="Let the worker's Chromium run the pages' scripts before they are read.",
        show_default=False,
    ),
]
Project = Annotated[
    str | None,
    typer.Option(metavar="NAME", parser=parse_project, help="What the job belongs to (default, when not given)."),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", parser=parse_label, help="A label of yours; may be repeated."),
]
Key = Annotated[
    str | None, typer.Option("--key", metavar="KEY", help="Idempotency key: the same key gives the same job.")
]
Watch = Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")]
WaitQuietly = Annotated[bool, typer.Option("--wait", help="Wait for the end, without progress.")]


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What a command does once its job is accepted."""

    watch: bool
    wait: bool
    timeout_s: float | None
    as_json: bool
    api_url: str | None


def crawl(
    urls: Urls = None,
    *,
    max_pages: Annotated[int | None, typer.Option(metavar="N", help="Pages, at most (500 by default).")] = None,
    max_depth: Annotated[int | None, typer.Option(metavar="N", help="Links from a seed, at most (5).")] = None,
    max_bytes: Annotated[int | None, typer.Option(metavar="N", help="Bytes of all pages, at most.")] = None,
    max_seconds: Annotated[int | None, typer.Option(metavar="N", help="Seconds of fetching, at most.")] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="REGEX", help="Follow only URLs that match one of these.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="REGEX", help="Never follow URLs that match.")] = None,
    drop_param: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave this query parameter out of every URL; * for any characters (utm_*)."),
    ] = None,
    any_host: Annotated[
        bool | None,
        typer.Option(
            "--any-host/--same-host",
            help="Follow links to other hosts than those of the seeds too, or do not (the default).",
            show_default=False,
        ),
    ] = None,
    sitemaps: Annotated[
        bool | None,
        typer.Option("--sitemaps/--no-sitemaps", help="Read the sites' sitemaps (the default).", show_default=False),
    ] = None,
    robots: Annotated[
        bool | None,
        typer.Option(
            "--robots/--no-robots",
            help="Obey robots.txt (the default); ignore it only on sites that are yours.",
            show_default=False,
        ),
    ] = None,
    delay: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", parser=parse_seconds, help="Between two requests to one host (0 by default)."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(metavar="N", help="Requests to one host at once (8).")] = None,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    reading: Reading = None,
    browser: Rendered = None,
    extract: Extract = None,
    chunk_size: ChunkSize = None,
    chunk_tokens: ChunkTokens = None,
    embedder: Embedder = None,
    entities: Entities = None,
    schema: Schema = None,
    instructions: Instructions = "",
    model: Model = None,
    max_tokens: MaxTokens = None,
    project: Project = None,
    label: Labels = None,
    key: Key = None,
    watch: Watch = False,
    wait: WaitQuietly = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Fetch a site from these seeds and its sitemaps, within limits, and extract what it says."""
    limits = _given(max_pages=max_pages, max_depth=max_depth, max_bytes=max_bytes, max_seconds=max_seconds)
    scope = _given(
        include=include or None,
        exclude=exclude or None,
        drop_params=drop_param or None,
        same_host=None if any_host is None else not any_host,
        sitemaps=sitemaps,
        robots=robots,
    )
    rate = _given(concurrency=concurrency, delay_s=delay)
    asked = record_options(schema, instructions, model, max_tokens)
    spec = _extract_spec(chunk_size, chunk_tokens, embedder, entities, asked)
    wanted = _spec_of_pages(spec, extract, is_recrawl=recrawl_of is not None)

    def submit(ke: KnowledgeExtractionClient) -> Awaitable[Mapping[str, Any]]:
        return ke.submit_crawl(
            urls,
            limits=limits or None,
            scope=scope or None,
            rate=rate or None,
            reading=reading,
            extract=wanted,
            recrawl_of=recrawl_of,
            forget_replaced=forget_replaced,
            browser=browser,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
        )

    _accept(submit, Aftermath(watch, wait, timeout, as_json, api_url))


def scrape(
    urls: Urls = None,
    *,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    reading: Reading = None,
    browser: Rendered = None,
    extract: Extract = None,
    chunk_size: ChunkSize = None,
    chunk_tokens: ChunkTokens = None,
    embedder: Embedder = None,
    entities: Entities = None,
    schema: Schema = None,
    instructions: Instructions = "",
    model: Model = None,
    max_tokens: MaxTokens = None,
    project: Project = None,
    label: Labels = None,
    key: Key = None,
    watch: Watch = False,
    wait: WaitQuietly = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Fetch exactly these pages, and extract what they say."""
    asked = record_options(schema, instructions, model, max_tokens)
    spec = _extract_spec(chunk_size, chunk_tokens, embedder, entities, asked)
    wanted = _spec_of_pages(spec, extract, is_recrawl=recrawl_of is not None)

    def submit(ke: KnowledgeExtractionClient) -> Awaitable[Mapping[str, Any]]:
        return ke.submit_scrape(
            urls,
            extract=wanted,
            recrawl_of=recrawl_of,
            forget_replaced=forget_replaced,
            reading=reading,
            browser=browser,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
        )

    _accept(submit, Aftermath(watch, wait, timeout, as_json, api_url))


def extract(
    *,
    job: Annotated[
        str | None,
        typer.Option("--job", metavar="JOB", parser=parse_job_id, help="Extract all that this job has stored; or"),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option("--source", metavar="ID", parser=parse_source_id, help="exactly this source; may be repeated."),
    ] = None,
    chunk_size: ChunkSize = None,
    chunk_tokens: ChunkTokens = None,
    embedder: Embedder = None,
    entities: Entities = None,
    schema: Schema = None,
    instructions: Instructions = "",
    model: Model = None,
    max_tokens: MaxTokens = None,
    project: Project = None,
    label: Labels = None,
    key: Key = None,
    watch: Watch = False,
    wait: WaitQuietly = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Turn stored sources into chunks, vectors and entities."""
    if (job is None) == (not source):
        raise wrong_usage("say either --job or --source, and not both")
    asked = record_options(schema, instructions, model, max_tokens)
    spec = _extract_spec(chunk_size, chunk_tokens, embedder, entities, asked)
    check_records(spec)

    def submit(ke: KnowledgeExtractionClient) -> Awaitable[Mapping[str, Any]]:
        return ke.submit_extract(
            source_job_id=job,
            source_ids=source or None,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
            **spec,
        )

    _accept(submit, Aftermath(watch, wait, timeout, as_json, api_url))


def _extract_spec(
    chunk_size: int | None, chunk_tokens: int | None, embedder: str | None, entities: bool | None, asked: dict[str, Any]
) -> dict[str, Any]:
    """The `extract` member of a job: only what was asked for, so that the gateway's defaults hold for the rest."""
    spec = _given(chunk_size=chunk_size, chunk_tokens=chunk_tokens, embedder=embedder) | asked
    return spec if entities is None else spec | {"entities": FINDER if entities else None}


def _spec_of_pages(spec: dict[str, Any], extract: bool | None, *, is_recrawl: bool) -> ExtractOptions:
    """The same where there may be no extraction at all, None, or the earlier job's, `NOT_GIVEN`.

    Raises:
        CommandFailed: None is wanted, and yet something is said about it; or about records, without a schema.
    """
    if extract is None and is_recrawl and not spec:
        return NOT_GIVEN
    if extract is not False:
        if not is_recrawl:
            check_records(spec)
        return spec
    if spec:
        option = option_of(next(iter(spec)))
        raise wrong_usage(f"--no-extract and {option} do not go together: without extraction {option} has no effect")
    return None


def _given(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}


def _accept(submit: Callable[[KnowledgeExtractionClient], Awaitable[Mapping[str, Any]]], aftermath: Aftermath) -> None:
    """Submit a job; print it, or follow it to its end."""
    job = call(aftermath.api_url, submit)
    if aftermath.watch or aftermath.wait:
        if not aftermath.as_json:
            output.note(f"job {job['id']}")
        watch_to_end(
            job["id"],
            quiet=aftermath.as_json or not aftermath.watch,
            timeout_s=aftermath.timeout_s,
            as_json=aftermath.as_json,
            api_url=aftermath.api_url,
        )
        return
    output.emit(job, output.job_detail, as_json=aftermath.as_json)
    output.note(f"To follow it: ke jobs watch {job['id']}")
