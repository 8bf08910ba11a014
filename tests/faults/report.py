"""The figures of a run: a table for people, a document for programs."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any, Final

from tests.faults.measures import percentile

LOST: Final = ("accepted-is-durable", "nothing-lost", "no-job-fails", "rows-have-points", "jobs-end", "progress")
DUPLICATED: Final = ("stored-once", "counted-once", "one-key-one-job")
ORPHANED: Final = ("points-have-rows", "cleaned-is-zero", "nothing-half-made", "no-stray-process", "ended-is-settled")


@dataclass
class Report:
    """What came of a run so far."""

    seed: int
    planned: int
    broken_build: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    not_run: list[str] = field(default_factory=list)
    jobs: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    cancel_s: list[float] = field(default_factory=list)
    crowd_s: list[float] = field(default_factory=list)
    """Cancel latencies of the jobs that were cancelled by a thousand calls at once."""
    broken: list[str] = field(default_factory=list)
    answers_lost: int = 0
    """Requests that were executed and whose answer was dropped."""
    calls_failed: int = 0
    """Calls of the vector store that were failed."""
    grown_mb: dict[str, float] = field(default_factory=dict)
    elapsed_s: float = 0.0
    complete: bool = False
    """Whether the run came to its end."""

    def count(self, names: tuple[str, ...]) -> int:
        """How many broken invariants have one of these names."""
        return sum(line.partition(":")[0] in names for line in self.broken)

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            # `asdict` cannot copy a Counter.
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "lost": self.count(LOST),
            "duplicated": self.count(DUPLICATED),
            "orphaned": self.count(ORPHANED),
            "recovery": _shares(self.recovery_s),
            "cancel_latency": _shares(self.cancel_s),
            "cancel_latency_at_once": _shares(self.crowd_s),
        }

    def table(self) -> str:
        """For people."""
        width = max((len(name) for name in self.faults), default=0)
        lines = ["", "faults by class"]
        lines += [f"  {name:<{width}}  {number:>4}" for name, number in sorted(self.faults.items())]
        lines += [f"  not run: {why}" for why in self.not_run]
        ended = ", ".join(f"{number} {status}" for status, number in sorted(self.ended.items()))
        growth = ", ".join(f"{role} {grown:.0f}" for role, grown in sorted(self.grown_mb.items()))
        lines += [
            f"faults            {sum(self.faults.values())} in {self.elapsed_s:.0f} s",
            f"                  {self.answers_lost} answers lost, {self.calls_failed} calls of the vector store failed",
            f"jobs              {self.jobs} ({ended})",
            f"lost              {self.count(LOST)}",
            f"duplicated        {self.count(DUPLICATED)}",
            f"orphaned          {self.count(ORPHANED)}",
            f"recovery          {_line(self.recovery_s)}",
            f"cancel latency    {_line(self.cancel_s)}",
            f"  1,000 at once   {_line(self.crowd_s)}",
            f"growth, MB        {growth or 'not measured: nothing lived long enough'}",
        ]
        if self.broken:
            lines += ["", f"BROKEN: {len(self.broken)}", *(f"  {line}" for line in self.broken)]
        elif self.complete:
            lines += ["", "All invariants held."]
        else:
            lines += ["", "The run did not come to its end."]
        return "\n".join(lines)


def _shares(values: list[float]) -> dict[str, float | int]:
    if not values:
        return {"number": 0}
    return {
        "number": len(values),
        "p50": percentile(values, 0.5),
        "p99": percentile(values, 0.99),
        "max": max(values),
    }


def _line(values: list[float]) -> str:
    found = _shares(values)
    if not values:
        return "none"
    return f"p50 {found['p50']:.2f} s, p99 {found['p99']:.2f} s, max {found['max']:.2f} s (n = {found['number']})"
