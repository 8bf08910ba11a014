"""How the demo tells its story, and how it keeps count of what it claims."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH_PLAIN: Final = 120


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, and whether it held."""

    name: str
    held: bool
    found: str = ""


@dataclass
class Story:
    """Prints chapters, sentences and checks; plain text when nobody looks at a terminal."""

    out: Console
    checks: list[Check] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    _chapter: int = 0

    @classmethod
    def on_stdout(cls) -> "Story":
        """A story for standard output as it is."""
        out = Console(highlight=False)
        return cls(out if out.is_terminal else Console(highlight=False, width=WIDTH_PLAIN))

    def chapter(self, title: str) -> None:
        """Begin a new part."""
        self._chapter += 1
        self.out.print()
        self.out.print(Text(f"{self._chapter}. {title}", style="bold"))

    def say(self, sentence: str, style: str = "") -> None:
        """Say something."""
        self.out.print(Text(f"   {sentence}", style=style), soft_wrap=True)

    def aside(self, line: str) -> None:
        """Say something of less weight."""
        self.say(line, style="dim")

    def check(self, name: str, held: bool, found: object = "") -> bool:  # noqa: FBT001  (reads as a sentence)
        """Record a claim and print whether it held.

        Args:
            name: The claim, as a sentence that is true when it holds.
            held: Whether it does.
            found: What was found; shown with it.

        Returns:
            `held`.
        """
        check = Check(name, held, str(found))
        self.checks.append(check)
        mark = Text("   ok      ", style="green") if held else Text("   FAILED  ", style="bold red")
        mark.append(name, style="")
        if check.found:
            mark.append(f"  [{check.found}]", style="dim")
        self.out.print(mark, soft_wrap=True)
        return held

    def expect(self, name: str, expected: object, found: object) -> bool:
        """Record that two things are equal."""
        if expected == found:
            return self.check(name, True, found if isinstance(found, int | str) else "")  # noqa: FBT003
        return self.check(name, False, f"expected {expected}, found {found}")  # noqa: FBT003

    def fact(self, name: str, value: object) -> None:
        """Keep a number for the summary."""
        self.facts.append((name, str(value)))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a small table; every column but the first is of numbers."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="right" if number else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self.out.print(table)

    @property
    def failed(self) -> list[Check]:
        """The claims that did not hold."""
        return [check for check in self.checks if not check.held]

    def summary(self, where_next: Sequence[tuple[str, str]]) -> None:
        """Print the facts, where to look next, and whether all of it was true."""
        self.out.print()
        self.out.print(Text("Summary", style="bold"))
        self._pairs(self.facts)
        if self.failed:
            self.out.print(Text(f"\n{len(self.failed)} of {len(self.checks)} checks FAILED:", style="bold red"))
            for check in self.failed:
                self.out.print(Text(f"   {check.name}  [{check.found}]", style="red"), soft_wrap=True)
            return
        self.out.print(Text(f"\nAll {len(self.checks)} checks held.", style="bold green"))
        self.out.print()
        self.out.print(Text("Where to look next", style="bold"))
        self._pairs(where_next)

    def _pairs(self, pairs: Sequence[tuple[str, str]]) -> None:
        grid = Table.grid(padding=(0, 3, 0, 0))
        for name, value in pairs:
            grid.add_row(Text(f"   {name}"), Text(value))
        self.out.print(grid)
