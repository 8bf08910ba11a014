"""Tables as `ke` prints them."""

from collections.abc import Iterable, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

_LEAST_WIDTHS: Final = {"ID": 36, "EARLIER SOURCE": 36}


def new_table(columns: Sequence[str], *, numbers: Iterable[str] = ()) -> Table:
    """Where there is little room ids stay whole, and all else is cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    right = frozenset(numbers)
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=_LEAST_WIDTHS.get(name),
        )
    return table


def print_table(out: Console, table: Table) -> None:
    """Print a table; into a file or a pipe without the blanks that fill up its last column."""
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().removesuffix("\n").split("\n"):
        out.out(line.rstrip(" "), highlight=False)
