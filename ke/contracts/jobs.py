"""What a job is: its kinds, states and transitions, what it is given and what it reports."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final, Self

PROJECT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a project can be called."""
DEFAULT_PROJECT: Final = "default"
"""The project of pages that are fetched for none in particular."""


class JobKind(StrEnum):
    """What a job does."""

    SCRAPE = "scrape"
    """Fetches a list of URLs."""
    CRAWL = "crawl"
    """Fetches a site, from seeds and sitemaps, within limits."""
    EXTRACT = "extract"
    """Turns stored sources into chunks, vectors and entities."""


class JobStatus(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """Whether a job in this state never changes its state again."""
        return not TRANSITIONS[self]


TRANSITIONS: Final[Mapping[JobStatus, frozenset[JobStatus]]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.FAILED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.PAUSED,
            JobStatus.CANCELLING,
            JobStatus.FAILED,
            JobStatus.COMPLETED,
            JobStatus.COMPLETED_WITH_ERRORS,
        }
    ),
    JobStatus.PAUSED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.FAILED}),
    JobStatus.CANCELLING: frozenset(
        {JobStatus.CANCELLED, JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.COMPLETED_WITH_ERRORS}
    ),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.COMPLETED: frozenset(),
    JobStatus.COMPLETED_WITH_ERRORS: frozenset(),
    JobStatus.FAILED: frozenset(),
}
"""The only changes of state there are. The database checks the values; every write is a compare-and-set on these."""

TERMINAL: Final = frozenset(status for status in JobStatus if status.is_terminal)
ACTIVE: Final = frozenset(JobStatus) - TERMINAL
ENDED_WELL: Final = frozenset({JobStatus.COMPLETED, JobStatus.COMPLETED_WITH_ERRORS})
WRITABLE: Final = frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLING})
"""The states in which a job's activities may still write: a paused or cancelled slice commits what it has."""


def sources_of(target: JobStatus) -> frozenset[JobStatus]:
    """The states from which `target` may be reached."""
    return frozenset(status for status, targets in TRANSITIONS.items() if target in targets)


class Artifacts(StrEnum):
    """What is left of what a job made."""

    PRESENT = "present"
    CLEANING = "cleaning"
    CLEANED = "cleaned"
    CLEANUP_FAILED = "cleanup_failed"


class Lane(StrEnum):
    """The strands of activities in a job."""

    COLLECT = "collect"
    EXTRACT = "extract"
    ENTITIES = "entities"
    RECORDS = "records"
    """What a language model makes of each source, by a JSON Schema; only where the job has one."""


@dataclass(frozen=True, slots=True)
class CrawlLimits:
    """Where a crawl stops. None means no limit."""

    max_pages: int = 500
    max_depth: int = 5
    max_bytes: int | None = None
    max_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class CrawlScope:
    """Which of the links it finds a crawl follows."""

    include: tuple[str, ...] = ()
    """Regular expressions (RE2); when there are any, a URL must match one of them, anywhere in it."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; a URL that matches one is not followed."""
    same_host: bool = True
    """Stay on the hosts (with ports) of the seeds."""
    sitemaps: bool = True
    """Read the sitemaps that robots.txt names, or /sitemap.xml."""
    robots: bool = True
    """Obey robots.txt (RFC 9309)."""
    drop_params: tuple[str, ...] = ()
    """Names of query parameters that tell no two pages apart (`utm_*`): left out of every URL that is taken up."""


@dataclass(frozen=True, slots=True)
class FetchRate:
    """How hard a job may press one host."""

    concurrency: int = 8
    """Requests at once."""
    delay_s: float = 0.0
    """Seconds between the starts of two requests to one host."""


class Reading(StrEnum):
    """How a page's content is told from what is around it."""

    THOROUGH = "thorough"
    """By trafilatura, and what it loses put back: some 10 ms a page."""
    FAST = "fast"
    """By the page's own marks and the density of its text: some 2 ms."""


MAX_GONE_SHARE: Final = 0.5
"""Where more of a site is gone than this, the site is broken more likely than its pages were taken away."""


@dataclass(frozen=True, slots=True)
class CollectSpec:
    """What the collect lane fetches."""

    urls: tuple[str, ...]
    follow: bool
    """Whether links are followed: a crawl follows, a scrape does not."""
    limits: CrawlLimits = CrawlLimits()
    scope: CrawlScope = CrawlScope()
    rate: FetchRate = FetchRate()
    recrawl_of: str | None = None
    """The job whose pages are asked for again: what is the same as then is not stored anew."""
    forget_replaced: bool = False
    """Whether the earlier documents of pages that changed, or are gone, are deleted once the job has ended well."""
    max_gone_share: float = MAX_GONE_SHARE
    """How much of what is found, there or gone, may be gone for its documents to be deleted."""
    reading: Reading = Reading.THOROUGH
    browser: bool = False
    """Whether HTML pages are shown by a browser, and read as their scripts have made them."""
    taken_over: tuple[str, ...] = ()
    """JSON pointers to the parameters that are the earlier job's, as nobody gave them, and no defaults."""


