"""What the cleanup of a project needs beside those of its jobs: which these are, and the receipt."""

from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.cleanup import (
    CleanupReceipt,
    ProjectCleanup,
    ProjectEnd,
    ProjectJobs,
    ProjectPage,
)
from ke.storage.cleanup_projects import (
    active_jobs,
    close_project_receipt,
    count_project,
    list_ended_jobs,
    open_project_receipt,
)
from ke.storage.cleanups import find_receipt
from ke.storage.database import Database
from ke.storage.vectors.base import VectorStore


class ProjectCleanupActivities(contract.ProjectCleanupActivities):
    """Finds the jobs, and keeps the receipt that sums theirs."""

    def __init__(self, database: Database, vectors: VectorStore) -> None:
        self._database = database
        self._vectors = vectors

    @activity.defn(name="begin_project_cleanup")
    async def begin_project_cleanup(self, cleanup: ProjectCleanup) -> CleanupReceipt:
        """Opens the receipt and counts what there is, or refuses a project with active jobs."""

        async def body(beat: Beat) -> CleanupReceipt:
            async with self._database.transaction() as connection:
                if receipt := await find_receipt(connection, cleanup.receipt_id):
                    return receipt
            found = await count_project(self._database, self._vectors, cleanup.project, progress=beat.progress)
            async with self._database.transaction() as connection:
                blocked_by = await active_jobs(connection, cleanup.project)
                return await open_project_receipt(connection, cleanup, found, blocked_by)

        return await run_with_heartbeat(body)

    @activity.defn(name="list_project_jobs")
    async def list_project_jobs(self, page: ProjectPage) -> ProjectJobs:
        """The next ended jobs that are to be cleaned."""

        async def body(_beat: Beat) -> ProjectJobs:
            async with self._database.transaction() as connection:
                return await list_ended_jobs(connection, page)

        return await run_with_heartbeat(body)

    @activity.defn(name="close_project_cleanup")
    async def close_project_cleanup(self, end: ProjectEnd) -> CleanupReceipt:
        """Closes the receipt with the sums over the jobs' receipts, and with what is left of all jobs taken up."""

        async def body(beat: Beat) -> CleanupReceipt:
            left = await count_project(
                self._database, self._vectors, end.project, up_to=end.after, progress=beat.progress
            )
            async with self._database.transaction() as connection:
                return await close_project_receipt(connection, end, left.counts)

        return await run_with_heartbeat(body)
