"""The shapes in which the gateway answers, as types for Python's callers, and what they give it."""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, Generic, Literal, NotRequired, TypeAlias, TypedDict, TypeVar

ItemT = TypeVar("ItemT")


class NotGiven(Enum):
    """What stands for an argument that is not given, where None is a value of its own."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN
Extract: TypeAlias = Mapping[str, Any] | Literal[NotGiven.NOT_GIVEN] | None
"""What to extract from pages: None means nothing."""


class Page(TypedDict, Generic[ItemT]):
    """A part of a list."""

    data: list[ItemT]
    next_cursor: str | None


class CountersView(TypedDict):
    """What a job has done; each number is of things, `bytes` of response bodies."""

    pages_fetched: int
    pages_failed: int
    pages_skipped: int
    pages_duplicate: int
    pages_unchanged: int
    pages_gone: int
    sources: int
    sources_extracted: int
    sources_skipped: int
    extractions: int
    entities: int
    entity_sources: int
    entity_sources_skipped: int
    vectors: int
    dead_letters: int
    bytes: int
    records: int
    records_skipped: int
    tokens_in: int
    tokens_out: int
    cost_micros: int
    """In millionths of the currency of the operator's prices."""
    elapsed_s: float


class CancellationView(TypedDict):
    """The proof that a cancelled job stands still."""

    requested_at: str
    quiescent_at: str
    latency_s: float
    activities_drained: int
    activities_timed_out: int
    timed_out: list[str]
    reason: str


class ResultView(CountersView):
    """What a job did, once it has ended."""

    limits_reached: NotRequired[list[str] | None]
    """The limits that left something undone, as `max_pages`, or `max_tokens`."""
    pages_new: NotRequired[int | None]
    """Of a re-crawl: fetched pages and duplicates that had no document in the earlier job."""
    pages_changed: NotRequired[int | None]
    """Of a re-crawl: those that had another one."""
    cancellation: NotRequired[CancellationView | None]


class JobErrorView(TypedDict):
    """Why a job failed."""

    type: str
    message: str


class Job(TypedDict):
    """A job as it reads."""

    id: str
    kind: Literal["scrape", "crawl", "extract"]
    status: str
    artifacts: str
    project: str
    labels: dict[str, str]
    params: dict[str, Any]
    progress: CountersView
    result: ResultView | None
    error: JobErrorView | None
    earlier_pages: int | None
    """Of a re-crawl, once it has begun: URLs of the earlier job that are in its scope and asked for again."""
    previous_stored: NotRequired[int | None]
    """Of a re-crawl that has ended: pages that changed or are gone whose earlier document is stored, and which no page
    of the job has now; not in lists."""
    forgetting: NotRequired[Literal["running", "ended", "held"] | None]
    """Where there are such and `forget_replaced` was asked for: whether their deletion is at work, or held, as too many
    pages are gone; not in lists."""
    retry_id: str | None
    """The retry of dead letters that is at work, if one is."""
    waiting_for: NotRequired[str | None]
    """Why it does not move; not in lists."""
    workflow_id: str
    run_id: str | None
    created_at: str
    started_at: str | None
    cancel_requested_at: str | None
    completed_at: str | None


class Project(TypedDict):
    """A name under which jobs were submitted."""

    name: str
    jobs: int


class StoreCountsView(TypedDict):
    """A number for each store."""

    vectors: int
    sources: int
    extractions: int
    entities: int
    dead_letters: int
    pages: int
    records: int


class ExtractingJob(TypedDict):
    """A job that has extracted another one's sources."""

    job_id: str
    project: str


class RelyingView(TypedDict):
    """What other jobs have of the documents that go with a cleanup."""

    pages: int
    """Pages of re-crawls that found them unchanged, whose document it is; of `jobs`."""
    jobs: int
    job_ids: list[str]
    """The first ten."""
    extractions: int
    """What `extract_jobs` have extracted from them, which goes too."""
    extract_jobs: int
    extracted_by: list[ExtractingJob]
    """The first ten."""


class OtherPage(TypedDict):
    """A page whose document was stored for another one."""

    url: str
    job_id: str
    state: str


class OtherPages(TypedDict):
    """The pages whose document was stored for another one."""

    pages: int
    first: list[OtherPage]
    """The first twenty, those of the newest job first."""


class Receipt(TypedDict):
    """What a cleanup has really deleted, and what is left. A dry run has the status `planned`."""

    id: str
    scope: Literal["job", "source", "project"]
    job_id: str | None
    """The job; of a source the one that owns it; None of a project."""
    source_id: str | None
    project: str | None
    jobs: int | None
    """Of a project: how many jobs were taken up."""
    status: Literal["planned", "running", "cleaned", "failed"]
    planned: StoreCountsView
    deleted: StoreCountsView
    remaining: StoreCountsView
    relying: RelyingView
    other_pages: NotRequired[OtherPages | None]
    """Of the dry run for one source: the pages that have it now, beside the one that it was stored for."""
    started_at: str | None
    completed_at: str | None
    delete_record: bool
    error: str | None


