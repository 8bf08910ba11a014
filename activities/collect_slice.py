"""One slice of the collect lane: fetches the frontier page by page and commits in batches."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from activities.budget import Budget
from activities.heartbeat import Beat
from activities.host_shares import HostShares
from activities.lane_hold import LaneHold
from activities.pages import PageReader
from activities.reach import Reach
from activities.recrawling import Recrawl
from activities.seeding import Seeding
from activities.splitting import Splitting
from activities.under_way import PagesUnderWay
from activities.waiting_note import WaitingNote, not_due, paced_by
from ke.contracts.activities import CollectSlice, SliceReport
from ke.contracts.jobs import Counters, CrawlLimits, Lane
from ke.runtime.pool import CpuPool
from ke.storage import frontier
from ke.storage.collect_batches import skip_batch, write_batch
from ke.storage.collect_shards import Held
from ke.storage.database import Database
from ke.storage.frontier import FrontierEntry, FrontierState
from ke.storage.host_pauses import held_hosts, keep_hosts
from ke.storage.host_turns import HostTurns
from ke.storage.jobs import add_progress
from ke.storage.recrawls import earlier_spec, note_depth, older_jobs, with_earlier
from ke.storage.requeueing import bury_pages, claim_letters_first
from ke.web.errors import NoBrowser
from ke.web.fetch import Fetcher
from ke.web.politeness import HostGate
from ke.web.query import without_params
from ke.web.rendering import Browser, RenderingFetcher
from ke.web.robots import Robots
from ke.web.urls import canonicalize, host_key

BATCH_PAGES: Final = 48
"""Pages of one host that are fetched, or being fetched, and not committed: what a killed worker's successor fetches
again, at most; those that a host which is alone has claimed ahead among them."""
LEAST_BATCH: Final = 16
"""Pages worth a commit, where a crawl of many hosts has more than that under way."""
BATCH_SECONDS: Final = 0.5
"""The longest a fetched page waits for its commit while others are still under way."""
OTHERS_S: Final = 0.5
"""Seconds between two looks at what the other shards of a lane do, where this one has nothing to do itself."""
IDLE_S: Final = 2.0
"""Seconds after which a slice of a shard that has nothing to do ends, and leaves its place to another one."""


class CollectRun:
    """One attempt at a slice. What it holds in memory is also in Postgres, or is fetched again."""

    def __init__(
        self,
        database: Database,
        fetcher: Fetcher,
        pool: CpuPool,
        gate: HostGate,
        piece: CollectSlice,
        beat: Beat,
        browser: Browser | None = None,
        shards: int = 1,
    ) -> None:
        dropped = piece.spec.scope.drop_params
        urls = dict.fromkeys(without_params(canonicalize(url), dropped) for url in piece.spec.urls)
        spec = replace(piece.spec, urls=tuple(urls))
        self._database = database
        self._fetcher = fetcher
        self._browser = browser
        self._pool = pool
        self._piece = piece
        self._spec = spec
        self._gate = gate
        self._beat = beat
        self._job_id = uuid.UUID(piece.job_id)
        self._earlier = uuid.UUID(spec.recrawl_of) if spec.recrawl_of is not None else None
        self._older: Sequence[uuid.UUID] = ()
        self._hold = LaneHold(database, piece)
        self._splitting = Splitting(replace(piece, spec=spec), shards)
        # A scrape fetches the URLs it was given, all of them and no others.
        limits = spec.limits if spec.follow else CrawlLimits(max_pages=len(spec.urls), max_depth=0)
        self._budget = Budget(limits, datetime.fromisoformat(piece.started_at))
        self._robots = Robots(fetcher)
        self._reach = Reach.of(spec, pool)
        is_to_follow = spec.follow and limits.max_depth > 0
        self._reads_sitemaps = is_to_follow and spec.scope.sitemaps
        self._seeding = Seeding(self._job_id, self._hold.writing, self._reach, beat, self._reads_sitemaps)
        self._shares = HostShares(gate, spec.rate.concurrency, BATCH_PAGES)
        self._turns = HostTurns()
        self._pages = PagesUnderWay(self._read_with(Recrawl.of(spec, None)))
        self._started = 0
        self._note = WaitingNote(self._hold.write_note)
        self._idle_since: float | None = None
        self._is_crowded = False
        self._ended_by: str | None = None
        self._ends_at = time.monotonic() + piece.max_seconds
        self._may_have_links_left = self._earlier is not None and is_to_follow and not piece.retrying

    async def run(self) -> SliceReport:
        """Fetches until the slice or the frontier ends, or the activity must stop.

        Raises:
            Fenced: The job may not be written any more.
            WorkLost: Another attempt has taken the slice over.
            Unavailable: Postgres does not answer; what was not committed is fetched again.
            BadPattern: One of the crawl's patterns is not one: the job's fault.
            NoBrowser: The job needs a browser, and there is none.
        """
        await self._prepare()
        try:
            if self._pages.to_come:
                await self._take()
            note = await self._loop()
        finally:
            await self._break_off(started_too=True)
        return await self._finish(note)

    # Before the first page

    def _read_with(self, recrawl: Recrawl) -> PageReader:
        return PageReader(
            self._page_fetcher(),
            self._pool,
            self._robots,
            self._gate,
            self._reach,
            lambda: self._beat.stopping,
            recrawl,
        )

    def _page_fetcher(self) -> Fetcher | RenderingFetcher:
        if not self._spec.browser:
            return self._fetcher
        if self._browser is None:
            raise NoBrowser
        self._browser.check()
        return RenderingFetcher(self._fetcher, self._browser, lambda: self._beat.stopping)

    async def _prepare(self) -> None:
        """Takes the lane over and seeds the frontier, once; where there are only seeds, it begins with them at once."""
        if self._spec.follow:
            async with self._database.transaction() as connection:
                await note_depth(connection, self._job_id, self._spec.limits.max_depth)
        claimed: list[FrontierEntry] = []
        most: int | None = None
        async with self._database.transaction() as connection:
            progress = await self._hold.take(connection)
            self._note = WaitingNote(self._hold.write_note, progress.note)
            if self._earlier is not None:
                await self._look_back(connection, self._earlier)
            is_seeded = progress.seeded or not self._has_more_seeds
            if progress.seeded:
                await self._take_up(connection)
            else:
                await frontier.add_pages(connection, self._job_id, ((url, 0) for url in self._spec.urls))
                if is_seeded:
                    await self._mark_seeded(connection)
            if is_seeded and self._may_begin:
                claimed, most = await self._claim(connection, self._wanted())
        self._begin(claimed, most)
        if not is_seeded:
            await self._seed()

    async def _look_back(self, connection: AsyncConnection, earlier: uuid.UUID) -> None:
        """Learns of the job that is crawled again: what it has seen is in reach before the seeds are asked for."""
        await self._widen(connection, earlier)
        self._older = await older_jobs(connection, earlier, self._spec)
        self._pages.reader = self._read_with(Recrawl.of(self._spec, await earlier_spec(connection, earlier)))

    async def _take_up(self, connection: AsyncConnection) -> None:
        """Goes on where the slice before has ended, and takes back what it had claimed if it is dead."""
        self._gate.take_up(await held_hosts(connection, self._job_id))
        await frontier.release_pages(connection, self._job_id, shard=self._hold.shard)
        await self._widen(connection, self._job_id)

    async def _widen(self, connection: AsyncConnection, job_id: uuid.UUID) -> None:
        for url in await frontier.moved_seeds(connection, job_id, self._spec.urls):
            self._reach.widen(url)

    @property
    def _has_more_seeds(self) -> bool:
        """Whether there is more to begin with than the URLs that were given."""
        return self._earlier is not None or self._reads_sitemaps

    async def _mark_seeded(self, connection: AsyncConnection, earlier_pages: int | None = None) -> None:
        await add_progress(connection, self._job_id, Lane.COLLECT, Counters(), seeded=True, earlier_pages=earlier_pages)

    async def _seed(self) -> None:
        common = await self._seeding.from_earlier(self._earlier) if self._earlier is not None else None
        if self._reads_sitemaps:
            await self._seeding.from_sitemaps(self._fetcher, self._robots, self._pool)
        if not self._beat.stopping:
            async with self._hold.writing() as connection:
                await self._mark_seeded(connection, common)

    async def _seed_links_left(self) -> None:
        """Adds what of a re-crawl's links can be told at its end only: once in each slice that comes to that."""
        if self._earlier is not None and self._may_have_links_left:
            await self._seeding.links_left(self._earlier)
            self._may_have_links_left = self._beat.stopping

    # The loop

    async def _loop(self) -> str | None:
        """Fetches until something ends the slice; returns why the lane is at its end, or None when it is not."""
        while not self._beat.stopping:
            over = self._slice_over()
            limit = self._limit_reached()
            await self._fill_up(limit, over=over)
            if self._pages.to_come:
                await self._take()
                continue
            await self._flush(claim=True)
            if self._pages.to_come:
                continue
            at_limit = limit is not None and self._limit_reached() is not None
            if at_limit and not await self._others_at_work():
                await self._seed_links_left()
                return None if self._may_have_links_left else limit
            if over:
                return None
            if at_limit:
                await self._beat.wait(OTHERS_S)
                continue
            state, reason = await self._what_is_left()
            if state.is_empty and self._may_have_links_left:
                await self._seed_links_left()
                continue
            if state.is_empty:
                return "all pages fetched"
            if self._is_idle(state):
                return None
            self._shares.added()
            await self._note.tell(not_due(state, reason))
            await self._wait_for_pages(state)
        return None

    async def _fill_up(self, limit: str | None, *, over: bool) -> None:
        """Starts more pages, or gives back what will not be started any more.

        Where pages that are under way are the last that a limit leaves, they are no more and no less than that.
        """
        if not over and limit is None:
            await self._fill()
        elif self._pages.to_come and (over or self._budget.reached(self._totals, 0, 0) is not None):
            # The next slice waits for a slow host as well.
            await self._break_off(started_too=False)

    def _is_idle(self, state: FrontierState) -> bool:
        """Whether there has been nothing to do for a while, and others may find more."""
        if state.due or state.waiting:
            self._idle_since = None
            return False
        self._idle_since = self._idle_since or time.monotonic()
        return time.monotonic() - self._idle_since >= IDLE_S

    async def _wait_for_pages(self, state: FrontierState) -> None:
        """Waits a moment, where nothing can be claimed before."""
        seconds = 0.0
        # In a retry pages may be due that have no room before those that wait have had theirs.
        if (state.due == 0 or self._piece.retrying) and state.next_at is not None:
            seconds = min(max((state.next_at - datetime.now(UTC)).total_seconds(), 0.05), 1.0)
        elif not self._hold.shard.is_whole and (state.due == 0 or self._is_crowded):
            seconds = OTHERS_S
        if seconds:
            await self._beat.wait(seconds)

    async def _others_at_work(self) -> bool:
        """Whether another shard has pages under way, so that the lane is not at its end yet."""
        if self._hold.shard.is_whole:
            return False
        async with self._hold.writing() as connection:
            await self._look(connection)
        return self._hold.others.pages > 0

    async def _look(self, connection: AsyncConnection) -> None:
        await self._hold.look(connection)
        self._budget.out_of_bytes |= self._hold.others.out_of_bytes

    @property
    def _may_begin(self) -> bool:
        return not (self._beat.stopping or self._slice_over()) and self._limit_reached() is None

    def _slice_over(self) -> bool:
        is_spent = time.monotonic() >= self._ends_at or self._started >= self._piece.max_pages
        return is_spent or self._splitting.is_due

    def _limit_reached(self) -> str | None:
        """The limit that forbids another fetch."""
        return self._budget.reached(self._totals, self._pages.number, self._pages.reserved)

    @property
    def _totals(self) -> Counters:
        return self._hold.totals

    async def _fill(self) -> None:
        """Claims pages and starts them."""
        wanted = self._wanted()
        if wanted:
            async with self._hold.writing() as connection:
                claimed, most = await self._claim(connection, wanted)
            self._begin(claimed, most)

    def _wanted(self, *, with_commit: bool = False) -> int:
        """Pages to claim, as far as the hosts go; 0 as long as there are enough under way to spare a transaction."""
        self._shares.count(self._pages.started(), self._pages.waiting())
        # What has come of a host that is alone is committed soon, and the next pages are claimed with it.
        is_soon = self._shares.is_alone and bool(self._pages.came)
        if not with_commit and (is_soon or not self._shares.wants_more()):
            return 0
        return max(0, min(self._shares.total_room, self._piece.max_pages - self._started))

    async def _claim(self, connection: AsyncConnection, wanted: int) -> tuple[list[FrontierEntry], int | None]:
        """Claims pages: of each host its share, of all together what the limits leave.

        Returns:
            The pages, and how many bytes each may have where the crawl limits them.
        """
        await self._look(connection)
        pages_left = self._budget.pages_left(self._totals, self._pages.number + self._hold.others.pages)
        left = self._budget.bytes_left(self._totals, self._pages.reserved + self._hold.others.bytes)
        most = None if left is None else min(left, self._fetcher.max_bytes)
        room = min(wanted, pages_left)
        if left is not None:
            # Each fetch reserves its share, so that together they cannot go over.
            room = min(room, max(1, left // self._fetcher.max_bytes)) if left else 0
        claimed = await self._claim_pages(connection, room, pages_left) if room > 0 else []
        await self._hold.reserve(connection, self._held(len(claimed), self._share(most)))
        await self._splitting.look(connection)
        self._is_crowded = room <= 0
        self._shares.claimed(claimed, room)
        return claimed, most

    def _begin(self, claimed: Sequence[FrontierEntry], most: int | None) -> None:
        self._started += len(claimed)
        if claimed:
            self._idle_since = None
        self._pages.begin(claimed, most=most, share=self._share(most))

    def _share(self, most: int | None) -> int:
        """The bytes that a fetch reserves."""
        return self._fetcher.max_bytes if most is None else most

    def _held(self, more: int = 0, most: int = 0) -> Held:
        """What is under way, with so many pages more, each of so many bytes at most."""
        return Held(self._pages.number + more, self._pages.reserved + more * most, self._budget.out_of_bytes)

    async def _claim_pages(self, connection: AsyncConnection, limit: int, pages_left: int) -> list[FrontierEntry]:
        if self._piece.retrying:
            claimed = await claim_letters_first(
                connection, self._job_id, self._hold.claim, limit=limit, pages_left=pages_left, room=self._shares.room
            )
        else:
            claimed = await frontier.claim_pages(
                connection,
                self._job_id,
                self._hold.claim,
                limit=limit,
                room=self._shares.room,
                turns=self._turns,
                shard=self._hold.shard,
            )
        if self._earlier is not None and claimed:
            claimed = await with_earlier(connection, self._earlier, self._older, claimed)
        return claimed

    async def _take(self) -> None:
        """Waits for finished pages and commits them when there are enough, or no more are to be expected soon."""
        outcomes = await self._pages.wait(BATCH_SECONDS / 2)
        # Each wait of a page has its own limit, and a host may ask for one of minutes.
        self._beat.progress()
        await self._note.tell(
            paced_by(self._gate, (entry.host or host_key(entry.url) for entry in self._pages.waiting()))
        )
        self._budget.out_of_bytes |= any(outcome.reason == "max_bytes" for outcome in outcomes)
        # A host's share is claimed anew while these are kept, and may all be fetched before the next look.
        busy = 0 if self._shares.is_alone else self._pages.to_come
        enough = max(LEAST_BATCH, BATCH_PAGES - max(busy, self._shares.most))
        came = len(self._pages.came)
        is_last = self._shares.is_dry and self._pages.to_come < self._shares.most
        if came and (came >= enough or self._pages.came_since_s >= BATCH_SECONDS or is_last):
            await self._flush(claim=True)

    async def _flush(self, *, claim: bool = False) -> None:
        """Commits what has come, and claims the next pages with it where it may."""
        if not self._pages.came:
            return
        batch = self._pages.take()
        claimed: list[FrontierEntry] = []
        most: int | None = None

        async def claim_next(connection: AsyncConnection, totals: Counters) -> None:
            nonlocal claimed, most
            self._hold.totals = totals
            self._shares.added()
            if claim and self._may_begin and (wanted := self._wanted(with_commit=True)) > 0:
                claimed, most = await self._claim(connection, wanted)

        self._hold.totals, self._ended_by = await write_batch(
            self._database,
            self._job_id,
            self._piece.epoch,
            self._hold.claim,
            batch,
            extract=self._piece.extract,
            is_recrawl=self._spec.recrawl_of is not None,
            progress=self._beat.progress,
            shard=self._hold.shard,
            held=self._held(),
            end=self._end_with,
            then=claim_next,
        )
        self._begin(claimed, most)
        self._beat.progress({"collect": {name: n for name, n in asdict(self._totals).items() if n}})

    def _end_with(self, totals: Counters) -> str | None:
        """Which limit ends a lane of these totals; None when there is none, or more to look at than them."""
        # Links that may be left are to be skipped as well, so that a re-crawl of this job knows of them.
        has_more = self._may_have_links_left or self._piece.retrying or not self._hold.shard.is_whole
        if self._pages.to_come or self._beat.stopping or has_more:
            return None
        return self._budget.reached(totals, 0, 0)

    async def _what_is_left(self) -> tuple[FrontierState, str | None]:
        """What is left to fetch, and why the page that is due next was not fetched yet."""
        async with self._database.transaction() as connection:
            shard = self._hold.shard
            state = await frontier.frontier_state(connection, self._job_id, shard)
            reason = await frontier.next_reason(connection, self._job_id, shard) if state.waiting else None
        return state, reason

    # The end

    async def _break_off(self, *, started_too: bool) -> None:
        """Ends what is under way; what had come is kept, the rest goes back into the frontier."""
        lost = await self._pages.break_off(started_too=started_too)
        if not lost:
            return
        async with self._database.transaction() as connection:
            await frontier.release_pages(connection, self._job_id, claim=self._hold.claim, ids=lost)

    async def _finish(self, note: str | None) -> SliceReport:
        await self._flush()
        if note is None and (held := self._gate.held_hosts()):
            async with self._hold.writing() as connection:
                await keep_hosts(connection, self._job_id, held)
        note, done = note or self._ended_by, self._ended_by is not None
        while note is not None and not done:
            async with self._hold.writing() as connection:
                await self._look(connection)
                if self._hold.ended is not None:
                    note, done = self._hold.ended, True
                if done or self._hold.others.pages:
                    break
                # A page whose turn did not come is the dead letter that it was.
                if not (self._piece.retrying and await bury_pages(connection, self._job_id)):
                    self._hold.totals, done = await skip_batch(connection, self._job_id, note)
            self._beat.progress()
            if self._beat.stopping:
                break
        return SliceReport(
            done=done,
            counters=self._totals,
            interrupted=self._beat.stopping,
            note=(note or "") if done else "",
            shards=self._splitting.shards,
            idle=self._idle_since is not None and self._started == 0,
        )
