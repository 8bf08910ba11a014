"""What a reconciliation is given and what it reports."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

MAX_EXAMPLES: Final = 5
"""Ids that a finding names."""
LOST_AT_ONCE: Final = 10
"""Jobs that are ended as lost whatever their share is: reading them one by one would end them too."""


class ReconcileStatus(StrEnum):
    """Where a reconciliation is."""

    RUNNING = "running"
    COMPLETED = "completed"
    """All stores were compared; what it may repair is repaired."""
    STOPPED = "stopped"
    """It found more to delete than it may without being told."""
    FAILED = "failed"


class FindingKind(StrEnum):
    """What can be wrong between the stores."""

    POINTS_WITHOUT_ROWS = "points-without-rows"
    """Points that no extraction stands behind: left by a write that came late, or by a lost database."""
    ROWS_WITHOUT_POINTS = "rows-without-points"
    """Extractions that are ready and whose point is gone."""
    PENDING_ROWS = "pending-rows"
    """Extractions that an ended job never finished."""
    OPEN_JOBS = "open-jobs"
    """Jobs that read as open and whose workflow is closed, or unknown to Temporal."""
    CLEANUPS = "cleanups"
    """Cleanups that nobody works on and that are not done."""
    RETRIES = "retries"
    """Retries of dead letters that read as running and whose workflow is closed."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one comparison found."""

    kind: FindingKind
    checked: int = 0
    """How many things were looked at."""
    found: int = 0
    repaired: int = 0
    examples: tuple[str, ...] = ()
    """Some ids, `MAX_EXAMPLES` at most."""
    note: str = ""
    """Why not all of it was repaired, or what else there is to know."""
    at_stake: int = 0
    """How many of the things found a repair would delete, or end as lost: what `max_share` bounds."""

    def __add__(self, more: "Finding") -> "Finding":
        """The finding of both: numbers are summed, examples and notes joined."""
        notes = dict.fromkeys(note for note in (self.note, more.note) if note)
        return Finding(
            self.kind,
            checked=self.checked + more.checked,
            found=self.found + more.found,
            repaired=self.repaired + more.repaired,
            examples=(*self.examples, *more.examples)[:MAX_EXAMPLES],
            note=" ".join(notes),
            at_stake=self.at_stake + more.at_stake,
        )

    def after_repair(self, second: "Finding") -> "Finding":
        """This finding with what a second look, which repaired, did: it may have met more than the first."""
        return replace(
            self,
            found=max(self.found, second.found),
            repaired=second.repaired,
            examples=self.examples or second.examples,
            note=second.note or self.note,
        )


def is_too_much(finding: Finding, max_share: float) -> bool:
    """Whether repairing this would delete a larger share of what there is than is allowed."""
    if finding.kind is FindingKind.OPEN_JOBS and finding.at_stake <= LOST_AT_ONCE:
        return False
    return finding.at_stake > max_share * finding.checked


def brake_message(findings: Iterable[Finding], max_share: float) -> str:
    """Says what keeps a reconciliation from repairing, with numbers, and how to go on; empty when nothing does."""
    parts = [
        f"{found.at_stake} of {found.checked} ({found.kind}) would be {_fate(found.kind)}"
        for found in findings
        if is_too_much(found, max_share)
    ]
    if not parts:
        return ""
    return (
        f"Stopped: {', and '.join(parts)}, more than the share of {max_share:g} that is allowed. "
        "If that is right, reconcile again with a larger max_share; with 1 anything goes."
    )


def _fate(kind: FindingKind) -> str:
    return "ended as lost" if kind is FindingKind.OPEN_JOBS else "deleted"


@dataclass(frozen=True, slots=True)
class ReconcileInput:
    """What a reconciliation is asked to do."""

    repair: bool = True
    max_share: float = 0.1
    """The largest share of a store, or of the open jobs, that it may delete, or end as lost: 0 to 1; 1: anything."""


@dataclass(frozen=True, slots=True)
class ReconcileStep:
    """One look at one kind of thing."""

    id: str
    """The reconciliation's."""
    repair: bool = False
    anything_goes: bool = False
    """Whether what is believed to be somebody else's is repaired too."""


@dataclass(frozen=True, slots=True)
class OpenReconciliation:
    """The record of a run that begins."""

    id: str
    request: ReconcileInput


@dataclass(frozen=True, slots=True)
class CloseReconciliation:
    """How a run ended."""

    id: str
    status: ReconcileStatus
    findings: tuple[Finding, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """A record as it reads."""

    id: str
    status: ReconcileStatus
    repair: bool
    max_share: float
    findings: tuple[Finding, ...]
    error: str | None
    started_at: str
    completed_at: str | None
