"""What the gateway answers about reconciliations."""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from ke.contracts.reconciling import Finding, FindingKind, ReconcileStatus, Reconciliation


class FindingView(BaseModel):
    """What one comparison found."""

    kind: FindingKind
    checked: int = Field(description="How many things were looked at")
    found: int
    repaired: int
    examples: list[str] = Field(description="Some ids")
    note: str = Field(description="Why not all of it was repaired, or what else there is to know")

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """A finding as it stands."""
        return cls(
            kind=finding.kind,
            checked=finding.checked,
            found=finding.found,
            repaired=finding.repaired,
            examples=list(finding.examples),
            note=finding.note,
        )


class ReconciliationView(BaseModel):
    """What a reconciliation found and repaired."""

    id: str
    status: ReconcileStatus = Field(description="`stopped`: it would have deleted too much; `error` says what")
    repair: bool
    max_share: float
    findings: list[FindingView] = Field(description="One of each kind, also of those of which nothing was found")
    error: str | None
    started_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, record: Reconciliation) -> Self:
        """A record as it stands."""
        return cls(
            id=record.id,
            status=record.status,
            repair=record.repair,
            max_share=record.max_share,
            findings=[FindingView.of(finding) for finding in record.findings],
            error=record.error,
            started_at=record.started_at,
            completed_at=record.completed_at,
        )
