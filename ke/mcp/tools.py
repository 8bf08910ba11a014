"""The tools: thin, typed and described for agents; the gateway decides everything."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from mcp_types import CallToolResult, ToolAnnotations
from pydantic import Field

from ke.client import KnowledgeExtractionClient
from ke.client_types import NOT_GIVEN
from ke.client_types import Extract as ExtractOptions
from ke.gateway import entity_id_of, job_id_of, retry_id_of, source_id_of
from ke.mcp.calls import answer
from ke.mcp.results import (
    DeadLettersAnswer,
    DeletionAnswer,
    EntitiesAnswer,
    JobAnswer,
    JobsAnswer,
    LetterSummaryAnswer,
    ReceiptAnswer,
    RetryAnswer,
    SearchAnswer,
)

CLEANUP_WAIT_S: Final = 30.0
"""Seconds a tool waits for a cleanup: most are done by then, and clients give up at 60 s."""

JobId = Annotated[str, Field(description="The job's id, as `crawl`, `scrape` and `list_jobs` give it")]
Project = Annotated[str | None, Field(description="What the job belongs to; `default` by default")]
Extract = Annotated[
    bool | None, Field(description="Also turn the pages into searchable chunks, vectors and entities: true by default")
]
RecrawlOf = Annotated[
    str | None,
    Field(
        description="A job that has ended: take only what has changed since, and tell what is gone. What is not given "
        "is as that job had it: addresses, limits, scope, extraction, project. Where a limit stopped a crawl "
        "(`limits_reached`), this with a greater limit goes on"
    ),
]
ForgetReplaced = Annotated[
    bool,
    Field(
        description="With `recrawl_of`: once the job has ended well, delete the earlier documents of pages that have "
        "changed or are gone, also of those that an earlier re-crawl of the chain had found so; cannot be undone"
    ),
]
MaxGoneShare = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="With `forget_replaced`: how much of what is found, there or gone, may be gone for its documents "
        "to be deleted (0.5 when not given); where more is, `get_job` says that forgetting is `held`",
    ),
]
Browser = Annotated[
    bool | None,
    Field(description="Let a browser run the pages' scripts first: slower, for sites that are empty without"),
]
Patterns = list[str] | None
Reading = Annotated[
    Literal["thorough", "fast"] | None,
    Field(description="How a page's content is found: well, as by default, or fast, less well on news and blogs"),
]
InProject = Annotated[str | None, Field(description="Only this project; without it: all of them")]
Cursor = Annotated[str | None, Field(description="`next_cursor` of the call before, for what follows it")]
Key = Annotated[str | None, Field(description="The same key gives the same job, so that a repeat is safe")]

OfSubject = Annotated[
    Literal["page", "source", "record"] | None,
    Field(description="Only pages, only sources, or only records of sources"),
]
OfType = Annotated[str | None, Field(description="Only with this error code, such as `http-500`")]
OfUrls = Annotated[str | None, Field(description="Only of URLs that begin so")]

READS: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
FETCHES: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
STOPS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
CLEANS: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)


async def crawl(
    urls: Annotated[
        list[str] | None,
        Field(min_length=1, description="Where to begin: http or https addresses; required without `recrawl_of`"),
    ] = None,
    max_pages: Annotated[int | None, Field(ge=1, description="Pages, at most; 500 by default")] = None,
    max_depth: Annotated[int | None, Field(ge=0, description="Links from a first page, at most; 5 by default")] = None,
    *,
    include: Annotated[
        Patterns, Field(description="Regular expressions: follow only addresses that match one, anywhere in them")
    ] = None,
    exclude: Annotated[Patterns, Field(description="Regular expressions: follow no address that matches one")] = None,
    drop_params: Annotated[
        Patterns,
        Field(description="Query parameters to leave out of every address, `*` for any characters, such as `utm_*`"),
    ] = None,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    max_gone_share: MaxGoneShare = None,
    browser: Browser = None,
    reading: Reading = None,
    extract: Extract = None,
    project: Project = None,
    idempotency_key: Key = None,
) -> Annotated[CallToolResult, JobAnswer]:
    """Start a job that fetches a web site from these addresses and its sitemaps, obeying robots.txt.

    Returns the job at once, as `queued`; follow it with `get_job`, and ask what it found with `search`.
    """
    limits = {name: value for name, value in (("max_pages", max_pages), ("max_depth", max_depth)) if value is not None}
    given = {"include": include, "exclude": exclude, "drop_params": drop_params}
    scope = {name: value for name, value in given.items() if value is not None}
    return await answer(
        lambda ke: ke.submit_crawl(
            urls,
            limits=limits or None,
            scope=scope or None,
            browser=browser,
            reading=reading,
            extract=_extract(asked=extract, is_recrawl=recrawl_of is not None),
            recrawl_of=job_id_of(recrawl_of) if recrawl_of else None,
            forget_replaced=forget_replaced,
            max_gone_share=max_gone_share,
            project=project,
            idempotency_key=idempotency_key,
        )
    )


async def scrape(
    urls: Annotated[
        list[str] | None,
        Field(min_length=1, max_length=1000, description="Exactly these pages; required without `recrawl_of`"),
    ] = None,
    *,
    recrawl_of: RecrawlOf = None,
    forget_replaced: ForgetReplaced = False,
    max_gone_share: MaxGoneShare = None,
    browser: Browser = None,
    reading: Reading = None,
    extract: Extract = None,
    project: Project = None,
    idempotency_key: Key = None,
) -> Annotated[CallToolResult, JobAnswer]:
    """Start a job that fetches exactly these pages, following no link.

    Returns the job at once, as `queued`; follow it with `get_job`, and ask what it found with `search`.
    """
    return await answer(
        lambda ke: ke.submit_scrape(
            urls,
            browser=browser,
            reading=reading,
            extract=_extract(asked=extract, is_recrawl=recrawl_of is not None),
            recrawl_of=job_id_of(recrawl_of) if recrawl_of else None,
            forget_replaced=forget_replaced,
            max_gone_share=max_gone_share,
            project=project,
            idempotency_key=idempotency_key,
        )
    )


def _extract(*, asked: bool | None, is_recrawl: bool) -> ExtractOptions:
    """What a job is to extract; of a re-crawl, where nothing is said, what the earlier job did."""
    if asked is None and is_recrawl:
        return NOT_GIVEN
    return None if asked is False else {}


async def get_job(
    job_id: JobId,
    wait_s: Annotated[float, Field(ge=0, le=45, description="Wait so many seconds for its end")] = 0,
) -> Annotated[CallToolResult, JobAnswer]:
    """Read one job: its status, its counters, and, once it has ended, its result."""
    return await answer(lambda ke: ke.get_job(job_id_of(job_id), wait_s=wait_s))


async def list_jobs(
    status: Annotated[
        list[
            Literal[
                "queued",
                "running",
                "paused",
                "cancelling",
                "cancelled",
                "completed",
                "completed_with_errors",
                "failed",
            ]
        ]
        | None,
        Field(description="Only jobs in one of these states"),
    ] = None,
    kind: Annotated[Literal["scrape", "crawl", "extract"] | None, Field(description="Only jobs of this kind")] = None,
    project: Annotated[str | None, Field(description="Only jobs of this project")] = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Jobs, at most")] = 20,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, JobsAnswer]:
    """List jobs, newest first."""
    states = list(status) if status else None
    return await answer(lambda ke: ke.list_jobs(kind=kind, status=states, project=project, limit=limit, cursor=cursor))


async def search(
    query: Annotated[str, Field(min_length=1, description="A question, or what a passage is about")],
    mode: Annotated[
        Literal["dense", "text", "hybrid"], Field(description="By meaning, by words, or by both, which is best")
    ] = "hybrid",
    job_ids: Annotated[list[str] | None, Field(description="Only what these jobs extracted")] = None,
    project: InProject = None,
    url_prefix: Annotated[str | None, Field(description="Only pages whose URL begins so")] = None,
    language: Annotated[str | None, Field(description="Only pages in this language, such as `en`")] = None,
    date_from: Annotated[str | None, Field(description="Only pages published on 2026-03-31, say, or later")] = None,
    date_to: Annotated[str | None, Field(description="Only pages published on that day or before")] = None,
    entity: Annotated[str | None, Field(description="Only passages that mention this person, place, ...")] = None,
    entity_label: Annotated[str | None, Field(description="What that is: PERSON, ORG, GPE, ...")] = None,
    limit: Annotated[int, Field(ge=1, le=100, description="Passages, at most")] = 10,
    *,
    distinct_sources: Annotated[bool, Field(description="One passage of each page; false: all that fit")] = True,
    embedder: Annotated[str | None, Field(description="Whose vectors are asked")] = None,
    rerank: Annotated[str | None, Field(description="`minilm`: a second, slower look at the best")] = None,
) -> Annotated[CallToolResult, SearchAnswer]:
    """Find the passages, among all that jobs have extracted, that answer a question.

    One page that several projects have stored comes once for each: a hit names its `project`.
    """

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        ids = [job_id_of(job_id) for job_id in job_ids] if job_ids else None
        return await ke.search_answer(
            query,
            mode=mode,
            job_ids=ids,
            limit=limit,
            project=project,
            url_prefix=url_prefix,
            language=language,
            date_from=date_from,
            date_to=date_to,
            entity=entity,
            entity_label=entity_label,
            distinct_sources=distinct_sources,
            embedder=embedder,
            rerank=rerank,
        )

    return await answer(work)


async def list_entities(
    name: Annotated[str | None, Field(min_length=1, description="The beginning of a name, in any case")] = None,
    label: Annotated[
        str | None, Field(description="Only this kind: PERSON, ORG, DATE, ...; all: all; without it: names, no values")
    ] = None,
    project: InProject = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Entities, at most")] = 20,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, EntitiesAnswer]:
    """List the people, organisations, places and so on that documents name, most mentioned first.

    An entity is one of a project: without `project` it comes once for each that names it.
    """
    return await answer(
        lambda ke: ke.list_merged_entities(project=project, label=label, q=name, limit=limit, cursor=cursor)
    )


async def entity_neighbours(
    entity_id: Annotated[str, Field(description="An id that `list_entities` gave")],
    label: Annotated[
        str | None, Field(description="Only neighbours of this kind; all: all; without it: names, no values")
    ] = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Neighbours, at most")] = 20,
) -> Annotated[CallToolResult, EntitiesAnswer]:
    """List what is named in the same passages as an entity, that with the most common passages first."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        return {"data": await ke.list_neighbours(entity_id_of(entity_id), label=label, limit=limit)}

    return await answer(work)


