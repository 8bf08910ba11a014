"""A long walk of an activity, which the next attempt goes on with where the last heartbeat was."""

from dataclasses import asdict, dataclass
from typing import Any

from temporalio import activity

from activities.heartbeat import Beat
from ke.contracts.reconciling import Finding, FindingKind


@dataclass(slots=True)
class Walk:
    """Where a walk is, and what it has found; a heartbeat carries both, so that they always fit each other."""

    beat: Beat
    findings: dict[FindingKind, Finding]
    cursor: str | None = None
    """The place after which to go on; None at the beginning."""

    @classmethod
    def begin(cls, beat: Beat, *kinds: FindingKind) -> "Walk":
        """A walk from the beginning, or from where an attempt before this one was last heard of."""
        findings = {kind: Finding(kind) for kind in kinds}
        cursor: str | None = None
        # Heartbeat details come back without their types.
        details: Any = next(iter(activity.info().heartbeat_details), None)
        if isinstance(details, dict) and details.get("cursor") is not None:
            cursor = str(details["cursor"])
            for stored in details["findings"]:
                kind = FindingKind(stored["kind"])
                findings[kind] = Finding(**{**stored, "kind": kind, "examples": tuple(stored["examples"])})
        return cls(beat, findings, cursor)

    def add(self, finding: Finding) -> None:
        """Adds what a part of the walk found."""
        self.findings[finding.kind] += finding

    def reach(self, cursor: str) -> None:
        """Says that all up to here is done, and in the findings."""
        self.cursor = cursor
        self.beat.progress({"cursor": cursor, "findings": [asdict(finding) for finding in self.findings.values()]})

    @property
    def result(self) -> list[Finding]:
        """What was found."""
        return list(self.findings.values())
