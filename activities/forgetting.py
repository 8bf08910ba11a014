"""Which documents a re-crawl has replaced."""

from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.cleanup import ReplacedPage, ReplacedSources
from ke.storage.database import Database
from ke.storage.replaced import replaced_sources


class ForgettingActivities(contract.ForgettingActivities):
    """Finds them; their cleanups delete them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @activity.defn(name="list_replaced_sources")
    async def list_replaced_sources(self, page: ReplacedPage) -> ReplacedSources:
        """The next documents that a re-crawl which ended well has replaced, and that are still there."""

        async def body(beat: Beat) -> ReplacedSources:
            async with self._database.transaction() as connection:
                return await replaced_sources(connection, page, beat.progress)

        return await run_with_heartbeat(body)
