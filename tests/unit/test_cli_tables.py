"""Tables on terminals of several widths, and in a pipe."""

import functools
import io
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from ke.cli import output
from ke.cli.tables import LEAST_WIDTH, PIPE_WIDTH

URL = "https://example.com/lighthouses/scotland/the-bell-rock-and-its-builders-and-what-became-of-them.html"
MESSAGE = "the server answered 404 Not Found, and so did it when it was asked again a minute later, as it was told to"
IDS = [str(uuid.UUID(int=number)) for number in (1, 2)]
JOBS = [
    {
        "id": job_id,
        "kind": "extract",
        "status": "completed_with_errors",
        "artifacts": "present",
        "result": {"pages_fetched": 1234, "sources": 1200, "extractions": 56789},
        "project": "lights",
    }
    for job_id in IDS
]
LETTERS = [
    {
        "id": letter_id,
        "subject": "page",
        "attempts": 3,
        "error_type": "not-found",
        "url": URL,
        "found_on": URL.replace("scotland", "england"),
        "error_message": MESSAGE,
    }
    for letter_id in IDS
]
SOURCES = [{"id": source_id, "bytes": 2048, "project": "lights", "url": URL, "title": MESSAGE} for source_id in IDS]
PAGES = [{"state": "skipped", "http_status": 404, "url": URL, "reason": MESSAGE}, {"state": "fetched", "url": URL}]
VIEWS: dict[str, tuple[Callable[[Console, Any], None], list[dict[str, Any]]]] = {
    "jobs": (output.job_list, JOBS),
    "letters": (output.dead_letter_list, LETTERS),
    "sources": (functools.partial(output.source_list, nothing=""), SOURCES),
    "pages": (output.page_list, PAGES),
}


def shown(name: str, width: int, *, is_terminal: bool = True) -> list[str]:
    """The lines of a list on a console."""
    view, rows = VIEWS[name]
    stream = io.StringIO()
    view(Console(file=stream, width=width, force_terminal=is_terminal, color_system=None), {"data": rows})
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("name", "width"),
    [("jobs", 120), ("jobs", 200), ("letters", 200), ("sources", 120), ("sources", 200), ("pages", 80), ("pages", 120)],
)
def test_a_table_that_fits_is_one_line_a_row(name: str, width: int) -> None:
    """If need be its elastic columns are cut, to 24 characters at most, and nothing else is."""
    header, *lines = shown(name, width)
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    for row, line in zip(VIEWS[name][1], lines, strict=True):
        cells = line.split()
        assert row.get("id", row.get("state")) == cells[0]
        assert not any(len(cell) < LEAST_WIDTH for cell in cells if cell.startswith("http") and cell.endswith("…"))
    assert "…" not in header


@pytest.mark.parametrize(("name", "width"), [("jobs", 80), ("letters", 80), ("letters", 120), ("sources", 80)])
def test_what_does_not_fit_is_a_block_for_each_row(name: str, width: int) -> None:
    """As psql's expanded display: each column a line, nothing cut or broken, a blank line between two rows."""
    lines = shown(name, width)
    assert lines.count("") == 1
    first, second = lines[: lines.index("")], lines[lines.index("") + 1 :]
    assert [line.split()[0] for line in first] == [line.split()[0] for line in second]
    assert (first[0].split(), second[0].split()) == (["ID", IDS[0]], ["ID", IDS[1]])
    assert "…" not in "".join(lines)
    values = [line.split(maxsplit=1)[1] for line in first]
    assert all(str(value) in " ".join(values) for value in VIEWS[name][1][0].values() if isinstance(value, str))


@pytest.mark.parametrize("name", VIEWS)
def test_a_pipe_gets_whole_lines_without_blanks_at_their_end(name: str) -> None:
    """However long they are: that is what `| cat` is for."""
    lines = shown(name, PIPE_WIDTH, is_terminal=False)
    assert len(lines) == 3
    assert lines == [line.rstrip() for line in lines]
    assert "…" not in "".join(lines)


def test_a_block_names_a_row_by_its_columns() -> None:
    """Names are padded to the longest, numbers stand as in the table."""
    block = shown("jobs", 80)[:9]
    assert block == [
        f"ID         {IDS[0]}",
        "KIND       extract",
        "STATUS     completed_with_errors",
        "ARTIFACTS  present",
        "PAGES      1,234",
        "SOURCES    1,200",
        "CHUNKS     56,789",
        "AGE        -",
        "PROJECT    lights",
    ]
