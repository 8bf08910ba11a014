"""Reconciliations: the stores against each other, and rows against workflows."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.findings import ReconciliationView
from api.pagination import Cursor, Limit, slice_of
from api.resources import GatewayDep
from api.routes.params import Prefer, preferred_wait_s
from api.schemas import ReconcileBody
from api.service import reconciling
from api.views import PageOf

router = APIRouter(prefix="/reconciliations", tags=["reconciliations"])

ReconciliationId = Annotated[str, Path(max_length=64, pattern=r"^[\w-]+$", description="reconcile-<run>")]


@router.post(
    "",
    status_code=202,
    operation_id="reconcile",
    summary="Compare and repair the stores",
    responses={
        202: {"description": "It runs; `Location` is its record"},
        200: {"description": "It has ended", "model": ReconciliationView},
    },
)
async def reconcile(
    gateway: GatewayDep, response: Response, body: ReconcileBody | None = None, prefer: Prefer = None
) -> ReconciliationView:
    """Starts a reconciliation, or joins the one that runs: there is one at a time."""
    wait_s = preferred_wait_s(prefer)
    record, is_over = await reconciling.reconcile(gateway, body or ReconcileBody(), wait_s=wait_s)
    response.status_code = 200 if is_over else 202
    if wait_s:
        response.headers["Preference-Applied"] = f"wait={wait_s:g}"
    response.headers["Location"] = f"/reconciliations/{record.id}"
    return record


@router.get("", operation_id="listReconciliations", summary="List reconciliations, newest first")
async def list_reconciliations(
    gateway: GatewayDep, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[ReconciliationView]:
    """Shows the last hundred, those of the schedule among them."""
    return await reconciling.reconciliations(gateway, slice_of(gateway.cursor_key, limit, cursor, "reconciliations"))


@router.get("/{reconciliation_id}", operation_id="getReconciliation", summary="Read a reconciliation")
async def get_reconciliation(gateway: GatewayDep, reconciliation_id: ReconciliationId) -> ReconciliationView:
    """Reads what a reconciliation found and repaired, while it runs and after it."""
    return await reconciling.read_reconciliation(gateway, reconciliation_id)
