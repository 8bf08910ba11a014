"""Projects: what their jobs made, together."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from api.pagination import Cursor, Limit, slice_of
from api.resources import GatewayDep
from api.routes.params import RECEIPT_RESPONSES, Prefer, preferred_wait_s, tell_receipt
from api.schemas import CleanupBody, ProjectName
from api.service import lists, projects
from api.views import PageOf, ProjectView, ReceiptView

router = APIRouter(prefix="/projects")

Project = Annotated[ProjectName, Path(description="The project")]


@router.get("", operation_id="listProjects", summary="List the projects", tags=["jobs"])
async def list_projects(gateway: GatewayDep, limit: Limit = 50, cursor: Cursor = None) -> PageOf[ProjectView]:
    """Shows the names under which jobs were submitted, in the order of their first jobs."""
    return await lists.projects(gateway, slice_of(gateway.cursor_key, limit, cursor, "projects"))


@router.post(
    "/{project}/cleanup",
    status_code=202,
    operation_id="cleanUpProject",
    summary="Delete all that the jobs of a project made",
    tags=["cleanups"],
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
