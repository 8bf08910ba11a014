"""What a cleanup is given and what it answers for."""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Self


class CleanupScope(StrEnum):
    """What a cleanup deletes."""

    JOB = "job"
    """All that a job made."""
    SOURCE = "source"
    """One stored document, with all that was made of it, by whichever job."""
    PROJECT = "project"
    """All that the ended jobs of a project made: the sum of their cleanups."""


class CleanupStatus(StrEnum):
    """Where a cleanup is."""

    RUNNING = "running"
    CLEANED = "cleaned"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class StoreCounts:
    """A number for each store that a cleanup empties."""

    vectors: int = 0
    sources: int = 0
    extractions: int = 0
    entities: int = 0
    dead_letters: int = 0
    pages: int = 0
    """Entries of the crawl's frontier: the URLs a job has seen are a trace too."""

    def __add__(self, other: Self) -> "StoreCounts":
        """The sum, store by store."""
        return StoreCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def total(self) -> int:
        """The sum over the stores."""
        return sum(getattr(self, f.name) for f in fields(self))


STORES: Final = tuple(f.name for f in fields(StoreCounts))


@dataclass(frozen=True, slots=True)
class CleanupInput:
    """Which job to clean up, and what to do with its record afterwards."""

    job_id: str
    delete_record: bool = False
    """Whether the job's row goes too, leaving its tombstone."""


@dataclass(frozen=True, slots=True)
class CleanupReceipt:
    """What was really deleted, and what is left."""

    id: str
    job_id: str
    status: CleanupStatus
    planned: StoreCounts
    """What there was when the cleanup began."""
    deleted: StoreCounts
    """The sum of the finished batches: what was deleted, not what was found before."""
    remaining: StoreCounts
    """Exact counts after the last batch."""
    started_at: str
    completed_at: str | None = None
    delete_record: bool = False
    error: str | None = None
    fenced: bool = False
    """Whether the vector store itself refused late writes; if not, it was swept a second time, a while later."""


@dataclass(frozen=True, slots=True)
class CleanupFailure:
    """Why a cleanup ended before its end."""

    job_id: str
    error: str
