"""The entities lane: named entities in the chunks of sources that are searchable already."""

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import structlog
from temporalio import activity

from activities.entity_backlog import Backlog, OpenSource
from activities.heartbeat import Beat, run_with_heartbeat
from activities.lane_lease import LaneLease
from ke.contracts import activities as contract
from ke.contracts.activities import EntitySlice, SliceReport
from ke.contracts.errors import KeError, WorkLost
from ke.contracts.jobs import Counters, Lane
from ke.extraction.entities import Mention, find_entities
from ke.runtime.pool import CpuPool
from ke.storage import entity_lane
from ke.storage.database import Database
from ke.storage.dead_letters import DeadLetter
from ke.storage.entity_lane import ReadyChunk, SearchedSource
from ke.storage.extracting import open_tasks
from ke.storage.jobs import lane_progress
from ke.storage.tables import entity_tasks

CLAIM_SOURCES: Final = 64
"""Sources that are claimed at once."""
LOAD_CHUNKS: Final = 256
"""Chunks whose text is read at once: some seconds of work for one process."""
COMMIT_MENTIONS: Final = 1_000
"""Mentions in one commit, about: what a cancel waits for, and what is found again after a kill. 20 ms of the loop."""
COMMIT_S: Final = 2.0
"""Seconds after which fewer are committed."""
TASKS_A_PROCESS: Final = 2
"""Tasks in the pool for each of its processes, so that none waits for the next one, and a cancelled job leaves few."""
POLL_S: Final = 0.3
"""Seconds between two looks for new sources while the extract lane is still at work."""
MAX_ATTEMPTS: Final = 3
"""Times a source may take its pool process down with it before it is a dead letter."""

log = structlog.get_logger(__name__)


class Unsearchable(KeError):
    """The entities of the source could not be found."""

    code = "entities-failed"


class EntityActivities(contract.EntityActivities):
    """Finds entities."""

    def __init__(self, database: Database, pool: CpuPool) -> None:
        self._database = database
        self._pool = pool
        self._alone = asyncio.Lock()

    @activity.defn(name="find_entities")
    async def find_entities(self, piece: EntitySlice) -> SliceReport:
        """Finds the entities of extracted sources until the slice ends or none is left."""

        async def body(beat: Beat) -> SliceReport:
            return await self.run(piece, beat)

        return await run_with_heartbeat(body)

    async def run(self, piece: EntitySlice, beat: Beat) -> SliceReport:
        """One slice, under the heartbeat of an activity that runs already."""
        return await _Slice(self._database, self._pool, self._alone, piece, beat).run()


