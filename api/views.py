"""What the gateway answers: the shapes of jobs, receipts and lists."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ke.contracts.cleanup import CleanupReceipt, CleanupScope, Relying, StoreCounts
from ke.contracts.jobs import COUNTER_NAMES, Artifacts, Counters, JobKind, JobStatus, Lane
from ke.contracts.retries import RetryStatus
from ke.storage.cleanup_projects import ProjectCounts
from ke.storage.cleanup_targets import CleanupTarget
from ke.storage.jobs import JobRow, LaneProgress
from ke.storage.retries import RetryRow

ItemT = TypeVar("ItemT")
LaneMap = Mapping[tuple[UUID, Lane], LaneProgress]


class PageOf(BaseModel, Generic[ItemT]):
    """A part of a list."""

    data: list[ItemT]
    next_cursor: str | None = Field(description="Ask with this `cursor` for what follows; null at the end")


class CountersView(BaseModel):
    """What a job has done; each number is of things, `bytes` of response bodies."""

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
    entity_sources: int = Field(0, description="Extracted sources whose entities were looked for")
    entity_sources_skipped: int = 0
    vectors: int = 0
    dead_letters: int = 0
    bytes: int = 0
    records: int = 0
    records_skipped: int = Field(0, description="Sources of which no record was made, as when a budget was spent")
    tokens_in: int = Field(0, description="Of what the language model was asked, failed calls included")
    tokens_out: int = Field(0, description="Of what it answered")
    cost_micros: int = Field(0, description="Of both, in millionths of the currency of the operator's prices")
    elapsed_s: float = 0.0


class CancellationView(BaseModel):
    """The proof that a cancelled job stands still."""

    requested_at: datetime | None = None
    quiescent_at: datetime | None = Field(None, description="When its last activity had acknowledged or timed out")
    latency_s: float = 0.0
    activities_drained: int = 0
    activities_timed_out: int = 0
    timed_out: list[str] = Field(default_factory=list, description="The names of those that timed out")
    reason: str = ""


class ResultView(CountersView):
    """What a job did, counted when it ended."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    skipped_source_ids: list[str] | None = Field(
        None, description="The first 100; the rest by /jobs/{id}/sources?state=skipped"
    )
    limits_reached: list[str] | None = Field(
        None,
        description="The limits that left something undone: `max_pages`, `max_bytes`, `max_seconds`; `max_tokens`, "
        "where the budget covered no further source",
        examples=[["max_pages"]],
    )
    pages_new: int | None = Field(
        None, description="Of a re-crawl: fetched pages and duplicates that had no document in the earlier job"
    )
    pages_changed: int | None = Field(None, description="Of a re-crawl: those that had another one")
    cancellation: CancellationView | None = None


class ErrorView(BaseModel):
    """Why a job failed."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Outdated:
    """What an ended re-crawl has left of documents that its pages do not have any more."""

    pages: int
    forgetting: Literal["running", "ended", "held"] | None = None


class JobView(BaseModel):
    """A job."""

    id: UUID
    kind: JobKind
    status: JobStatus
    artifacts: Artifacts = Field(description="What is left of what the job made")
    project: str
    labels: dict[str, str]
    params: dict[str, Any] = Field(
        description="What was submitted, with the defaults filled in; of a re-crawl with what was not given as the "
        "earlier job had it, and `taken_over`, JSON pointers to what of that is no default; `least_depth` where "
        "`max_depth` was lowered since, 0 where a page was forgotten"
    )
    progress: CountersView
    result: ResultView | None = Field(description="Set as soon as the job has ended, however it ended")
    error: ErrorView | None
    earlier_pages: int | None = Field(
        None,
        description="Of a re-crawl, once it has begun: how many URLs of the earlier job are in its scope and asked for "
        "again. 0: it has nothing in common with that job, as when seeds or scope are others",
    )
    previous_stored: int | None = Field(
        None,
        description="Of a re-crawl that has ended: its pages that have changed or are gone and whose earlier document "
        "is still stored, so that a search finds it, those aside whose document another page of the job has now; of "
        "the first 10,000 of them, and told by GET /jobs/{id} only",
    )
    forgetting: Literal["running", "ended", "held"] | None = Field(
        None,
        description="Where there are such and `forget_replaced` was asked for: whether their deletion is still at "
        "work, told by GET /jobs/{id} only. What is left by one that has ended another page has, or is not replaced; "
        "`held`: so are those that are gone, as more than `max_gone_share` of what was found is gone",
    )
    retry_id: str | None = Field(None, description="The retry of dead letters that is at work, if one is")
    waiting_for: str | None = Field(None, description="Why it does not move; told by GET /jobs/{id} only")
    workflow_id: str
    run_id: str | None
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(
        cls, row: JobRow, lanes: LaneMap, *, waiting_for: str | None = None, outdated: Outdated | None = None
    ) -> Self:
        """The job that a row and the progress of its lanes tell."""
        return cls(
            id=row.id,
            kind=row.kind,
            status=row.status,
            artifacts=row.artifacts,
            project=row.project,
            labels=row.labels,
            params=row.params,
            progress=CountersView(**_progress(row, lanes), elapsed_s=_elapsed_s(row)),
            result=ResultView(**row.result) if row.result is not None else None,
            error=ErrorView(**row.error) if row.error is not None else None,
            earlier_pages=lanes[key].earlier_pages if (key := (row.id, Lane.COLLECT)) in lanes else None,
            previous_stored=outdated.pages if outdated is not None else None,
            forgetting=outdated.forgetting if outdated is not None else None,
            retry_id=row.retry_id,
            waiting_for=waiting_for,
            workflow_id=row.workflow_id,
            run_id=row.run_id,
            created_at=row.created_at,
            started_at=row.started_at,
            cancel_requested_at=row.cancel_requested_at,
            completed_at=row.completed_at,
        )


def _progress(row: JobRow, lanes: LaneMap) -> dict[str, int]:
    """What the lanes have counted; of a job that has ended, and is not being retried, what its result says."""
    if row.result is not None and row.retry_id is None:
        return {name: row.result.get(name, 0) for name in COUNTER_NAMES}
    counters = (lanes[key].counters for lane in Lane if (key := (row.id, lane)) in lanes)
    return asdict(sum(counters, Counters()))


def _elapsed_s(row: JobRow) -> float:
    if row.started_at is None:
        return 0.0
    return round(max(0.0, ((row.completed_at or datetime.now(UTC)) - row.started_at).total_seconds()), 3)


class StoreCountsView(BaseModel):
    """A number for each store."""

    vectors: int = 0
    sources: int = 0
    extractions: int = 0
    entities: int = 0
    dead_letters: int = 0
    pages: int = Field(0, description="Entries of the crawl's frontier: the URLs a job has seen are a trace too")
    records: int = 0


class ExtractingJobView(BaseModel):
    """A job that has extracted another one's sources."""

    job_id: UUID
    project: str


