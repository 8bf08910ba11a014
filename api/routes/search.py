"""Search."""

from fastapi import APIRouter

from api.resources import GatewayDep
from api.search_body import SearchBody
from api.service import searching
from api.views import SearchResult

router = APIRouter(tags=["search"])


@router.post("/search", operation_id="search", summary="Search by meaning, by words, or both")
async def search(gateway: GatewayDep, body: SearchBody) -> SearchResult:
    """Finds the chunks that answer a query, best first: by default one of each source, by meaning and by words."""
    return await searching.search(gateway, body)
