"""`ke search`: ask what the jobs have stored."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ke.cli import output
from ke.cli.errors import wrong_usage
from ke.cli.options import ApiUrl, Json, parse_job_id, parse_project
from ke.cli.projects import check_project
from ke.cli.session import call

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient


class Mode(StrEnum):
    """How to search."""

    HYBRID = "hybrid"
    DENSE = "dense"
    TEXT = "text"


def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, or what a passage is about.")],
    *,
    mode: Annotated[
        Mode | None,
        typer.Option(help="By meaning (dense), by words (text), or both (hybrid), the default."),
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", parser=parse_job_id, help="Only what this job extracted; may be repeated."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="NAME", parser=parse_project, help="Only this project; without: all of them.")
    ] = None,
    url_prefix: Annotated[str | None, typer.Option(metavar="URL", help="Only sources whose URL begins so.")] = None,
    language: Annotated[
        str | None, typer.Option(metavar="CODE", help="Only sources in this language, as `en`; en-gb is en too.")
    ] = None,
    date_from: Annotated[
        str | None, typer.Option(metavar="DAY", help="Only sources published on this day (2026-03-31) or later.")
    ] = None,
    date_to: Annotated[
        str | None, typer.Option(metavar="DAY", help="Only sources published on this day or before.")
    ] = None,
    entity: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only passages that mention this named entity.")
    ] = None,
    entity_label: Annotated[
        str | None, typer.Option(metavar="LABEL", help="What kind of entity that is, as PERSON or ORG.")
    ] = None,
    every_chunk: Annotated[
        bool, typer.Option("--every-chunk", help="All passages that fit, not the best of each source.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Hits, at most.")] = 5,
    embedder: Annotated[str | None, typer.Option(metavar="NAME", help="The embedder whose vectors are asked.")] = None,
    rerank: Annotated[
        str | None, typer.Option(metavar="NAME", help="What takes a second look at the best hits: minilm.")
    ] = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Find the passages that answer a question, by meaning and by words."""
    if entity_label is not None and entity is None:
        raise wrong_usage("--entity-label goes with --entity only")

    wanted = {
        "mode": mode.value if mode else None,
        "job_ids": job or None,
        "limit": limit,
        "project": project,
        "url_prefix": url_prefix,
        "language": language,
        "date_from": date_from,
        "date_to": date_to,
        "entity": entity,
        "entity_label": entity_label,
        "distinct_sources": False if every_chunk else None,
        "embedder": embedder,
        "rerank": rerank,
    }
    found = call(api_url, lambda ke: _search(ke, query, wanted))
    output.emit(found, lambda out, hits: output.search_hits(out, hits, with_project=project is None), as_json=as_json)


async def _search(ke: KnowledgeExtractionClient, query: str, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The answer; where a project has nothing that fits, it must be one that there is."""
    answer = await ke.search_answer(query, **wanted)
    if wanted["project"] is not None and not answer["data"]:
        await check_project(ke, wanted["project"])
    return answer
