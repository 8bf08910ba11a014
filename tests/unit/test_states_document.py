"""docs/states.md, held against the code: every test that it names exists, and every state and route is one."""

import ast
import re
from pathlib import Path

import pytest

from api.app import assemble
from ke.contracts.jobs import ACTIVE, TRANSITIONS, Artifacts, JobStatus

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")


def table(title: str) -> list[list[str]]:
    """The cells of the first table under a heading, its head first."""
    part = TEXT.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = part[part.index("\n|") :].lstrip("\n").split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("|--")]


def names_of_tests() -> set[str]:
    """The names of all tests."""
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py"))
    functions = (node for tree in trees for node in ast.walk(tree))
    return {
        node.name
        for node in functions
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_race_names_the_test_that_shows_it() -> None:
    """Each row of the races has an outcome and tests, and they exist."""
    there = names_of_tests()
    for race, outcome, shown_by in table("Races")[1:]:
        named = re.findall(r"`(test_\w+)`", shown_by)
        assert named, race
        assert outcome, race
        assert set(named) <= there, race


def test_table_of_events_has_every_state() -> None:
    """Its columns are the states that go on, and one for those that are final."""
    head = table("What each event does in each state")[0]
    assert head == ["event", *(f"`{status}`" for status in JobStatus if status in ACTIVE), "ended"]


@pytest.mark.parametrize("status", [*JobStatus, *Artifacts])
def test_every_state_is_told(status: str) -> None:
    """No state is left out."""
    assert f"`{status}`" in TEXT


def test_refusals_that_are_told_exist() -> None:
    """Each problem behind a 409 is one of the API."""
    errors = (ROOT / "ke/contracts/errors.py").read_text() + (ROOT / "api/errors.py").read_text()
    told = set(re.findall(r"409 `([a-z-]+)`", TEXT))
    assert told
    assert told <= set(re.findall(r'code = "([\w-]+)"', errors))


def test_routes_that_are_told_exist() -> None:
    """Each route among the events is one of the API."""
    paths = assemble().openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told = set(re.findall(r"`((?:POST|DELETE) /[^`]*)`", TEXT))
    assert told
    assert told <= routes


def test_changes_of_state_that_are_told_are_allowed() -> None:
    """Where an event leads to from a state is a way that the map of changes has, over one step or two."""
    head, *rows = table("What each event does in each state")
    for event, *cells in rows:
        for state, cell in zip(head[1:-1], cells, strict=False):
            start = JobStatus(state.strip("`"))
            near = TRANSITIONS[start]
            ways = {start} | near | {far for step in near for far in TRANSITIONS[step]}
            told = {JobStatus(name) for name in re.findall(r"`(\w+)`", cell) if name in set(JobStatus)}
            assert told <= ways, (event, state)
