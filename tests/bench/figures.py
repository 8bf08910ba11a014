"""Figures: ratios against a peer, their goals, and how they are shown."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio is to be."""

    limit: float
    at_least: bool
    """Whether more is better."""

    @classmethod
    def least(cls, limit: float) -> Self:
        """At least this."""
        return cls(limit, at_least=True)

    @classmethod
    def most(cls, limit: float) -> Self:
        """At most this."""
        return cls(limit, at_least=False)

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is as it should be."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the table."""

    name: str
    goal: Goal
    ratios: Sequence[float] = ()
    """One for each run; none when it was not measured."""
    note: str = ""
    """The measured values behind the ratio, or why there are none."""
    worst: bool = False
    """Whether the worst run counts rather than the median: where the goal is about the longest or the most."""

    @property
    def ratio(self) -> float | None:
        """The median of the runs, or the worst of them; None when it was not measured."""
        if not self.ratios:
            return None
        if self.worst:
            return min(self.ratios) if self.goal.at_least else max(self.ratios)
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the ratio meets the goal; None when it was not measured."""
        return None if self.ratio is None else self.goal.is_met(self.ratio)

    def document(self) -> dict[str, Any]:
        """Its entry in `bench.json`; `spread` is the smallest and the largest ratio of the runs."""
        return {
            "name": self.name,
            "ratio": None if self.ratio is None else round(self.ratio, 4),
            "goal": str(self.goal),
            "met": self.met,
            "spread": [round(min(self.ratios), 4), round(max(self.ratios), 4)] if self.ratios else None,
        }

    def cells(self) -> tuple[str, ...]:
        """Its row in the table."""
        if self.ratio is None:
            return (self.name, "-", str(self.goal), "not measured", "", self.note)
        spread = f"{min(self.ratios):.2f} to {max(self.ratios):.2f}" if len(self.ratios) > 1 else "one run"
        return (self.name, f"{self.ratio:.2f}", str(self.goal), "yes" if self.met else "NO", spread, self.note)


HEAD = ("name", "ratio", "goal", "met", "spread", "medians of what was measured")


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """The lines of a Markdown table, which reads well as it is."""
    rows = [HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD) - 1)]
    for number, row in enumerate(rows):
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        yield f"| {' | '.join([*padded, row[-1]])} |"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|---|"


def write(figures: Sequence[Figure], path: Path) -> None:
    """Writes `bench.json`."""
    path.write_text(json.dumps([figure.document() for figure in figures], indent=2) + "\n", encoding="utf-8")