class RelyingView(BaseModel):
    """What other jobs have of the documents that go with a cleanup."""

    pages: int = Field(0, description="Pages of re-crawls that found them unchanged, whose document it is")
    jobs: int = Field(0, description="How many jobs these are of")
    job_ids: list[UUID] = Field(default_factory=list, description="The first ten of these")
    extractions: int = Field(0, description="What other jobs have extracted from them, which goes too")
    extract_jobs: int = Field(0, description="How many jobs have made these")
    extracted_by: list[ExtractingJobView] = Field(default_factory=list, description="The first ten of these")


class OtherPageView(BaseModel):
    """A page whose document was stored for another one."""

    url: str
    job_id: UUID = Field(description="The job whose page it is")
    state: str = Field(description="`duplicate`, or in a re-crawl that found it as it was `unchanged`")


class OtherPagesView(BaseModel):
    """Pages, of whichever job, whose document was stored for another one, but for those that are gone."""

    pages: int
    first: list[OtherPageView] = Field(description="The first twenty of these, those of the newest job first")


class ReceiptView(BaseModel):
    """What a cleanup has really deleted, and what is left."""

    id: str = Field(description="Its receipt is at /cleanups/{id}, but of a dry run (`planned`): that leaves none")
    scope: CleanupScope = Field(CleanupScope.JOB, description="What was deleted: all of a job, one source, a project")
    job_id: UUID | None = Field(description="The job; of a source the one that owns it; null of a project")
    source_id: UUID | None = Field(None, description="The source, of the cleanup of one")
    project: str | None = Field(None, description="The project, of the cleanup of one")
    jobs: int | None = Field(
        None,
        description="Of a project: how many jobs were taken up. `deleted` is the sum over the cleanups that it began: "
        "of a job that was cleaned before, nothing; of one whose cleanup had failed, what that had deleted too",
    )
    status: Literal["planned", "running", "cleaned", "failed"] = Field(description="`planned`: of a dry run")
    planned: StoreCountsView = Field(description="What there was when the cleanup began")
    deleted: StoreCountsView = Field(description="What was deleted, not what was found before")
    remaining: StoreCountsView = Field(description="Exact counts after the last batch")
    relying: RelyingView = Field(
        default_factory=RelyingView,
        description="What jobs that it leaves (of a project: those of others) have of the documents that it takes, as "
        "of its beginning. `pages` stay, without a document, and a re-crawl of such a job fetches them anew; of one "
        "source they go with it, and are among `planned.pages`. `extractions` go with it, and are among "
        "`planned.extractions`: no search finds them any more, though the job that made them says nothing of it",
    )
    other_pages: OtherPagesView | None = Field(
        None,
        description="Of the dry run for one source only: the pages that have this document now, beside the one that "
        "it was stored for: they go with it. A receipt does not keep their URLs",
    )
    started_at: datetime | None
    completed_at: datetime | None
    delete_record: bool
    error: str | None
    fenced: bool = Field(
        default=False,
        description="Whether the vector store itself refused late writes; if not, it was swept a second time",
    )

    @classmethod
    def of(cls, receipt: CleanupReceipt) -> Self:
        """A receipt as it stands."""
        return cls.model_validate(asdict(receipt))

    @classmethod
    def plan(
        cls,
        target: CleanupTarget,
        found: StoreCounts,
        relying: Relying,
        *,
        delete_record: bool = False,
        running: bool = False,
    ) -> Self:
        """What a cleanup would delete, or, when it is `running`, of one whose own receipt is not there yet."""
        plan = cls._plan(target.receipt_id, found, relying, delete_record=delete_record, running=running)
        about = {"scope": target.scope, "job_id": target.job_id, "source_id": target.source_id}
        return plan.model_copy(update=about)

    @classmethod
    def plan_of_project(
        cls,
        receipt_id: str,
        project: str,
        found: ProjectCounts,
        relying: Relying,
        *,
        delete_record: bool,
        running: bool = False,
    ) -> Self:
        """As `plan`, for a project."""
        plan = cls._plan(receipt_id, found.counts, relying, delete_record=delete_record, running=running)
        return plan.model_copy(update={"scope": CleanupScope.PROJECT, "project": project, "jobs": found.jobs})

    @classmethod
    def _plan(
        cls, receipt_id: str, found: StoreCounts, relying: Relying, *, delete_record: bool, running: bool
    ) -> Self:
        counts = StoreCountsView(**asdict(found))
        return cls(
            id=receipt_id,
            job_id=None,
            status="running" if running else "planned",
            planned=counts,
            deleted=StoreCountsView(),
            remaining=counts,
            relying=RelyingView(**asdict(relying)),
            started_at=None,
            completed_at=None,
            delete_record=delete_record,
            error=None,
        )


