"""`ke search`: ask what the jobs have stored."""

from typing import Annotated

import typer

from ke.cli import output
from ke.cli.options import ApiUrl, Json, parse_job_id
from ke.cli.session import call


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, or what a passage is about.")],
    *,
    job: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", parser=parse_job_id, help="Only what this job extracted; may be repeated."),
    ] = None,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Only this project.")] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Hits, at most.")] = 5,
    embedder: Annotated[str | None, typer.Option(metavar="NAME", help="The embedder whose vectors are asked.")] = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Find the passages whose meaning is nearest to a question."""
    hits = call(
        api_url,
        lambda ke: ke.search(query, job_ids=job or None, project=project, limit=limit, embedder=embedder),
    )
    output.emit({"data": hits}, output.search_hits, as_json=as_json)
