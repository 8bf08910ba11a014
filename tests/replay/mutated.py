"""A job workflow that decides differently: replay must notice it."""

from temporalio import workflow

from ke.contracts.jobs import JobInput, JobOutcome, JobStatus
from ke.contracts.naming import JOB_WORKFLOW
from workflows.job import JobWorkflow


@workflow.defn(name=JOB_WORKFLOW)
class MutatedJobWorkflow(JobWorkflow):
    """Schedules one activity more than the real one before its lanes start."""

    @workflow.init
    def __init__(self, job: JobInput) -> None:
        """Takes the same input."""
        super().__init__(job)

    @workflow.run
    async def run(self, job: JobInput) -> JobOutcome:
        """Runs the job."""
        return await super().run(job)

    async def _work(self) -> None:
        await self._record(JobStatus.RUNNING)
        await super()._work()
