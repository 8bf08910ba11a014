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
    """Chunking and embedding: what makes text searchable."""
    ENTITIES = "ke-entities"
    """Finding entities: most of the CPU's work, on a queue of its own so that no text waits for it."""
    RECORDS = "ke-records"
    """Asking a language model for records: slow calls, hardly any CPU."""
    CLEANUP = "ke-cleanup"
    """Deleting vectors and rows."""


JOB_WORKFLOW: Final = "Job"
CLEANUP_WORKFLOW: Final = "Cleanup"
PROJECT_CLEANUP_WORKFLOW: Final = "ProjectCleanup"
RETRY_WORKFLOW: Final = "Retry"
FORGETTING_WORKFLOW: Final = "Forgetting"
RECONCILE_WORKFLOW: Final = "Reconcile"
SCHEDULED_RECONCILE_WORKFLOW: Final = "ScheduledReconcile"
RECONCILE_ID: Final = "reconcile"
"""The id of the workflow that reconciles: there is one at a time."""
RECONCILE_SCHEDULE: Final = "ke-reconcile"
"""The id of the Temporal Schedule that reconciles the stores."""

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


def source_cleanup_id(source_id: str) -> str:
    """The id of a source's cleanup: of its workflow and of its receipt."""
    return f"cleanup-source-{source_id}"


def forgetting_id(workflow_id: str) -> str:
    """The id of the workflow that forgets what a job, or a retry of one, has replaced."""
    return f"forget-replaced-{workflow_id}"


def project_cleanup_workflow_id(project: str) -> str:
    """The id of the workflow that cleans a project up: there is one at a time."""
    return f"cleanup-project-{project}"


def project_cleanup_id(project: str, run_id: str) -> str:
    """The id of the receipt of one such run."""
    return f"cleanup-project-{project}-{run_id}"


def retry_id(job_id: str, number: int) -> str:
    """The id of a job's n-th retry of dead letters: of its workflow and of its record."""
    return f"retry-{job_id}-{number}"


def reconciliation_id(run_id: str) -> str:
    """The id of the record of one such run."""
    return f"{RECONCILE_ID}-{run_id}"
