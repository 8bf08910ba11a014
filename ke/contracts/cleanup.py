"""What a cleanup is given and what it answers for."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Final, Self

from ke.contracts.counted import counted


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
    records: int = 0

    def __add__(self, other: Self) -> "StoreCounts":
        """The sum, store by store."""
        return StoreCounts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def total(self) -> int:
        """The sum over the stores."""
        return sum(getattr(self, f.name) for f in fields(self))

    def told(self) -> list[str]:
        """What there is, without the stores that have nothing: `1 source`, `12 dead letters`."""
        numbers = ((getattr(self, name), words) for name, words in _WORDS.items())
        return [counted(number, *words) for number, words in numbers if number]


_WORDS: Final[Mapping[str, tuple[str, str]]] = {
    "vectors": ("vector", "vectors"),
    "sources": ("source", "sources"),
    "extractions": ("extraction", "extractions"),
    "entities": ("entity", "entities"),
    "dead_letters": ("dead letter", "dead letters"),
    "pages": ("page", "pages"),
    "records": ("record", "records"),
}
STORES: Final = tuple(f.name for f in fields(StoreCounts))


@dataclass(frozen=True, slots=True)
class ExtractingJob:
    """A job that has extracted another one's sources."""

    job_id: str
    project: str


@dataclass(frozen=True, slots=True)
class Relying:
    """What other jobs have of the documents that go with a cleanup. Jobs are in the order of their submits."""

    pages: int = 0
    """Pages of re-crawls that found them unchanged, whose document it is."""
    jobs: int = 0
    """How many jobs these are of."""
    job_ids: tuple[str, ...] = ()
    """The first of these."""
    extractions: int = 0
    """Extractions that were made of them, which go too."""
    extract_jobs: int = 0
    """How many jobs have made these."""
    extracted_by: tuple[ExtractingJob, ...] = ()
    """The first of these."""


@dataclass(frozen=True, slots=True)
class CleanupInput:
    """What to clean up: a job, or one source of it; and what to do with the job's record afterwards."""

    job_id: str
    """The job; of a source the one that owns it."""
    delete_record: bool = False
    """Whether the job's row goes too, leaving its tombstone."""
    source_id: str | None = None
    """The source that goes, alone; None: all that the job made."""
    part_of: str | None = None
    """The receipt of the project's cleanup that this one is a part of."""
    replaced_by: str | None = None
    """The page of a re-crawl that has another document now, where the source goes for that reason alone."""
    recrawl_id: str | None = None
    """The re-crawl that forgets it: that of the page (None), or a later one that goes back to it."""


@dataclass(frozen=True, slots=True)
class CleanupReceipt:
    """What was really deleted, and what is left."""

    id: str
    job_id: str | None
    """The job; of a source the one that owns it; None of a project."""
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
    scope: CleanupScope = CleanupScope.JOB
    source_id: str | None = None
    project: str | None = None
    jobs: int | None = None
    """Of a project: how many jobs it took up."""
    relying: Relying = Relying()
    """What jobs that it leaves have of its documents, as of its beginning."""


@dataclass(frozen=True, slots=True)
class CleanupFailure:
    """Why a cleanup ended before its end."""

    job_id: str
    error: str
    source_id: str | None = None


@dataclass(frozen=True, slots=True)
class ForgettingInput:
    """Which re-crawl's replaced documents to forget, and how far an earlier run of the same workflow came."""

    job_id: str
    sources_a_run: int = 100
    """Documents that one run of the workflow takes up before it continues as new."""
    after: int = 0
    """The `seq` of the last page that was looked at."""
    back: int | None = None
    """Whose page that was: how many jobs the re-crawl goes back to it; None where none was."""
    taken: int = 0
    failed: int = 0
    reasons: tuple[str, ...] = ()
    """Why some could not be forgotten, of the first of them."""


@dataclass(frozen=True, slots=True)
class ReplacedPage:
    """Which of a re-crawl's replaced documents to take up next."""

    job_id: str
    after: int
    limit: int
    back: int | None = None
    """Whose pages to look at: 0 those of the re-crawl, 1 those of the job that it crawls again, and so on; None to
    begin with the oldest."""


@dataclass(frozen=True, slots=True)
class ReplacedSources:
    """Documents to forget, which pages of one job name: of the oldest one first, the re-crawl itself last.

    A page goes with its own document, and what it named before would be known by nobody. Each document comes with the
    job that owns it, in the order in which its page was found.
    """

    cleanups: tuple[CleanupInput, ...]
    after: int
    """The `seq` of the last page that was looked at."""
    back: int | None = None
    """Whose page that was."""
    is_more: bool | None = None
    """Whether there may be more; None of a list that an older version made, where as many as were asked for say so."""


@dataclass(frozen=True, slots=True)
class ProjectProgress:
    """How far the cleanup of a project is."""

    receipt_id: str
    after: int = 0
    """The `seq` of the last job that was taken up."""
    jobs: int = 0
    failed: int = 0
    """Jobs that could not be cleaned."""
    reasons: tuple[str, ...] = ()
    """Why, of the first of them."""


@dataclass(frozen=True, slots=True)
class ProjectCleanupInput:
    """Which project to clean up, and how far an earlier run of the same workflow came."""

    project: str
    delete_record: bool = False
    """Whether the records of its ended jobs go too."""
    jobs_a_run: int = 100
    """Jobs that one run of the workflow takes up before it continues as new."""
    carried: ProjectProgress | None = None


@dataclass(frozen=True, slots=True)
class ProjectCleanup:
    """One cleanup of a project."""

    project: str
    receipt_id: str
    delete_record: bool = False


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """Which jobs of a project to take up next."""

    project: str
    after: int
    limit: int
    delete_record: bool = False
    receipt_id: str = ""
    """The receipt of this cleanup: only jobs that were there when it began are taken up."""


@dataclass(frozen=True, slots=True)
class ProjectJobs:
    """Jobs to take up, in the order in which they were submitted."""

    job_ids: tuple[str, ...]
    after: int
    """The `seq` of the last one."""


@dataclass(frozen=True, slots=True)
class ProjectEnd:
    """How the cleanup of a project ended."""

    project: str
    receipt_id: str
    jobs: int
    after: int
    """The `seq` of the last job that was taken up."""
    error: str | None = None
    """What could not be cleaned, and why; None when all was."""
