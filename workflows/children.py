"""Workflows that another one starts and leaves to themselves."""

from temporalio import workflow
from temporalio.exceptions import WorkflowAlreadyStartedError

from ke.contracts.cleanup import ForgettingInput
from ke.contracts.naming import FORGETTING_WORKFLOW, TaskQueue, forgetting_id


async def start_forgetting(job_id: str, workflow_id: str) -> None:
    """Starts the forgetting as a child that neither the end of this workflow nor its cancellation touches.

    Args:
        job_id: The re-crawl.
        workflow_id: Of this workflow: the job's, or that of a retry of it.
    """
    try:
        await workflow.start_child_workflow(
            FORGETTING_WORKFLOW,
            ForgettingInput(job_id),
            id=forgetting_id(workflow_id),
            task_queue=TaskQueue.CLEANUP,
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
            cancellation_type=workflow.ChildWorkflowCancellationType.ABANDON,
            static_summary=f"forget what job {job_id} has replaced",
        )
    except WorkflowAlreadyStartedError:
        workflow.logger.info("What this job has replaced is being forgotten already.")