class RetryView(BaseModel):
    """A retry of dead letters."""

    id: str
    job_id: UUID
    status: RetryStatus
    letters: int = Field(description="Dead letters that it took up")
    succeeded: int = Field(description="Those that are gone since")
    failed: int = Field(description="Those that failed again")
    error: ErrorView | None
    created_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, row: RetryRow) -> Self:
        """A retry as it stands."""
        return cls.model_validate(asdict(row))


class PurgedView(BaseModel):
    """How many dead letters were deleted."""

    purged: int


class SnippetView(BaseModel):
    """The part of a chunk that has most of the query's words, without Markdown's marks: plain text, not HTML."""

    text: str = Field(
        description="Of links the words alone; what is in code stays as it is; `…` at an end where the text goes on"
    )
    start: int = Field(description="Where in the chunk's own text it begins, in characters, without the `…`")
    marks: list[tuple[int, int]] = Field(
        description="The query's words in it, by their stems: first character, and the one behind the last. Characters "
        "are Unicode code points"
    )


class SearchHit(BaseModel):
    """A chunk that answers a query."""

    id: UUID
    text: str
    heading: str
    snippet: SnippetView
    score: float = Field(
        description="What hits are ordered by. dense: cosine; text: BM25; hybrid and reranked: weighted, 0 to 1"
    )
    dense_score: float | None = Field(description="Cosine similarity, where it was looked at")
    text_score: float | None = Field(description="BM25, where it was looked at and the chunk has some of the words")
    url: str
    title: str | None
    date: str | None = Field(description="The day on which it was published, by its own word, as YYYY-MM-DD")
    language: str | None = Field(description="Of the document, by its own word, as `en` or `en-gb`")
    fetched_at: datetime = Field(description="When the document was fetched")
    source_id: UUID
    job_id: UUID = Field(description="The job that made the chunk")
    project: str = Field(description="That job's")


class SearchResult(BaseModel):
    """What was found, best first."""

    data: list[SearchHit]
    complete: bool = Field(
        description="False: there are fewer hits than were asked for, and there may be more that were not looked at"
    )
    embedders: list[str] | None = Field(
        None,
        description="Where nothing was found by meaning: the other embedders by which what is searched was embedded. "
        "Ask with one of these as `embedder`",
    )


class ProjectView(BaseModel):
    """A project: whatever name jobs were submitted under."""

    name: str
    jobs: int = Field(description="Those whose record is not deleted")


class Index(BaseModel):
    """What answers here, and the paths to go on by."""

    name: str
    version: str
    docs: str = Field(description="The API, to try it out")
    openapi: str = Field(description="Its description, for machines")
    health: str
    ready: str


class Health(BaseModel):
    """That the gateway is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """That all the gateway needs is up."""

    status: Literal["ready"] = "ready"
    checks: dict[str, bool] = Field(examples=[{"database": True, "temporal": True, "vectors": True}])