class PageItem(TypedDict):
    """A URL that a job has seen."""

    id: str
    url: str
    depth: int
    state: str
    reason: str | None
    attempts: int
    http_status: int | None
    final_url: str | None
    canonical_url: str | None
    source_id: str | None
    source_is_stored: bool | None
    """Whether that is there; False: it was deleted since."""
    previous_source_id: str | None
    """Of a re-crawl, where the page has changed or is gone: the document that it had."""
    previous_is_stored: bool | None
    """Whether that is still there; False: it was forgotten."""
    content_type: str | None
    bytes: int | None
    fetched_at: str | None
    found_on: str | None
    """The first page that was found to link to it; None where a seed or a sitemap named it."""


class SourceItem(TypedDict):
    """A stored document, without its text."""

    id: str
    job_id: str
    """The job that stored it."""
    project: str
    """That job's."""
    url: str
    title: str | None
    content_type: str
    content_hash: str
    bytes: int
    fetched_at: str
    extraction_state: str | None
    entities_state: str | None
    record_state: str | None
    record_reason: str | None


class MergedEntity(TypedDict):
    """A named entity of a project."""

    id: str
    project: str
    name: str
    label: str
    aliases: list[str]
    mentions: int
    sources: int


class Neighbour(MergedEntity):
    """An entity that is mentioned in the same chunks as another."""

    together: int


class MentioningSource(TypedDict):
    """A document that mentions an entity."""

    id: str
    job_id: str
    url: str
    title: str | None
    mentions: int


class Source(SourceItem):
    """A stored document."""

    text: str
    metadata: dict[str, Any]


class Record(TypedDict):
    """What a language model read out of a source."""

    id: str
    job_id: str
    source_id: str
    url: str
    number: int
    data: Any
    """Valid against the job's schema."""
    truncated: bool
    model: str
    tokens_in: int
    tokens_out: int


class DeadLetter(TypedDict):
    """A page or a source that failed for good."""

    id: str
    job_id: str
    subject: Literal["page", "source", "record"]
    subject_id: str
    url: str
    error_type: str
    error_message: str
    attempts: int
    first_failed_at: str
    last_failed_at: str
    found_on: str | None
    """Of a page: the first one that was found to link to it; None where a seed or a sitemap named it."""


class LettersOfError(TypedDict):
    """The dead letters of a job with one error."""

    subject: Literal["page", "source", "record"]
    error_type: str
    letters: int
    last_failed_at: str
    url: str
    """Of the first of them."""
    error_message: str


class LetterSummary(TypedDict):
    """A job's dead letters by their errors, the most frequent first."""

    letters: int
    errors: int
    """How many different ones there are; `data` has the first hundred, at most."""
    data: list[LettersOfError]


class Retry(TypedDict):
    """A retry of dead letters."""

    id: str
    job_id: str
    status: Literal["running", "completed", "cancelled", "failed"]
    letters: int
    succeeded: int
    failed: int
    error: JobErrorView | None
    created_at: str
    completed_at: str | None


class Snippet(TypedDict):
    """A part of a chunk, and where in it the query's words are."""

    text: str
    start: int
    marks: list[tuple[int, int]]


class SearchHit(TypedDict):
    """A chunk that answers a query."""

    id: str
    text: str
    heading: str
    snippet: Snippet
    score: float
    dense_score: float | None
    text_score: float | None
    url: str
    title: str | None
    date: str | None
    """The day on which it was published, by its own word, as YYYY-MM-DD."""
    language: str | None
    fetched_at: str
    source_id: str
    job_id: str
    """The job that made the chunk."""
    project: str
    """That job's."""


class SearchResult(TypedDict):
    """What was found, best first; whether there may be more, when it is less than was asked for."""

    data: list[SearchHit]
    complete: bool
    embedders: NotRequired[list[str] | None]
    """Where nothing was found by meaning: the other embedders by which what is searched was embedded."""


class Purged(TypedDict):
    """How many dead letters were deleted."""

    purged: int


class Finding(TypedDict):
    """What one comparison of a reconciliation found."""

    kind: str
    checked: int
    found: int
    repaired: int
    examples: list[str]
    note: str


class Reconciliation(TypedDict):
    """What a reconciliation found and repaired."""

    id: str
    status: Literal["running", "completed", "stopped", "failed"]
    repair: bool
    max_share: float
    findings: list[Finding]
    error: str | None
    started_at: str
    completed_at: str | None
