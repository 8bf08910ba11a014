"""The collect lane as an activity."""

from collections import OrderedDict
from typing import Final

from temporalio import activity

from activities.collect_slice import CollectRun
from activities.heartbeat import Beat, run_with_heartbeat
from ke.contracts import activities as contract
from ke.contracts.activities import CollectSlice, SliceReport
from ke.runtime.pool import CpuPool
from ke.storage.database import Database
from ke.web.fetch import Fetcher
from ke.web.politeness import HostGate
from ke.web.rendering import Browser

REMEMBERED_GATES: Final = 1_000
"""Jobs whose pauses between requests a worker remembers."""


class CollectActivities(contract.CollectActivities):
    """Fetches pages."""

    def __init__(
        self,
        database: Database,
        fetcher: Fetcher,
        pool: CpuPool,
        browser: Browser | None = None,
        shards: int = 1,
    ) -> None:
        """Fetches nothing yet; `shards`: into how many it asks to have a lane split where there are several hosts."""
        self._database = database
        self._fetcher = fetcher
        self._pool = pool
        self._browser = browser
        self._shards = shards
        self._gates: OrderedDict[str, HostGate] = OrderedDict()

    @activity.defn(name="collect_pages")
    async def collect_pages(self, piece: CollectSlice) -> SliceReport:
        """Fetches pages of the frontier until the slice or the frontier ends."""
        return await self._collect(piece)

    @activity.defn(name="collect_shard")
    async def collect_shard(self, piece: CollectSlice) -> SliceReport:
        """The same for one shard of a lane that is split."""
        return await self._collect(piece)

    async def _collect(self, piece: CollectSlice) -> SliceReport:
        async def body(beat: Beat) -> SliceReport:
            gate = self._gate(piece)
            run = CollectRun(self._database, self._fetcher, self._pool, gate, piece, beat, self._browser, self._shards)
            return await run.run()

        return await run_with_heartbeat(body)

    def _gate(self, piece: CollectSlice) -> HostGate:
        """The job's gate, kept from slice to slice: a host's pause must outlast the slice that was told of it."""
        rate = piece.spec.rate
        gate = self._gates.pop(piece.job_id, None) or HostGate(rate.concurrency, rate.delay_s)
        self._gates[piece.job_id] = gate
        if len(self._gates) > REMEMBERED_GATES:
            self._gates.popitem(last=False)
        return gate
