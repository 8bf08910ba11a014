"""`ke projects`: the names under which jobs were submitted; and whether there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.options import ApiUrl, Cursor, DryRun, Json, Limit, Timeout, Wait, parse_project
from ke.cli.receipts import clean_up
from ke.cli.session import call
from ke.cli.text import clean

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

MAX_READ: Final = 200
"""Projects that are looked through."""
MAX_NAMED: Final = 8
"""Projects that a line names."""

app = typer.Typer(no_args_is_help=True, help="What the jobs of a project made, together.")


@app.command("list")
def list_projects(*, limit: Limit = 50, cursor: Cursor = None, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """List the projects, in the order of their first jobs."""
    page = call(api_url, lambda ke: ke.list_projects(limit=limit, cursor=cursor))
    output.emit(page, output.project_list, as_json=as_json)


@app.command("cleanup")
def clean_up_project(
    project: Annotated[str, typer.Argument(metavar="NAME", parser=parse_project, help="The project's name.")],
    *,
    dry_run: DryRun = False,
    delete_record: Annotated[bool, typer.Option("--delete-record", help="Delete the jobs' records too.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete all that the ended jobs of a project made, as `ke jobs cleanup` does; refused while it has active jobs."""
    clean_up(
        lambda ke: ke.cleanup_project(project, dry_run=dry_run, delete_record=delete_record),
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )


async def check_project(ke: KnowledgeExtractionClient, project: str) -> None:
    """Makes sure that a project exists in which nothing was found.

    Raises:
        CommandFailed: There is none; it names those there are.
    """
    page: dict[str, Any] = dict(await ke.list_projects(limit=MAX_READ))
    names = [str(entry["name"]) for entry in page["data"]]
    if project not in names and page["next_cursor"] is None:
        there_are = f"; there are: {_named(names)}" if names else ": there is none yet"
        detail = f"there is no project {project}{there_are}"
        problem = {"type": "urn:ke:problem:not-found", "title": "There is no such thing", "detail": detail}
        raise CommandFailed(detail, ExitCode.NOT_FOUND, problem)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return clean(", ".join(names[:MAX_NAMED])) + more
