"""Tables as `ke` prints them: as such where there is room, and else a block for each row.

That is the expanded automatic mode of psql (https://www.postgresql.org/docs/current/app-psql.html, `expanded`).
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from ke.cli.text import clean

PIPE_WIDTH: Final = 1_000_000
"""Columns of a table that goes to a file or a pipe: nothing is cut."""
LEAST_WIDTH: Final = 24
"""Characters to which an elastic column is cut on a terminal, at most."""
_ELASTIC: Final = frozenset(
    {"URL", "FIRST URL", "FOUND ON", "MESSAGE", "ITS MESSAGE", "TITLE", "REASON", "DATA", "NAME", "ALSO"}
)
"""Columns of which a part tells enough; the others, ids above all, stay whole."""


def new_table(columns: Sequence[str], *, numbers: Iterable[str] = ()) -> Table:
    """A table without a frame, numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    right = frozenset(numbers)
    for name in columns:
        # Rich takes what is missing from columns that may wrap, the widest first; cells themselves never do.
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name not in _ELASTIC)
    return table


def cell(value: Any) -> Text:
    """A cell of a table: cleaned, on one line, a dash for what is not there."""
    if isinstance(value, Text):
        return value
    return Text("-" if value is None else clean(value) or "-", no_wrap=True, overflow="ellipsis")


def print_table(out: Console, table: Table) -> None:
    """Print a table; on a terminal that is too narrow for it a block of `NAME  value` lines for each row."""
    if out.is_terminal and _least_width(out, table) > out.width:
        _print_blocks(out, table)
    else:
        print_unpadded(out, table)


def print_unpadded(out: Console, table: Table) -> None:
    """Print a table as it is; into a file or a pipe without the blanks that fill up its last column."""
    if out.is_terminal:
        out.print(table)
        return
    with out.capture() as captured:
        out.print(table)
    for line in captured.get().removesuffix("\n").split("\n"):
        out.out(line.rstrip(" "), highlight=False)


def _least_width(out: Console, table: Table) -> int:
    """The columns of a terminal that a table needs when all that is elastic is cut."""
    elastic = [column for column in table.columns if column.header in _ELASTIC]
    for column in elastic:
        column.max_width = LEAST_WIDTH
    width = Measurement.get(out, out.options.update(width=PIPE_WIDTH), table).maximum
    for column in elastic:
        column.max_width = None
    return width


def _print_blocks(out: Console, table: Table) -> None:
    """Print each row as lines that the terminal wraps, a blank one between two rows."""
    names = [str(column.header) for column in table.columns]
    width = max(map(len, names))
    for number, row in enumerate(zip(*map(_cells, table.columns), strict=True)):
        if number:
            out.print()
        for name, value in zip(names, row, strict=True):
            out.print(Text.assemble((name.ljust(width), "bold"), "  ", value), soft_wrap=True)


def _cells(column: Column) -> list[Text]:
    return [value if isinstance(value, Text) else Text(str(value)) for value in column.cells]
