"""Tables of a page: which hold data and which the layout, and how those of data are written."""

from typing import Final

from selectolax.lexbor import LexborNode

_IN_LAYOUT: Final = "tr table, tr pre, tr ul, tr ol, tr dl, tr h1, tr h2, tr h3, tr h4, tr h5, tr h6"
"""What a table of data does not hold: a table with one of these in a cell is there for the layout."""
_MAX_CLIMB: Final = 32
"""Elements between a cell and what stands in it, at most; a deeper one does not make its table a layout."""


def layout_tables(root: LexborNode) -> frozenset[int]:
    """The tables that hold more than data, by `mem_id`: each inner block marks the next table above it."""
    layouts: set[int] = set()
    for block in root.css(_IN_LAYOUT):
        above = block.parent
        for _ in range(_MAX_CLIMB):
            if above is None or above.tag == "table":
                break
            above = above.parent
        if above is not None and above.tag == "table":
            layouts.add(above.mem_id)
    return frozenset(layouts)


def written_rows(rows: list[list[str]]) -> list[str]:
    """A table in Markdown's notation; one with a single column as a block a row."""
    rows = [row for row in rows if any(row)]
    width = max(map(len, rows), default=0)
    if width <= 1:
        return [row[0] for row in rows]
    cells = [[cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + "---|" * width)
    return ["\n".join(lines)]