@dataclass(frozen=True, slots=True)
class ExtractSpec:
    """What the extract lane makes of sources, and of which."""

    chunk_size: int | None = None
    """Sources in a batch; None: all in one pass."""
    chunk_tokens: int = 256
    """The longest text chunk, in tokens."""
    embedder: str = "wordllama"
    entities: str | None = "spacy"
    source_job_id: str | None = None
    """Extract the sources that this job stored. None and no `source_ids`: those that this job collects itself."""
    source_ids: tuple[str, ...] | None = None
    """Extract exactly these sources."""
    schema: dict[str, Any] | None = None
    """The JSON Schema of what a language model is to answer for each source; None: it is not asked."""
    instructions: str = ""
    """What the model is told beside the schema."""
    model: str | None = None
    """The model that is asked; None: the operator's own."""
    max_tokens: int | None = None
    """Tokens that the whole job may spend on the model, of questions and answers together; None: no limit."""


@dataclass(frozen=True, slots=True)
class JobInput:
    """The whole of a submitted job: enough to write its row again when that was lost."""

    job_id: str
    kind: JobKind
    created_at: str
    """ISO 8601, UTC."""
    project: str = DEFAULT_PROJECT
    labels: dict[str, str] = field(default_factory=dict)
    collect: CollectSpec | None = None
    extract: ExtractSpec | None = None
    tenant: str = "default"
    idempotency_key: str | None = None
    request_hash: str = ""
    """SHA-256 of the canonical body: tells a repeated submit from another one under the same key."""
    namespace_id: str | None = None
    """The id of the Temporal namespace that the workflow was started in; None when that could not be told."""
    carried: "CarriedState | None" = None
    """What the run before this one hands over at a continue-as-new."""


@dataclass(frozen=True, slots=True)
class CarriedState:
    """What survives a continue-as-new; all else is in Postgres."""

    epoch: int
    limits: CrawlLimits | None = None
    collect_done: bool = False
    extract_done: bool = False
    entities_done: bool = False
    records_done: bool = False
    shards: int = 1
    """Into how many shards the collect lane is split."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a job has done so far, or did. Each number is of things, `bytes` of response bodies."""

    pages_fetched: int = 0
    pages_failed: int = 0
    pages_skipped: int = 0
    pages_duplicate: int = 0
    pages_unchanged: int = 0
    pages_gone: int = 0
    sources: int = 0
    sources_extracted: int = 0
    sources_skipped: int = 0
    extractions: int = 0
    entities: int = 0
    entity_sources: int = 0
    """Extracted sources whose entities were looked for."""
    entity_sources_skipped: int = 0
    """Extracted sources whose entities were not looked for when the job ended."""
    vectors: int = 0
    dead_letters: int = 0
    bytes: int = 0
    records: int = 0
    records_skipped: int = 0
    """Sources of which no record was made, as when the budget of tokens was spent."""
    tokens_in: int = 0
    """Of what the language model was asked, failed calls included."""
    tokens_out: int = 0
    """Of what it answered."""
    cost_micros: int = 0
    """What that cost, in millionths of the currency in which the operator gives the prices."""

    def __add__(self, other: Self) -> "Counters":
        """The sum, field by field."""
        return Counters(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


COUNTER_NAMES: Final = tuple(f.name for f in fields(Counters))


@dataclass(frozen=True, slots=True)
class CancellationReceipt:
    """The proof that a cancelled job stands still."""

    requested_at: str
    quiescent_at: str
    """When its last activity had acknowledged or timed out."""
    latency_s: float
    activities_drained: int
    """Activities that were running when the cancel came and acknowledged it."""
    activities_timed_out: int = 0
    """Activities that were running and whose worker never answered; their writes are fenced."""
    reason: str = ""
    timed_out: tuple[str, ...] = ()
    """The names of those activities, one for each."""


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """What a job's workflow returns; the full result is in its row."""

    job_id: str
    status: JobStatus
    counters: Counters = Counters()
    cancellation: CancellationReceipt | None = None
    error: JobError | None = None


PAUSED_NOTE: Final = "resume"
"""What a job that was told to pause waits for, as its workflow says."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The answer of the `progress` query: what the workflow knows, without asking a store."""

    status: JobStatus
    counters: Counters
    """As of the last finished slice of each lane; the row in Postgres is newer."""
    collect_done: bool
    extract_done: bool
    slices: int
    waiting_for: str = ""
    entities_done: bool = True
    records_done: bool = True


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """The argument of the `cancel_and_clean` signal."""

    reason: str = ""
    delete_record: bool = False


@dataclass(frozen=True, slots=True)
class LimitsChange:
    """The argument of the `set_limits` update; what is None stays as it is."""

    max_pages: int | None = None
    max_depth: int | None = None
    max_bytes: int | None = None
    max_seconds: int | None = None
