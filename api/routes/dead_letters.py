"""Dead letters: what failed for good, and what becomes of it."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from api.items import DeadLetterItem, LetterSummaryView
from api.pagination import Cursor, Limit, slice_of
from api.resources import GatewayDep
from api.routes.params import JobId
from api.schemas import ErrorType, RetryBody, UrlPrefix
from api.service import lists, retrying
from api.views import PageOf, PurgedView, RetryView
from ke.contracts.retries import LetterFilter, Subject

router = APIRouter(prefix="/jobs/{job_id}/dead-letters", tags=["dead letters"])


OfType = Annotated[ErrorType | None, Query(description="Only with this code, such as `http-500`")]
OfUrls = Annotated[UrlPrefix | None, Query(description="Only of URLs that begin so")]


@router.get("", operation_id="listDeadLetters", summary="List a job's dead letters")
async def list_dead_letters(
    gateway: GatewayDep,
    job_id: JobId,
    subject: Subject | None = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOf[DeadLetterItem]:
    """Shows the pages and sources of a job that failed for good, those that fit all filters."""
    letters = LetterFilter(subject=subject, error_type=error_type, url_prefix=url_prefix)
    part = slice_of(gateway.cursor_key, limit, cursor, "dead-letters", job_id, letters)
    return await lists.letters(gateway, job_id, part, letters)


@router.get("/summary", operation_id="summarizeDeadLetters", summary="Count a job's dead letters by error")
async def summarize_dead_letters(
    gateway: GatewayDep,
    job_id: JobId,
    subject: Subject | None = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
) -> LetterSummaryView:
    """Counts those that fit all filters by subject and error, the most frequent first, each with its first letter."""
    letters = LetterFilter(subject=subject, error_type=error_type, url_prefix=url_prefix)
    return await lists.summary_of_letters(gateway, job_id, letters)


@router.delete("", operation_id="purgeDeadLetters", summary="Delete a job's dead letters")
async def purge_dead_letters(
    gateway: GatewayDep,
    job_id: JobId,
    subject: Subject | None = None,
    error_type: OfType = None,
    url_prefix: OfUrls = None,
) -> PurgedView:
    """Deletes those that fit all filters; the job counts them no more. What a retry has in hand stays."""
    letters = LetterFilter(subject=subject, error_type=error_type, url_prefix=url_prefix)
    return await lists.purge_letters(gateway, job_id, letters)


@router.post("/retry", status_code=202, operation_id="retryDeadLetters", summary="Retry a job's dead letters")
async def retry_dead_letters(
    gateway: GatewayDep, response: Response, job_id: JobId, body: RetryBody | None = None
) -> RetryView:
    """Tries what failed for good once more, follows new links, and extracts; the job's state stays as it is."""
    retry = await retrying.retry_letters(gateway, job_id, body or RetryBody())
    response.headers["Location"] = f"/retries/{retry.id}"
    return retry
