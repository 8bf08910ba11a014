"""What the command line says where it was asked for what cannot be, or where nothing is: a line that helps."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ke.cli.main import run
from tests.integration.api_twin import ApiTwin, serving

SITE = "https://site.example/"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        monkeypatch.setenv("KE_API_URL", twin.url)
        yield twin


@pytest.fixture
def schema(tmp_path: Path) -> str:
    path = tmp_path / "schema.json"
    path.write_text('{"type": "object"}')
    return str(path)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize("command", ["crawl", "scrape"])
@pytest.mark.parametrize(
    "said",
    [
        ("--schema", "SCHEMA"),
        ("--instructions", "dates"),
        ("--model", "m"),
        ("--max-tokens", "9"),
        ("--chunk-size", "5"),
        ("--chunk-tokens", "64"),
        ("--embedder", "minilm"),
        ("--no-entities",),
    ],
)
def test_no_extraction_and_how_to_extract_do_not_go_together(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], schema: str, command: str, said: tuple[str, ...]
) -> None:
    """Both options are named, the exit code is 2, and nothing is sent."""
    option, *value = said
    assert run([command, SITE, "--no-extract", option, *(schema if v == "SCHEMA" else v for v in value)]) == 2
    assert error_of(capsys).startswith(f"--no-extract and {option} do not go together")
    assert not api.calls


@pytest.mark.parametrize("command", [("crawl", SITE), ("scrape", SITE), ("extract", "--source", str(uuid.uuid4()))])
def test_what_is_about_records_goes_with_a_schema(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], schema: str, command: tuple[str, ...]
) -> None:
    """Instructions, a model or a budget without a schema are refused before anything is sent; with one they go out."""
    for option, value in (("--instructions", "dates"), ("--model", "m"), ("--max-tokens", "9")):
        assert run([*command, option, value]) == 2
        assert error_of(capsys) == f"{option} goes with --schema only"
    assert not api.calls
    assert run([*command, "--schema", schema, "--model", "m", "--embedder", "minilm"]) == 0
    body = api.calls[-1].body
    spec = body if body["kind"] == "extract" else body["extract"]
    assert {name: spec[name] for name in ("schema", "model", "embedder")} == {
        "schema": {"type": "object"},
        "model": "m",
        "embedder": "minilm",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: no such file or directory"),
        (b"{", "is not JSON: "),
        (b"\xff", "is not JSON: it is not UTF-8 at byte 0"),
        (b"[]", "is not a JSON Schema: that is an object"),
    ],
)
def test_a_schema_that_cannot_be_read_says_why(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None, words: str
) -> None:
    """The option and the file are named."""
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_bytes(content)
    assert run(["crawl", SITE, "--schema", str(path)]) == 2
    assert error_of(capsys).startswith(f"--schema: {path} {words}")
    assert not api.calls


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1", "soon"])
@pytest.mark.parametrize("option", ["--delay", "--timeout"])
def test_seconds_are_a_number(api: ApiTwin, capsys: pytest.CaptureFixture[str], option: str, seconds: str) -> None:
    """What is no number of seconds is refused at its option."""
    assert run(["crawl", SITE, option, seconds]) == 2
    assert error_of(capsys) == f"Invalid value for '{option}': '{seconds}' is not a number of seconds"
    assert not api.calls


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("crawl", SITE, "--max-pages", "many"), "This must be a whole number"),
        (("crawl", SITE, "--concurrency", "1.5"), "This must be a whole number"),
        (("search", "lamps", "--limit", "0"), "This must be at least 1"),
        (("search", "lamps", "--limit", "9" * 5000), "This number has too many digits"),
        (("doctor", "--max-share", "2"), "This must be at most 1"),
        (("doctor", "--max-share", "half"), "This must be a number"),
    ],
    ids=str,
)
def test_numbers_that_do_not_fit_are_told_in_our_words(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], words: str
) -> None:
    """At the option, and nothing is sent."""
    assert run(command) == 2
    assert error_of(capsys) == f"Invalid value for '{command[-2]}': {words}"
    assert not api.calls


def test_extract_of_nothing_or_of_two_things_says_what_to_give(
    api: ApiTwin, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job or sources: each of the two mistakes has its own words."""
    job = str(uuid.uuid4())
    assert run(["extract"]) == 2
    assert error_of(capsys) == "say what to extract: JOB, for all that a job has stored, or --source SOURCE"
    assert run(["extract", job, "--source", job]) == 2
    assert error_of(capsys) == "JOB and --source do not go together: a job stands for all that it has stored"
    assert not api.calls


