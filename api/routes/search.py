"""Search."""

from fastapi import APIRouter

from api.resources import GatewayDep
from api.schemas import SearchBody
from api.service import searching
from api.views import SearchResult

router = APIRouter(tags=["search"])


@router.post("/search", operation_id="search", summary="Search by meaning")
async def search(gateway: GatewayDep, body: SearchBody) -> SearchResult:
    """Finds the chunks whose meaning is nearest to the query, best first."""
    return SearchResult(data=await searching.search(gateway, body))
