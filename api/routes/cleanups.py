"""Receipts of cleanups."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.resources import GatewayDep
from api.service import receipts
from api.views import ReceiptView

router = APIRouter(prefix="/cleanups", tags=["cleanups"])

CleanupId = Annotated[
    str,
    Path(
        max_length=128,
        pattern=r"^[\w.-]+$",
        description="cleanup-<job>, cleanup-source-<source> or cleanup-project-<name>-<run>",
    ),
]


@router.get("/{cleanup_id}", operation_id="getCleanup", summary="Read a receipt")
async def get_cleanup(gateway: GatewayDep, cleanup_id: CleanupId) -> ReceiptView:
    """Reads the receipt of a cleanup, while it runs and after what it is of is gone."""
    return await receipts.read_receipt(gateway, cleanup_id)
