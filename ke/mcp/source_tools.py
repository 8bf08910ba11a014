"""The tools about what jobs have stored: pages, and the documents made of them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from mcp_types import CallToolResult
from pydantic import Field

from ke.client import KnowledgeExtractionClient
from ke.contracts.errors import InvalidInput
from ke.gateway import job_id_of, source_id_of
from ke.mcp.calls import answer
from ke.mcp.results import PagesAnswer, SourceAnswer, SourcesAnswer
from ke.mcp.tools import Cursor, JobId

MAX_CHARS: Final = 50_000
"""Characters of a document that one call gives: what an agent's context can take."""


async def list_sources(
    job_id: JobId,
    state: Annotated[
        Literal["pending", "claimed", "done", "failed", "skipped"] | None,
        Field(description="Only pages whose extraction is in this state"),
    ] = None,
    url: Annotated[str | None, Field(description="Only the page that is stored under exactly this URL")] = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Pages, at most")] = 20,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, SourcesAnswer]:
    """List the pages that a job has stored, or extracted, without their text: `read_source` gives that."""
    return await answer(lambda ke: ke.list_sources(job_id_of(job_id), state=state, url=url, limit=limit, cursor=cursor))


async def read_source(
    source_id: Annotated[
        str, Field(description="The source's id, as `search` and `list_sources` give it; or its URL: the newest then")
    ],
    offset: Annotated[int, Field(ge=0, description="Characters to leave out: `next_offset` of the call before")] = 0,
    max_chars: Annotated[int, Field(ge=1, le=MAX_CHARS, description="Characters of text, at most")] = 8_000,
) -> Annotated[CallToolResult, SourceAnswer]:
    """Read a stored page as Markdown, a part at a time, with what it says of itself: title, author, date, language."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        source = await ke.get_source(await _id_of(ke, source_id))
        text, end = source["text"], offset + max_chars
        return {
            **source,
            "text": text[offset:end],
            "offset": offset,
            "total_chars": len(text),
            "next_offset": end if end < len(text) else None,
        }

    return await answer(work)


async def _id_of(ke: KnowledgeExtractionClient, source: str) -> str:
    """The id of a source that is named by its id or URL."""
    if not source.startswith(("http://", "https://")):
        return source_id_of(source)
    found = (await ke.find_sources(url=source, limit=1))["data"]
    if not found:
        raise InvalidInput(
            f"No document is stored with the URL {source}. That of a duplicate is stored with another page's: "
            f"`list_pages` with its job_id and this url tells its source_id."
        )
    return found[0]["id"]


async def list_pages(
    job_id: JobId,
    state: Annotated[
        Literal["fetched", "duplicate", "unchanged", "gone", "failed", "skipped", "changed", "new"] | None,
        Field(description="Only addresses in this state; `changed`, `unchanged`, `gone` and `new` are of a re-crawl"),
    ] = None,
    url: Annotated[str | None, Field(description="Only exactly this address, in any spelling")] = None,
    limit: Annotated[int, Field(ge=1, le=200, description="Addresses, at most")] = 20,
    cursor: Cursor = None,
) -> Annotated[CallToolResult, PagesAnswer]:
    """List the addresses that a scrape or crawl has seen, and what became of each.

    Each names the document that has its content in `source_id`: a duplicate that of the page which it is the same as,
    an unchanged one that of an earlier job. Of a re-crawl, `previous_source_id` is the document that a changed or gone
    page had before: while `previous_is_stored` it is still found by `search`, and `forget_source` deletes it.
    """
    return await answer(lambda ke: ke.list_pages(job_id_of(job_id), state=state, url=url, limit=limit, cursor=cursor))
