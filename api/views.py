"""What the gateway answers: the shapes of jobs, receipts and lists."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ke.contracts.cleanup import CleanupReceipt, StoreCounts
from ke.contracts.jobs import Artifacts, Counters, JobKind, JobStatus, Lane
from ke.contracts.naming import cleanup_id
from ke.storage.jobs import JobRow, LaneProgress

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
    sources: int = 0
    sources_extracted: int = 0
    sources_skipped: int = 0
    extractions: int = 0
    entities: int = 0
    vectors: int = 0
    dead_letters: int = 0
    bytes: int = 0
    elapsed_s: float = 0.0


class CancellationView(BaseModel):
    """The proof that a cancelled job stands still."""

    requested_at: str | None = None
    quiescent_at: str | None = Field(None, description="When its last activity had acknowledged or timed out")
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
    cancellation: CancellationView | None = None


class ErrorView(BaseModel):
    """Why a job failed."""

    type: str
    message: str


class JobView(BaseModel):
    """A job."""

    id: UUID
    kind: JobKind
    status: JobStatus
    artifacts: Artifacts = Field(description="What is left of what the job made")
    project: str
    labels: dict[str, str]
    params: dict[str, Any] = Field(description="What was submitted, with the defaults filled in")
    progress: CountersView
    result: ResultView | None = Field(description="Set as soon as the job has ended, however it ended")
    error: ErrorView | None
    waiting_for: str | None = Field(None, description="Why it does not move; told by GET /jobs/{id} only")
    workflow_id: str
    run_id: str | None
    created_at: datetime
    started_at: datetime | None
    cancel_requested_at: datetime | None
    completed_at: datetime | None

    @classmethod
    def of(cls, row: JobRow, lanes: LaneMap, *, waiting_for: str | None = None) -> Self:
        """The job that a row and the progress of its lanes tell."""
        done = sum(
            (lanes[key].counters for lane in Lane if (key := (row.id, lane)) in lanes),
            Counters(),
        )
        return cls(
            id=row.id,
            kind=row.kind,
            status=row.status,
            artifacts=row.artifacts,
            project=row.project,
            labels=row.labels,
            params=row.params,
            progress=CountersView(**asdict(done), elapsed_s=_elapsed_s(row)),
            result=ResultView(**row.result) if row.result is not None else None,
            error=ErrorView(**row.error) if row.error is not None else None,
            waiting_for=waiting_for,
            workflow_id=row.workflow_id,
            run_id=row.run_id,
            created_at=row.created_at,
            started_at=row.started_at,
            cancel_requested_at=row.cancel_requested_at,
            completed_at=row.completed_at,
        )


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


class ReceiptView(BaseModel):
    """What a cleanup has really deleted, and what is left."""

    id: str
    job_id: UUID
    status: Literal["planned", "running", "cleaned", "failed"] = Field(description="`planned`: of a dry run")
    planned: StoreCountsView = Field(description="What there was when the cleanup began")
    deleted: StoreCountsView = Field(description="What was deleted, not what was found before")
    remaining: StoreCountsView = Field(description="Exact counts after the last batch")
    started_at: str | None
    completed_at: str | None
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
    def plan(cls, job_id: UUID, found: StoreCounts, *, delete_record: bool, running: bool = False) -> Self:
        """What a cleanup would delete, or, when it is `running`, of one whose own receipt is not there yet."""
        counts = StoreCountsView(**asdict(found))
        return cls(
            id=cleanup_id(str(job_id)),
            job_id=job_id,
            status="running" if running else "planned",
            planned=counts,
            deleted=StoreCountsView(),
            remaining=counts,
            started_at=None,
            completed_at=None,
            delete_record=delete_record,
            error=None,
        )


class PurgedView(BaseModel):
    """How many dead letters were deleted."""

    purged: int


class SearchHit(BaseModel):
    """A chunk that answers a query."""

    id: UUID
    text: str
    heading: str
    score: float = Field(description="Cosine similarity")
    url: str
    title: str | None
    source_id: UUID
    job_id: UUID


class SearchResult(BaseModel):
    """What was found, best first."""

    data: list[SearchHit]


class Health(BaseModel):
    """That the gateway is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """That all the gateway needs is up."""

    status: Literal["ready"] = "ready"
    checks: dict[str, bool] = Field(examples=[{"database": True, "temporal": True, "vectors": True}])
