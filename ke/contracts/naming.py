"""Names that more than one process must agree on: workflow ids, task queues, search attributes."""

from enum import StrEnum
from typing import Final

from temporalio.common import SearchAttributeKey


class TaskQueue(StrEnum):
    """The task queues a worker can serve; `KE_TASK_QUEUES` picks some of them, all by default."""

    JOBS = "ke-jobs"
    """Workflows, and the short activities that record their state."""
    COLLECT = "ke-collect"
    """Fetching pages."""
    EXTRACT = "ke-extract"
    """Chunking, embedding and entities: the CPU's share."""
    CLEANUP = "ke-cleanup"
    """Deleting vectors and rows."""


JOB_WORKFLOW: Final = "Job"
CLEANUP_WORKFLOW: Final = "Cleanup"

JOB_KIND: Final = SearchAttributeKey.for_keyword("JobKind")
JOB_STATUS: Final = SearchAttributeKey.for_keyword("JobStatus")
PROJECT: Final = SearchAttributeKey.for_keyword("Project")
SEARCH_ATTRIBUTES: Final = (JOB_KIND, JOB_STATUS, PROJECT)


def job_workflow_id(job_id: str) -> str:
    """The workflow id of a job: `job-<uuid>`."""
    return f"job-{job_id}"


def cleanup_id(job_id: str) -> str:
    """The id of a job's cleanup: of its workflow and of its receipt."""
    return f"cleanup-{job_id}"