async def cancel_job(
    job_id: JobId,
    reason: Annotated[str | None, Field(description="Why; it is kept in the job's receipt")] = None,
    *,
    cleanup: Annotated[
        bool, Field(description="Also delete everything the job made, once it stands still: cannot be undone")
    ] = False,
) -> Annotated[CallToolResult, JobAnswer]:
    """Cancel a job that is queued, running or paused, or the retry of an ended one. It cannot be resumed.

    The job becomes `cancelling`, fetches nothing more, and ends as `cancelled` within seconds: read it with `get_job`.
    What it made so far stays, unless `cleanup` is set. A job that has ended and is not being retried, or that is being
    cancelled already, cannot be cancelled: the error (409) says which of these it is.
    """
    return await answer(lambda ke: ke.cancel_job(job_id_of(job_id), reason=reason, cleanup=cleanup))


async def list_dead_letters(
    job_id: JobId,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Dead letters, at most")] = 50,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, DeadLettersAnswer]:
    """List the pages and sources of a job that failed for good, and why; what a retry has in hand is not listed."""
    return await answer(
        lambda ke: ke.list_dead_letters(
            job_id_of(job_id),
            subject=subject,
            error_type=error_type,
            url_prefix=url_prefix,
            limit=limit,
            cursor=cursor,
        )
    )


async def summarize_dead_letters(
    job_id: JobId, subject: OfSubject = None, error_type: OfType = None, url_prefix: OfUrls = None
) -> Annotated[CallToolResult, LetterSummaryAnswer]:
    """Count what of a job failed for good by error, with the first of each; `list_dead_letters` lists them."""
    return await answer(
        lambda ke: ke.summarize_dead_letters(
            job_id_of(job_id), subject=subject, error_type=error_type, url_prefix=url_prefix
        )
    )


async def retry_dead_letters(
    job_id: JobId,
    ids: Annotated[list[str] | None, Field(description="Only these dead letters; all by default")] = None,
    subject: OfSubject = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
) -> Annotated[CallToolResult, RetryAnswer]:
    """Try once more what failed for good in a job that has ended: pages, with the links on them, and extraction.

    Returns at once: follow it with `get_retry`; `cancel_job` stops it. While it is at work the job's `retry_id` names
    it. The job's status stays what it is; its counters grow, and dead letters that succeed are gone.
    """
    return await answer(
        lambda ke: ke.retry_dead_letters(
            job_id_of(job_id), ids=ids or None, subject=subject, error_type=error_type, url_prefix=url_prefix
        )
    )


async def get_retry(
    retry_id: Annotated[str, Field(description="The retry's id, as `retry_dead_letters` gives it")],
) -> Annotated[CallToolResult, RetryAnswer]:
    """Read a retry of dead letters: its status, how many it took up, how many succeeded or failed again."""
    return await answer(lambda ke: ke.get_retry(retry_id_of(retry_id)))


async def cleanup_job(
    job_id: JobId,
    *,
    dry_run: Annotated[bool, Field(description="Only count what would be deleted")] = False,
    delete_record: Annotated[bool, Field(description="Delete the job's record too, after everything else")] = False,
    wait: Annotated[bool, Field(description="Wait for the end, up to 30 s")] = True,
) -> Annotated[CallToolResult, ReceiptAnswer]:
    """Delete everything that an ended job made: vectors, sources, extractions, entities, dead letters.

    Cannot be undone; `dry_run` shows first what would go, and in `relying` which pages of later re-crawls lose their
    document by it, and how many `extractions` of which other jobs go too. The receipt says what was really deleted and
    what remains; calling again gives the same receipt. A job that goes on must be cancelled first: the error (409)
    says so.
    """
    wait_s = CLEANUP_WAIT_S if wait and not dry_run else 0
    return await answer(
        lambda ke: ke.cleanup_job(job_id_of(job_id), dry_run=dry_run, delete_record=delete_record, wait_s=wait_s)
    )


async def forget_source(
    source_id: Annotated[str, Field(description="The source's id, as `search` gives it")],
    *,
    dry_run: Annotated[bool, Field(description="Only count what would be deleted")] = False,
    wait: Annotated[bool, Field(description="Wait for the end, up to 30 s")] = True,
) -> Annotated[CallToolResult, ReceiptAnswer]:
    """Delete one stored page with everything that was made of it, so that no search finds it any more.

    Cannot be undone; `dry_run` shows first what would go, and in `other_pages` which pages have the same document and
    lose it too, and in `relying` how many `extractions` of which other jobs go too. The receipt says what was really
    deleted and what remains; calling again gives the same receipt. Refused (409) while its job, or one that reads that
    job's pages, is active.
    """
    wait_s = CLEANUP_WAIT_S if wait and not dry_run else 0
    return await answer(lambda ke: ke.forget_source(source_id_of(source_id), dry_run=dry_run, wait_s=wait_s))


async def cleanup_project(
    project: Annotated[str, Field(description="The project's name")],
    *,
    dry_run: Annotated[bool, Field(description="Only count what would be deleted")] = False,
    delete_record: Annotated[bool, Field(description="Delete the jobs' records too, after everything else")] = False,
    wait: Annotated[bool, Field(description="Wait for the end, up to 30 s")] = True,
) -> Annotated[CallToolResult, ReceiptAnswer]:
    """Delete everything that the ended jobs of a project made.

    Cannot be undone; `dry_run` shows first what would go, and in `relying` what jobs of other projects lose by it, and
    how many of their `extractions` go too. The receipt sums what was really deleted; a job that could
    not be cleaned is named in `error` with the reason. Refused (409) while the project has active jobs.
    """
    wait_s = CLEANUP_WAIT_S if wait and not dry_run else 0
    return await answer(
        lambda ke: ke.cleanup_project(project, dry_run=dry_run, delete_record=delete_record, wait_s=wait_s)
    )


async def delete_job_record(
    job_id: JobId,
    *,
    cleanup: Annotated[
        bool | None,
        Field(
            description="true: first delete everything the job made; false: keep that, and delete only the record; "
            "not given: refuse when there is something left"
        ),
    ] = None,
) -> Annotated[CallToolResult, DeletionAnswer]:
    """Delete the record of an ended job. Cannot be undone.

    A job that still has artifacts needs a decision in `cleanup`; without one the error (409) names the choices.
    """

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        found = job_id_of(job_id)
        receipt = await ke.delete_job_record(found, cleanup=cleanup)
        return {"job_id": found, "deleted": receipt is None, "receipt": receipt}

    return await answer(work)
