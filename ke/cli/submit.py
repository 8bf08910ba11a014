"""`ke crawl`, `ke scrape`, `ke extract`: new jobs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ke.cli import output
from ke.cli.errors import wrong_usage
from ke.cli.jobs import watch_to_end
from ke.cli.options import ApiUrl, Json, Timeout, labels_of
from ke.cli.record_options import Instructions, MaxTokens, Model, Schema, check_records, record_options
from ke.cli.session import call
from ke.cli.submit_options import (
    AnyHost,
    ChunkSize,
    ChunkTokens,
    Concurrency,
    Delay,
    DropParam,
    Embedder,
    Entities,
    Exclude,
    Extract,
    ForgetReplaced,
    Include,
    Key,
    Labels,
    MaxBytes,
    MaxDepth,
    MaxGoneShare,
    MaxPages,
    MaxSeconds,
    OfJob,
    OfSources,
    Project,
    ProjectOfSources,
    Reading,
    RecrawlOf,
    Rendered,
    Robots,
    Sitemaps,
    Urls,
    WaitQuietly,
    Watch,
)
from ke.cli.telling import crawled_since, newest_jobs, not_awaited
from ke.cli.wording import option_of
from ke.client_types import NOT_GIVEN

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient
    from ke.client_types import Extract as ExtractOptions

FINDER: Final = "spacy"
"""The finder of named entities that `--entities` asks for."""


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
    max_pages: MaxPages = None,
    max_depth: MaxDepth = None,
    max_bytes: MaxBytes = None,
    max_seconds: MaxSeconds = None,
    include: Include = None,
    exclude: Exclude = None,
    drop_param: DropParam = None,
    any_host: AnyHost = None,
    sitemaps: Sitemaps = None,
    robots: Robots = None,
    delay: Delay = None,
    concurrency: Concurrency = None,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    max_gone_share: MaxGoneShare = None,
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
            max_gone_share=max_gone_share,
            browser=browser,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
        )

    _accept(submit, Aftermath(watch, wait, timeout, as_json, api_url), recrawl_of)


def scrape(
    urls: Urls = None,
    *,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    max_gone_share: MaxGoneShare = None,
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
            max_gone_share=max_gone_share,
            reading=reading,
            browser=browser,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
        )

    _accept(submit, Aftermath(watch, wait, timeout, as_json, api_url), recrawl_of)


def extract(
    job: OfJob = None,
    *,
    source: OfSources = None,
    chunk_size: ChunkSize = None,
    chunk_tokens: ChunkTokens = None,
    embedder: Embedder = None,
    entities: Entities = None,
    schema: Schema = None,
    instructions: Instructions = "",
    model: Model = None,
    max_tokens: MaxTokens = None,
    project: ProjectOfSources = None,
    label: Labels = None,
    key: Key = None,
    watch: Watch = False,
    wait: WaitQuietly = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Turn what a job has stored, or single sources, into chunks, vectors and entities."""
    if job is None and not source:
        raise wrong_usage("say what to extract: JOB, for all that a job has stored, or --source SOURCE")
    if job is not None and source:
        raise wrong_usage("JOB and --source do not go together: a job stands for all that it has stored")
    asked = record_options(schema, instructions, model, max_tokens)
    spec = _extract_spec(chunk_size, chunk_tokens, embedder, entities, asked)
    check_records(spec)

    async def submit(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        accepted = await ke.submit_extract(
            source_job_id=job,
            source_ids=source or None,
            project=project,
            labels=labels_of(label),
            idempotency_key=key,
            **spec,
        )
        if job is not None and (line := await not_awaited(ke, job)):
            output.note(line)
        return accepted

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


def _accept(
    submit: Callable[[KnowledgeExtractionClient], Awaitable[Mapping[str, Any]]],
    aftermath: Aftermath,
    recrawl_of: str | None = None,
) -> None:
    """Submit a job; print it, or follow it to its end."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        known = await newest_jobs(ke) if recrawl_of is not None else []
        accepted = await submit(ke)
        if recrawl_of is not None and (line := crawled_since(known, recrawl_of, accepted["id"])):
            output.note(line)
        return accepted

    job = call(aftermath.api_url, work)
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
