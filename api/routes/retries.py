"""Retries of dead letters."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.resources import GatewayDep
from api.service import retrying
from api.views import RetryView

router = APIRouter(prefix="/retries", tags=["dead letters"])

RetryId = Annotated[str, Path(max_length=64, pattern=r"^[\w-]+$", description="retry-<job>-<number>")]


@router.get("/{retry_id}", operation_id="getRetry", summary="Read a retry")
async def get_retry(gateway: GatewayDep, retry_id: RetryId) -> RetryView:
    """Reads a retry of dead letters, while it is at work and after it."""
    return await retrying.read_retry(gateway, retry_id)
