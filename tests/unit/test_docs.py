"""The documents, held against the code: what they name is there, and what is there they name."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from api.app import assemble
from api.schemas import CrawlBody, ExtractBody, ExtractOptions, ScrapeBody
from api.search_body import SearchBody
from ke.cli.errors import ExitCode
from ke.cli.main import app
from ke.contracts.cleanup import STORES
from ke.contracts.jobs import COUNTER_NAMES, Artifacts, CancellationReceipt, JobStatus
from ke.mcp.server import create_server
from ke.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [
        *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "examples" / "README.md",
    ]
)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
FILE = re.compile(
    r"(?:ke|api|activities|workflows|tests|tools|examples|docs)/[\w./-]*|[\w-]+\.(?:py|yml|json|toml|lock)"
)
NOT_OURS = {"bench.json", "collection.json", "endpoints.json", "site.json", "ke/0.1"}
"""What looks like a path of the project, and is written by it, or is none."""
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def section(title: str) -> str:
    """The part of the README under a heading."""
    found = re.search(rf"^#+ {title}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of the tables in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def commands(text: str, program: str) -> Iterator[str]:
    """What follows a program's name in code: in spans, and in lines of blocks that begin with it or a `$`."""
    code = [*SPAN.findall(text), *(line for block in FENCE.findall(text) for line in block.splitlines())]
    for piece in code:
        line = re.sub(r"^(\$ |\S+/)*(?:[A-Z_]+=\S+ )*", "", piece.split("  #")[0].strip())
        if line.startswith(f"{program} "):
            yield line.removeprefix(f"{program} ")


def code_of(document: Path, program: str) -> list[str]:
    return list(commands(document.read_text(encoding="utf-8"), program))


# Settings, commands, targets


def test_documents_name_every_setting_and_no_other() -> None:
    """The table of settings has each with its default, and no document names a setting that is none."""
    table = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    fields = {f"KE_{name.upper()}": field.default for name, field in Settings.model_fields.items()}
    told = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(table)[1:]}
    assert list(told) == list(fields)
    hosts = ",".join(sorted(fields["KE_API_HOSTS"]))
    wordy = {"KE_TASK_QUEUES": "all", "KE_CPU_PROCESSES": "one a core", "KE_FETCH_ALLOW": "-", "KE_API_HOSTS": hosts}
    wordy["KE_ENTITY_PROCESSES"] = "as many"
    for name, default in fields.items():
        plain = str(default).lower() if isinstance(default, bool) else str(default)
        assert told[name] == wordy.get(name, "-" if default is None else plain), name
    for document in DOCUMENTS:
        assert set(re.findall(r"\bKE_[A-Z_]+\b", document.read_text(encoding="utf-8"))) <= set(fields), document


@each_document
def test_every_command_that_is_shown_exists(document: Path) -> None:
    """Each `ke ...` in code is a command of the CLI, with options that it has."""
    for shown in code_of(document, "ke"):
        command: Any = typer.main.get_command(app)
        words = shown.split()
        while words and hasattr(command, "commands"):
            name = words.pop(0)
            if name.startswith("-"):
                break
            assert name in command.commands, f"ke {shown}"
            command = command.commands[name]
        if command.name != "temporal":  # the rest is for Temporal's own CLI
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(OPTION.findall(shown)) <= known | {"--help"}, f"ke {shown}"


def test_readme_names_every_command() -> None:
    """No command is left out of the README."""
    shown = code_of(ROOT / "README.md", "ke")
    for path in leaves(typer.main.get_command(app)):
        assert any(f"{line} ".startswith(f"{path} ") for line in shown), path


def leaves(command: Any, path: str = "") -> Iterator[str]:
    for name, child in getattr(command, "commands", {}).items():
        full = f"{path} {name}".strip()
        yield from leaves(child, full) if hasattr(child, "commands") else [full]


