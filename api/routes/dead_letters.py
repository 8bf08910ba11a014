"""Dead letters: what failed for good."""

from fastapi import APIRouter

from api.items import DeadLetterItem
from api.pagination import Cursor, Limit, slice_of
from api.resources import GatewayDep
from api.routes.params import JobId
from api.service import lists
from api.views import PageOf, PurgedView

router = APIRouter(prefix="/jobs/{job_id}/dead-letters", tags=["dead letters"])


@router.get("", operation_id="listDeadLetters", summary="List a job's dead letters")
async def list_dead_letters(
    gateway: GatewayDep, job_id: JobId, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[DeadLetterItem]:
    """Shows the pages and sources of a job that failed for good."""
    return await lists.letters(gateway, job_id, slice_of(gateway.cursor_key, limit, cursor, "dead-letters", job_id))


@router.delete("", operation_id="purgeDeadLetters", summary="Delete a job's dead letters")
async def purge_dead_letters(gateway: GatewayDep, job_id: JobId) -> PurgedView:
    """Deletes them all; the job's result keeps their number."""
    return await lists.purge_letters(gateway, job_id)