@pytest.mark.parametrize(
    "command",
    [
        ("crawl", SITE, "--project"),
        ("search", "lamps", "--project"),
        ("jobs", "list", "--project"),
        ("entities", "list", "--project"),
        ("projects", "cleanup"),
    ],
)
def test_a_name_that_no_project_has_is_refused(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """It is told what a name looks like, and nothing is sent."""
    for name in ("a b", "../x", "x" * 65):
        assert run([*command, name]) == 2
        assert "is no project's name: that is 1 to 64 letters, digits" in error_of(capsys)
    assert not api.calls


def test_the_label_of_an_entity_goes_with_an_entity(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it is refused in the command line's terms."""
    assert run(["search", "lamps", "--entity-label", "ORG"]) == 2
    assert error_of(capsys) == "--entity-label goes with --entity only"
    assert not api.calls


@pytest.mark.parametrize(
    "command", [("search", "lamps", "--project"), ("jobs", "list", "--project"), ("entities", "list", "--project")]
)
def test_a_project_that_does_not_exist_is_told(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Where nothing is found the projects are looked through: exit code 4 and those there are, or just nothing."""
    api.projects, api.has_entities = ["docs", "lights"], False
    assert run([*command, "lihgts"]) == 4
    assert error_of(capsys) == "there is no project lihgts; there are: docs, lights"
    assert run([*command, "lights"]) == 0
    assert capsys.readouterr().err == ""
    api.projects = [f"p{number}" for number in range(10)]
    assert run([*command, "x"]) == 4
    assert error_of(capsys).endswith("p6, p7 and 2 more")
    api.projects = []
    assert run([*command, "x"]) == 4
    assert error_of(capsys) == "there is no project x: there is none yet"


def test_entities_are_of_all_projects_unless_one_is_named(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """As a search is: without --project none is asked for, and each entity is told with its own."""
    api.entity["project"] = "lights"
    assert run(["entities", "list"]) == 0
    assert "project" not in api.calls[-1].query
    header, row = capsys.readouterr().out.splitlines()
    assert (header.index("PROJECT"), row[header.index("PROJECT") :].split()[0]) == (row.index("lights"), "lights")
    api.has_entities = False
    assert run(["entities", "list"]) == 0
    assert capsys.readouterr().out == "Nothing found.\n"
    assert run(["entities", "list", "--project", "docs"]) == 0
    assert capsys.readouterr().out == "Nothing found in the project docs.\n"


def test_projects_are_listed(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a project."""
    api.projects = ["docs", "lights"]
    assert run(["projects", "list"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["PROJECT", "JOBS"],
        ["docs", "1"],
        ["lights", "1"],
    ]


def test_search_by_an_embedder_that_embedded_nothing_says_so(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside what the words found, or nothing, it says by which embedder to ask."""
    api.embedders = ["wordllama"]
    assert run(["search", "lamps", "--embedder", "minilm"]) == 0
    assert capsys.readouterr().out == (
        "Nothing found.\nNothing here was embedded by the embedder asked: try --embedder wordllama.\n"
    )
    api.embedders = []
    assert run(["search", "lamps"]) == 0
    assert capsys.readouterr().out == "Nothing found.\n"


def test_a_dry_run_names_no_receipt(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """There is none yet, so no id of one is shown, of a job, a source or a project."""
    job = api.add_job("completed")
    for command in (("jobs", "cleanup", job), ("sources", "forget", job), ("projects", "cleanup", "lights")):
        assert run([*command, "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "dry run: nothing was deleted" in shown
        assert "cleanup-" not in shown


@pytest.mark.parametrize("command", [("jobs", "cleanup"), ("sources", "forget")])
def test_help_of_a_cleanup_names_what_goes(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Every store is named."""
    assert run([*command, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(store in shown for store in ("vectors", "extractions", "entities", "records", "dead letters", "pages"))
    assert not api.calls


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (("search", "lamps"), "--mode"),
        (("jobs", "list"), "--status"),
        (("jobs", "list"), "--kind"),
        (("crawl", SITE), "--reading"),
        (("dead-letters", "list", str(uuid.uuid4())), "--subject"),
    ],
)
def test_what_is_no_choice_is_told_with_the_choices(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], option: str
) -> None:
    """In one sentence, without what a library puts before it."""
    assert run([*command, option, "other"]) == 2
    assert error_of(capsys).startswith(f"Invalid value for '{option}': 'other' is not one of '")
    assert not api.calls