@each_document
def test_every_make_target_that_is_shown_exists(document: Path) -> None:
    """Each `make ...` in code is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for shown in code_of(document, "make"):
        assert shown.split()[0].rstrip(";") in targets, f"make {shown}"


def test_exit_codes_are_told() -> None:
    """The table of exit codes has those that the CLI gives."""
    told = [int(cells[0]) for cells in rows(section("Quick start")) if cells[0].isdigit()]
    assert told == [code.value for code in ExitCode]


# The API


def test_readme_lists_every_route_and_no_other() -> None:
    """The table of routes is the API's."""
    told = {cells[0].strip("`") for cells in rows(section("HTTP"))[1:]}
    paths = assemble().openapi()["paths"]
    assert told == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    """The fields of a body with their defaults, those of its parts under dotted names."""
    for name, field in model.model_fields.items():
        default: object = "required" if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            yield from fields_of(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{field.alias or name}", default


def test_readme_tells_every_field_of_a_job_with_its_default() -> None:
    """The table of fields has those that the API takes, each with the default that it has."""
    expected: dict[str, str] = {}
    for model in (ScrapeBody, CrawlBody, ExtractBody, ExtractOptions):
        for name, default in fields_of(model):
            expected[name] = "required" if default == "required" else json.dumps(default)
    del expected["kind"]
    told = {cells[1].strip("`"): cells[2].strip("`") for cells in rows(section("Jobs"))[1:]}
    assert told == expected


def test_search_tells_every_field_with_its_default() -> None:
    """The table of what a search takes is the body's."""
    told = {cells[0].strip("`"): cells[1] for cells in rows((ROOT / "docs/SEARCH.md").read_text(encoding="utf-8"))[1:]}
    defaults = {name: field.default for name, field in SearchBody.model_fields.items() if not field.is_required()}
    assert told == {"query": "required"} | {name: f"`{json.dumps(value)}`" for name, value in defaults.items()}


def test_readme_tells_states_counters_and_receipts() -> None:
    """Each state, counter, store and member of a receipt is explained; each problem that is named exists."""
    told = set(SPAN.findall(section("Jobs")))
    names: list[str] = [*JobStatus, *Artifacts, *COUNTER_NAMES, *STORES, *CancellationReceipt.__dataclass_fields__]
    assert set(names) <= told
    problems = set(re.findall(r"class \w+\(\w+\):.*?code = \"([\w-]+)\"", _errors(), re.DOTALL))
    assert set(re.findall(r"urn:ke:problem:([\w-]+)", README)) <= problems


def _errors() -> str:
    return "".join((ROOT / name).read_text(encoding="utf-8") for name in ("ke/contracts/errors.py", "api/errors.py"))


async def test_readme_names_every_mcp_tool() -> None:
    """The tools that are named are those that the server has, and the configuration that is shown is JSON."""
    text = section("MCP")
    tools = {tool.name for tool in await create_server().list_tools()}
    first = text.split(" on stdin")[0]
    assert set(SPAN.findall(first)) - {"ke mcp"} == tools
    configuration: Mapping[str, Any] = json.loads(FENCE.findall(text)[0])
    assert set(configuration["mcpServers"]["ke"]["env"]) <= {f"KE_{name.upper()}" for name in Settings.model_fields}


# Links and files


@each_document
def test_relative_links_resolve(document: Path) -> None:
    """Each link to a file leads to one, and each link to a heading to that."""
    for target in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        assert not heading or heading in _anchors(file), target


def _anchors(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_files_that_are_named_exist(document: Path) -> None:
    """Each path of the project that stands in code is there, from the root or from the room that the text is about."""
    for span in SPAN.findall(document.read_text(encoding="utf-8")):
        if not FILE.fullmatch(span) or span in NOT_OURS:
            continue
        places = [ROOT / span, *ROOT.glob(f"ke/*/{span}"), *ROOT.glob(f"*/{span}"), *ROOT.glob(f"ke/*/*/{span}")]
        assert any(place.exists() for place in places), span


@pytest.mark.parametrize(("name", "most"), [("README.md", 300), ("ARCHITECTURE.md", 250)])
def test_documents_stay_short(name: str, most: int) -> None:
    """What grows beyond this is not read."""
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


def test_decisions_are_numbered_and_have_their_three_parts() -> None:
    """Decisions are numbered without a gap, and each has a context, a decision and consequences."""
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(record.name[:4]) for record in records] == list(range(1, len(records) + 1))
    for number, record in enumerate(records, start=1):
        text = record.read_text(encoding="utf-8")
        assert text.startswith(f"# {number}. ")
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
