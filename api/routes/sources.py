"""What jobs have stored: pages, sources, extractions, entities, records."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.items import EntityItem, ExtractionItem, PageItem, RecordItem, SourceItem, SourceView
from api.pagination import Cursor, Limit, UrlCursor, slice_of, url_slice_of
from api.resources import GatewayDep
from api.routes.params import RECEIPT_RESPONSES, JobId, Prefer, SourceId, preferred_wait_s, tell_receipt
from api.schemas import UrlPrefix
from api.service import forgetting, lists
from api.views import PageOf, ReceiptView

router = APIRouter(tags=["sources"])

TaskState = Literal["pending", "claimed", "done", "failed", "skipped"]
PageState = Literal[
    "pending", "fetching", "fetched", "duplicate", "unchanged", "gone", "failed", "skipped", "changed", "new"
]
"""The last two are of a re-crawl: what has become of a page since the earlier job, beside its own state."""


OneUrl = Annotated[UrlPrefix | None, Query(description="Exactly this URL, in any spelling; or")]
OfUrl = Annotated[UrlPrefix | None, Query(description="Only of exactly this URL, in any spelling")]
OfUrls = Annotated[UrlPrefix | None, Query(description="Only of URLs that begin so")]


@router.get("/jobs/{job_id}/sources", operation_id="listSources", summary="List a job's sources")
async def list_sources(
    gateway: GatewayDep,
    job_id: JobId,
    state: TaskState | None = None,
    url: OfUrl = None,
    url_prefix: OfUrls = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOf[SourceItem]:
    """Shows the sources a job stored, or works on; with `state` those whose extraction is in that state."""
    part = slice_of(gateway.cursor_key, limit, cursor, "sources", job_id, state, url, url_prefix)
    return await lists.sources(gateway, job_id, part, state=state, url=url, url_prefix=url_prefix)


@router.get("/sources", operation_id="findSources", summary="Find sources by their URLs")
async def find_sources(
    gateway: GatewayDep, url: OneUrl = None, url_prefix: OfUrls = None, limit: Limit = 50, cursor: UrlCursor = None
) -> PageOf[SourceItem]:
    """Shows the documents of all jobs with one URL, or with URLs that begin so: by URL, of each the newest first."""
    part = url_slice_of(gateway.cursor_key, limit, cursor, "sources-by-url", url, url_prefix)
    return await lists.sources_by_url(gateway, part, url=url, url_prefix=url_prefix)


@router.get("/jobs/{job_id}/pages", operation_id="listPages", summary="List the URLs a job has seen")
async def list_pages(
    gateway: GatewayDep,
    job_id: JobId,
    state: PageState | None = None,
    url: OfUrl = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOf[PageItem]:
    """Shows the frontier of a scrape or crawl, and what became of each URL.

    That of a `url` tells which document it has, also where that is another page's, or an earlier job's. Of a re-crawl
    `changed` lists what has other content than in the earlier job, and `new` what was not there; of any other job these
    two are refused.
    """
    part = slice_of(gateway.cursor_key, limit, cursor, "pages", job_id, state, url)
    return await lists.pages(gateway, job_id, part, state=state, url=url)


@router.get("/jobs/{job_id}/extractions", operation_id="listExtractions", summary="List a job's chunks")
async def list_extractions(
    gateway: GatewayDep, job_id: JobId, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[ExtractionItem]:
    """Shows the chunks a job made."""
    return await lists.extractions(gateway, job_id, slice_of(gateway.cursor_key, limit, cursor, "extractions", job_id))


@router.get("/jobs/{job_id}/entities", operation_id="listEntities", summary="List a job's entities")
async def list_entities(
    gateway: GatewayDep, job_id: JobId, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[EntityItem]:
    """Shows the named entities a job found."""
    return await lists.entities(gateway, job_id, slice_of(gateway.cursor_key, limit, cursor, "entities", job_id))


@router.get("/jobs/{job_id}/records", operation_id="listRecords", summary="List a job's records")
async def list_records(
    gateway: GatewayDep, job_id: JobId, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[RecordItem]:
    """Shows what a language model read out of a job's sources, by the job's schema."""
    return await lists.records(gateway, job_id, slice_of(gateway.cursor_key, limit, cursor, "records", job_id))


@router.get("/sources/{source_id}", operation_id="getSource", summary="Read a source")
async def get_source(gateway: GatewayDep, source_id: SourceId) -> SourceView:
    """Reads a stored document with its text."""
    return await lists.source(gateway, source_id)


@router.delete(
    "/sources/{source_id}",
    status_code=202,
    operation_id="forgetSource",
    summary="Forget a source",
    tags=["cleanups"],
    responses=RECEIPT_RESPONSES,
)
async def forget_source(
    gateway: GatewayDep,
    response: Response,
    source_id: SourceId,
    *,
    dry_run: Annotated[bool, Query(description="Only count what would go")] = False,
    prefer: Prefer = None,
) -> ReceiptView:
    """Deletes a stored document with all that was made of it, by whichever job, and what names it in the frontier."""
    wait_s = preferred_wait_s(prefer)
    receipt, is_over = await forgetting.forget_source(gateway, source_id, dry_run=dry_run, wait_s=wait_s)
    tell_receipt(response, receipt.id, is_over=is_over, wait_s=wait_s, dry_run=dry_run)
    return receipt
