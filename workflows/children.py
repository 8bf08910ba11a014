"""Workflows that another one starts and leaves to themselves."""

from temporalio import workflow
from temporalio.exceptions import WorkflowAlreadyStartedError

from ke.contracts.cleanup import CleanupInput, ForgettingInput
from ke.contracts.naming import CLEANUP_WORKFLOW, FORGETTING_WORKFLOW, TaskQueue, cleanup_id, forgetting_id


async def start_cleanup(job_id: str, *, delete_record: bool) -> None:
    """Starts the cleanup of a job."""
    cleanup = CleanupInput(job_id, delete_record=delete_record)
    await _start(CLEANUP_WORKFLOW, cleanup, cleanup_id(job_id), f"clean up job {job_id}")


async def start_forgetting(job_id: str, workflow_id: str) -> None:
    """Starts the forgetting of what a re-crawl has replaced.

    Args:
        job_id: The re-crawl.
        workflow_id: Of this workflow: the job's, or that of a retry of it.
    """
    summary = f"forget what job {job_id} has replaced"
    await _start(FORGETTING_WORKFLOW, ForgettingInput(job_id), forgetting_id(workflow_id), summary)


async def _start(name: str, argument: CleanupInput | ForgettingInput, child_id: str, summary: str) -> None:
    """Starts a child that neither the end of this workflow nor its cancellation touches, unless it runs already."""
    try:
        await workflow.start_child_workflow(
            name,
            argument,
            id=child_id,
            task_queue=TaskQueue.CLEANUP,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            static_summary=summary,
        )
    except WorkflowAlreadyStartedError:
        workflow.logger.info("%s is running already.", child_id)
