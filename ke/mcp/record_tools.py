"""The tools about records: what a language model reads out of stored pages, by a JSON Schema."""

from typing import Annotated, Any

from mcp_types import CallToolResult
from pydantic import Field

from ke.gateway import job_id_of
from ke.mcp.calls import answer
from ke.mcp.results import JobAnswer, RecordsAnswer
from ke.mcp.tools import Cursor, JobId, Key


async def extract_records(
    source_job_id: Annotated[str, Field(description="The job whose stored pages are read, as `list_jobs` gives it")],
    schema: Annotated[
        dict[str, Any],
        Field(
            description="JSON Schema (2020-12): of an object, for one record of each page; of an array, for any number"
        ),
    ],
    *,
    instructions: Annotated[str, Field(description="What the model is told beside the schema")] = "",
    max_tokens: Annotated[int | None, Field(ge=1, description="Tokens that this may cost in all")] = None,
    project: Annotated[
        str | None, Field(description="What the job belongs to; the project of `source_job_id` by default")
    ] = None,
    idempotency_key: Key = None,
) -> Annotated[CallToolResult, JobAnswer]:
    """Start a job that has a language model read records out of every page that another job has stored.

    Returns the job at once, as `queued`; follow it with `get_job`, and read what came of it with `list_records`. A page
    of which no valid record comes is a dead letter. Refused where the operator has set up no language model.
    """
    return await answer(
        lambda ke: ke.submit_extract(
            source_job_id=job_id_of(source_job_id),
            project=project,
            idempotency_key=idempotency_key,
            schema=schema,
            instructions=instructions,
            max_tokens=max_tokens,
        )
    )


async def list_records(
    job_id: JobId,
    limit: Annotated[int, Field(ge=1, le=200, description="Records, at most")] = 20,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, RecordsAnswer]:
    """List the records that a job has read out of pages."""
    return await answer(lambda ke: ke.list_records(job_id_of(job_id), limit=limit, cursor=cursor))
