"""Jobs: submit, read, steer, clean up, delete."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.pagination import Cursor, Limit, slice_of
from api.resources import GatewayDep
from api.routes.params import (
    RECEIPT_RESPONSES,
    IdempotencyKey,
    JobId,
    Moment,
    Prefer,
    WaitS,
    preferred_wait_s,
    tell_receipt,
)
from api.schemas import CancelBody, CleanupBody, ProjectName, SubmitBody
from api.service import cleaning, control, lists, reading
from api.service import submit as submitting
from api.views import JobView, PageOf, ReceiptView
from ke.contracts.jobs import JobKind, JobStatus

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post("", status_code=202, operation_id="submitJob", summary="Submit a job")
async def submit(
    gateway: GatewayDep, body: SubmitBody, response: Response, idempotency_key: IdempotencyKey = None
) -> JobView:
    """Accepts a job: it is durable when this answers."""
    job = await submitting.submit(gateway, body, idempotency_key)
    response.headers["Location"] = f"/jobs/{job.id}"
    return job


@router.get("", operation_id="listJobs", summary="List jobs, newest first")
async def list_jobs(
    gateway: GatewayDep,
    kind: JobKind | None = None,
    status: Annotated[list[JobStatus] | None, Query(max_length=len(JobStatus))] = None,
    project: ProjectName | None = None,
    created_after: Moment | None = None,
    created_before: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOf[JobView]:
    """Shows the jobs that fit all filters; `status` may be given more than once."""
    statuses = tuple(sorted(set(status or ())))
    part = slice_of(gateway.cursor_key, limit, cursor, "jobs", kind, statuses, project, created_after, created_before)
    return await lists.jobs(
        gateway,
        part,
        kind=kind,
        statuses=statuses,
        project=project,
        created_after=created_after,
        created_before=created_before,
    )


@router.get("/{job_id}", operation_id="getJob", summary="Read a job")
async def get_job(gateway: GatewayDep, request: Request, job_id: JobId, wait: WaitS = 0) -> JobView:
    """Reads a job; with `wait` as soon as it has ended, or after so many seconds as it is then."""
    return await reading.read_job(gateway, job_id, wait_s=wait, is_gone=request.is_disconnected)


@router.delete(
    "/{job_id}",
    status_code=204,
    operation_id="deleteJob",
    summary="Delete a job's record",
    response_model=None,
    responses={
        204: {"description": "The record is deleted"},
        202: {"description": "The cleanup runs; at its end the record is deleted", "model": ReceiptView},
    },
)
async def delete_job(
    gateway: GatewayDep,
    response: Response,
    job_id: JobId,
    cleanup: Annotated[bool | None, Query(description="true: clean up first; false: leave what the job made")] = None,
) -> ReceiptView | Response:
    """Deletes the record of an ended job whose artifacts are cleaned, or of which `cleanup` says what becomes."""
    receipt = await cleaning.delete_job(gateway, job_id, cleanup=cleanup)
    if receipt is None:
        return Response(status_code=204)
    response.status_code = 202
    response.headers["Location"] = f"/cleanups/{receipt.id}"
    return receipt


@router.post("/{job_id}/cancel", status_code=202, operation_id="cancelJob", summary="Cancel a job")
async def cancel_job(gateway: GatewayDep, job_id: JobId, body: CancelBody | None = None) -> JobView:
    """Stops a job for good; what it has so far stays, unless `cleanup` is true."""
    return await control.cancel_job(gateway, job_id, body or CancelBody())


@router.post("/{job_id}/pause", status_code=202, operation_id="pauseJob", summary="Pause a job")
async def pause_job(gateway: GatewayDep, job_id: JobId) -> JobView:
    """Lets a running job finish what is in flight, and wait."""
    return await control.pause_job(gateway, job_id)


@router.post("/{job_id}/resume", status_code=202, operation_id="resumeJob", summary="Resume a job")
async def resume_job(gateway: GatewayDep, job_id: JobId) -> JobView:
    """Lets a paused job go on."""
    return await control.resume_job(gateway, job_id)


@router.post(
    "/{job_id}/cleanup",
    status_code=202,
    operation_id="cleanUpJob",
    summary="Delete all that a job made",
    tags=["cleanups"],
    responses=RECEIPT_RESPONSES,
)
async def clean_up_job(
    gateway: GatewayDep, response: Response, job_id: JobId, body: CleanupBody | None = None, prefer: Prefer = None
) -> ReceiptView:
    """Starts the cleanup, joins the one that runs, or gives the receipt of the one that is done."""
    body, wait_s = body or CleanupBody(), preferred_wait_s(prefer)
    receipt, is_over = await cleaning.clean_up(gateway, job_id, body, wait_s=wait_s)
    tell_receipt(response, receipt.id, is_over=is_over, wait_s=wait_s, dry_run=body.dry_run)
    return receipt
