"""Projects: what their jobs made, together."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.resources import GatewayDep
from api.routes.params import RECEIPT_RESPONSES, Prefer, preferred_wait_s, tell_receipt
from api.schemas import CleanupBody, ProjectName
from api.service import projects
from api.views import ReceiptView

router = APIRouter(prefix="/projects", tags=["cleanups"])

Project = Annotated[ProjectName, Path(description="The project")]


@router.post(
    "/{project}/cleanup",
    status_code=202,
    operation_id="cleanUpProject",
    summary="Delete all that the jobs of a project made",
    responses=RECEIPT_RESPONSES,
)
async def clean_up_project(
    gateway: GatewayDep, response: Response, project: Project, body: CleanupBody | None = None, prefer: Prefer = None
) -> ReceiptView:
    """Starts the cleanup of all its ended jobs, or joins the one that runs; refused while it has active jobs."""
    body, wait_s = body or CleanupBody(), preferred_wait_s(prefer)
    receipt, is_over = await projects.clean_up_project(gateway, project, body, wait_s=wait_s)
    tell_receipt(response, receipt.id, is_over=is_over, wait_s=wait_s, dry_run=body.dry_run)
    return receipt
