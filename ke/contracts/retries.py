"""What a retry of dead letters is given and what it reports."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from ke.contracts.jobs import CollectSpec, Counters, ExtractSpec, JobError

Subject = Literal["page", "source", "record"]
"""What a dead letter is of: a page, a source that could not be extracted, or one of which no record could be made."""


class RetryStatus(StrEnum):
    """Where a retry is."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Every letter that it took up was tried; what failed again is a dead letter again."""
    CANCELLED = "cancelled"
    """What it had not tried by then is the dead letter that it was."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which of a job's dead letters are meant: those that fit all that is given."""

    ids: tuple[str, ...] | None = None
    subject: Subject | None = None
    error_type: str | None = None
    url_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedRetry:
    """What the workflow of a retry needs to know of the job it works for."""

    epoch: int
    started_at: str
    """When the retry was asked for, ISO 8601: `max_seconds` counts from there."""
    letters: int
    """How many letters it took up."""
    collect: CollectSpec | None = None
    """What its collect lane fetches, within limits that let every page in that was taken up; None: none was."""
    extract: ExtractSpec | None = None
    entities: str | None = None
    """The finder of its entities lane; None: there is no such lane."""


@dataclass(frozen=True, slots=True)
class CarriedRetry:
    """What survives a continue-as-new; all else is in Postgres."""

    opened: OpenedRetry
    collect_done: bool = False
    extract_done: bool = False
    entities_done: bool = False
    records_done: bool = False


@dataclass(frozen=True, slots=True)
class RetryInput:
    """The whole of a retry: enough to write its row again when that was lost."""

    id: str
    job_id: str
    number: int
    """Which of the job's retries this is, from 1."""
    created_at: str
    """ISO 8601, UTC."""
    letters: LetterFilter = LetterFilter()
    carried: CarriedRetry | None = None


@dataclass(frozen=True, slots=True)
class CloseRetry:
    """How a retry ended."""

    id: str
    job_id: str
    status: RetryStatus
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class RetryOutcome:
    """What a retry's workflow returns."""

    id: str
    job_id: str
    status: RetryStatus
    letters: int = 0
    """Dead letters that it took up."""
    succeeded: int = 0
    """Those that are gone since."""
    failed: int = 0
    """Those that failed again."""
    counters: Counters = Counters()  # noqa: RUF009  (frozen)
    """All that the job has done, this retry included."""
    error: JobError | None = None


@dataclass(frozen=True, slots=True)
class RetryProgress:
    """The answer of the `progress` query: what the workflow knows, without asking a store."""

    letters: int
    counters: Counters
    collect_done: bool
    extract_done: bool
    slices: int
    waiting_for: str = ""
    entities_done: bool = True
    records_done: bool = True
