"""`ke entities`: who and what the sources of a project are about, and what is mentioned together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from ke.cli import output
from ke.cli.options import ApiUrl, Cursor, EntityId, Json, Limit, parse_project
from ke.cli.projects import check_project
from ke.cli.session import call
from ke.cli.tables import cell, new_table, print_table
from ke.cli.text import count

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

NOTHING: Final = "Nothing found."

app = typer.Typer(no_args_is_help=True, help="The named entities of a project, merged by name.")

Label = Annotated[
    str | None,
    typer.Option(metavar="LABEL", help="Only this label: PERSON, ORG, DATE, ...; all: all. Without: names, no values."),
]


@app.command("list")
def list_entities(
    *,
    project: Annotated[
        str | None,
        typer.Option(metavar="NAME", parser=parse_project, help="Only this project; without: all of them."),
    ] = None,
    label: Label = None,
    q: Annotated[str | None, typer.Option("--name", metavar="TEXT", help="Only names that begin so.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List the named entities, most mentioned first; one name in two projects is two entities."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        page = await ke.list_merged_entities(project=project, label=label, q=q, limit=limit, cursor=cursor)
        if project is not None and not page["data"] and cursor is None:
            await check_project(ke, project)
        return page

    nothing = NOTHING if project is None else f"Nothing found in the project {project}."
    output.emit(call(api_url, work), lambda out, found: _entities(out, found, nothing=nothing), as_json=as_json)


@app.command("get")
def get_entity(entity: EntityId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show one entity, with its other spellings."""
    found = call(api_url, lambda ke: ke.get_merged_entity(entity))
    output.emit(found, lambda out, one: _entities(out, {"data": [one]}), as_json=as_json)


@app.command("sources")
def list_sources(
    entity: EntityId, *, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False, api_url: ApiUrl = None
) -> None:
    """List the sources that mention an entity."""
    page = call(api_url, lambda ke: ke.list_mentioning_sources(entity, limit=limit, cursor=cursor))
    output.emit(page, _sources, as_json=as_json)


@app.command("neighbours")
def list_neighbours(
    entity: EntityId, *, label: Label = None, limit: Limit = 20, as_json: Json = False, api_url: ApiUrl = None
) -> None:
    """List what is mentioned in the same chunks as an entity, the closest first."""
    found = call(api_url, lambda ke: ke.list_neighbours(entity, label=label, limit=limit))
    output.emit({"data": found}, _neighbours, as_json=as_json)


def _entities(out: Console, page: Mapping[str, Any], *, nothing: str = NOTHING) -> None:
    rows = (
        (
            entity["id"],
            count(entity["mentions"]),
            count(entity["sources"]),
            entity["label"],
            entity["name"],
            entity["project"],
            ", ".join(entity["aliases"]),
        )
        for entity in page["data"]
    )
    _print(out, ("ID", "MENTIONS", "SOURCES", "LABEL", "NAME", "PROJECT", "ALSO"), rows, nothing)
    output.next_page(page)


def _sources(out: Console, page: dict[str, Any]) -> None:
    rows = ((source["id"], count(source["mentions"]), source["url"], source["title"]) for source in page["data"])
    _print(out, ("ID", "MENTIONS", "URL", "TITLE"), rows)
    output.next_page(page)


def _neighbours(out: Console, found: dict[str, Any]) -> None:
    rows = (
        (
            entity["id"],
            count(entity["together"]),
            count(entity["mentions"]),
            entity["label"],
            entity["name"],
        )
        for entity in found["data"]
    )
    _print(out, ("ID", "TOGETHER", "MENTIONS", "LABEL", "NAME"), rows)


def _print(out: Console, columns: Sequence[str], rows: Iterable[Sequence[str | None]], nothing: str = NOTHING) -> None:
    """One line for each row, numbers to the right; `nothing` where there is none."""
    table = new_table(columns, numbers=("MENTIONS", "SOURCES", "TOGETHER"))
    for row in rows:
        table.add_row(*map(cell, row))
    if table.row_count:
        print_table(out, table)
    else:
        out.print(nothing)