class _Slice:
    """One attempt at a slice: claims ahead, keeps the pool busy, commits beside it."""

    def __init__(self, database: Database, pool: CpuPool, alone: asyncio.Lock, piece: EntitySlice, beat: Beat) -> None:
        self._database = database
        self._pool = pool
        self._alone = alone
        self._piece = piece
        self._beat = beat
        self._job_id = uuid.UUID(piece.job_id)
        self._lease = LaneLease(database, self._job_id, piece.epoch, Lane.ENTITIES)
        self._claim = self._lease.claim
        self._totals = Counters()
        self._ends_at = time.monotonic() + piece.max_seconds
        self._backlog = Backlog("")
        self._suspects: deque[list[ReadyChunk]] = deque()
        self._running: dict[asyncio.Task[list[list[Mention]]], list[ReadyChunk]] = {}
        self._claim_at = 0.0
        self._committed_at = time.monotonic()

    async def run(self) -> SliceReport:
        await self._prepare()
        done = False
        try:
            while not (done or self._beat.stopping):
                await self._refill()
                await self._keep_busy()
                if self._backlog.n_found >= COMMIT_MENTIONS or time.monotonic() - self._committed_at > COMMIT_S:
                    await self._commit()
                if self._running or self._backlog.n_waiting or self._suspects:
                    continue
                await self._commit()
                if self._is_over():
                    break
                done = await self._nothing_more_comes()
                if self._backlog.is_empty and not done:
                    await self._beat.wait(POLL_S)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        await self._commit()
        await self._release()
        return SliceReport(done=done, counters=self._totals, interrupted=self._beat.stopping)

    async def _prepare(self) -> None:
        """Takes the lane, and takes back what a dead slice had claimed."""
        async with self._lease.taking() as connection:
            self._totals = (await lane_progress(connection, self._job_id, Lane.ENTITIES)).counters
            self._backlog = Backlog(await entity_lane.project_of(connection, self._job_id))
            await entity_lane.release_sources(connection, self._job_id)

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends_at

    # Sources and chunks

    async def _refill(self) -> None:
        """Loads more chunks, and claims more sources, while the pool works on the ones before."""
        backlog = self._backlog
        if backlog.n_waiting >= LOAD_CHUNKS // 2 or self._suspects or self._is_over():
            return
        if not backlog.unloaded and time.monotonic() < self._claim_at:
            return
        async with self._lease.holding() as connection:
            claimed: Sequence[SearchedSource] = ()
            if not backlog.unloaded:
                claimed = await entity_lane.claim_sources(connection, self._job_id, self._claim, limit=CLAIM_SOURCES)
                if not claimed:
                    self._claim_at = time.monotonic() + POLL_S
                    return
            ids = backlog.unloaded or [source.id for source in claimed]
            after = (claimed[0].seq, -1) if claimed else backlog.place
            chunks = await entity_lane.load_chunks(connection, self._job_id, ids, after=after, limit=LOAD_CHUNKS)
        # Taken up after the commit: a claim that was rolled back is none.
        if claimed:
            backlog.add(claimed)
        backlog.load(chunks, is_last=len(chunks) < LOAD_CHUNKS)
        self._beat.progress()

    async def _nothing_more_comes(self) -> bool:
        async with self._database.transaction() as connection:
            extracting = self._piece.extracting
            if extracting and not (await lane_progress(connection, self._job_id, Lane.EXTRACT)).done:
                return False
            # Looked at after the flag: a source that came just before it is still seen.
            return await open_tasks(connection, self._job_id, entity_tasks) == 0

    # Work

    async def _keep_busy(self) -> None:
        """Gives the pool tasks, and waits until one is finished."""
        most = TASKS_A_PROCESS * self._pool.processes
        while self._backlog.n_waiting and not self._suspects and len(self._running) < most:
            batch = self._backlog.next_batch()
            task = asyncio.create_task(self._pool.run(find_entities, self._piece.finder, [c.text for c in batch]))
            self._running[task] = batch
        if self._running:
            await self._one_result()
        elif self._suspects:
            await self._try_alone(self._suspects.popleft())

    async def _one_result(self) -> None:
        stop = asyncio.create_task(self._beat.stop.wait())
        try:
            await asyncio.wait({*self._running, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        for task in [task for task in self._running if task.done()]:
            batch = self._running.pop(task)
            error = task.exception()
            if error is None:
                self._found(batch, task.result())
                continue
            # Whose fault was it? Alone, an innocent source succeeds now.
            log.warning("a batch of chunks went wrong", job_id=self._piece.job_id, error=repr(error))
            self._suspects.extend(self._backlog.suspect(batch))

    def _found(self, batch: Sequence[ReadyChunk], found: Sequence[Sequence[Mention]]) -> None:
        self._backlog.found(batch, found)
        self._beat.progress()

    async def _try_alone(self, chunks: list[ReadyChunk]) -> None:
        """Tries chunks of one source that were in a batch that went wrong, while this slice does nothing else."""
        entry = self._backlog.find(chunks[0].source_id)
        while entry is not None and not self._beat.stopping:
            try:
                async with self._alone:
                    found = await self._pool.run(find_entities, self._piece.finder, [chunk.text for chunk in chunks])
            except WorkLost as error:
                entry.attempts += 1
                log.warning("a pool process died under a source", source_id=str(entry.source.id), n=entry.attempts)
                if entry.attempts < MAX_ATTEMPTS:
                    continue
                await self._bury(entry, error)
            except Exception as error:
                # The edge to the models: what a text can still bring about there is this source's end, not the job's.
                log.exception("a source went wrong in a way that was not foreseen", source_id=str(entry.source.id))
                known = error if isinstance(error, KeError) else Unsearchable(f"{type(error).__name__}: {error}")
                await self._bury(entry, known)
            else:
                self._found(chunks, found)
            return

    # Commits

    async def _commit(self) -> None:
        """Stores what can be stored."""
        self._committed_at = time.monotonic()
        found = self._backlog.ripe()
        if not found.reached:
            return
        async with self._database.transaction() as connection:
            self._totals = await entity_lane.write_found(
                connection,
                self._job_id,
                self._piece.epoch,
                self._claim,
                self._backlog.project,
                found.reached,
                found.mentions,
            )
        self._backlog.stored(found)
        self._beat.progress({"entities": {name: n for name, n in asdict(self._totals).items() if n}})

    async def _bury(self, entry: OpenSource, error: KeError) -> None:
        source = entry.source
        self._backlog.drop(source.id)
        letter = DeadLetter.of("source", source.id, source.url, error, attempts=max(1, entry.attempts))
        async with self._database.transaction() as connection:
            self._totals = await entity_lane.fail_source(
                connection, self._job_id, self._piece.epoch, self._claim, source, letter
            )

    async def _release(self) -> None:
        """Gives back what is not finished; the next slice goes on after the chunks that are stored."""
        if not self._backlog.is_empty:
            async with self._database.transaction() as connection:
                await entity_lane.release_sources(connection, self._job_id, claim=self._claim)
