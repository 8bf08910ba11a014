"""The extract lane: chunks and vectors of each source, committed in small groups."""

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final, ParamSpec, TypeAlias, TypeVar

import structlog
from temporalio import activity

from activities.entities import EntityActivities
from activities.heartbeat import Beat, run_with_heartbeat
from activities.lane_lease import LaneLease
from ke import tasks
from ke.contracts import activities as contract
from ke.contracts.activities import EntitySlice, ExtractSlice, SliceReport
from ke.contracts.errors import KeError, WorkLost
from ke.contracts.jobs import Counters, Lane
from ke.extraction.embed import find_embedder
from ke.extraction.pipeline import ExtractedChunk, ExtractedSource, SourceText, extract_short, extract_source
from ke.runtime.pool import CpuPool
from ke.storage import extract_queue, extracting
from ke.storage.database import Database
from ke.storage.dead_letters import DeadLetter
from ke.storage.extracting import ClaimedSource, NewExtraction, StoredPiece
from ke.storage.jobs import add_progress, lane_progress
from ke.storage.vectors.base import Point, VectorStore

GROUP_SOURCES: Final = 16
"""Sources that are claimed together, and in one commit at most."""
GROUPS: Final = 2
"""Groups under way at once, so that the pool has work while one is committed. What a killed worker's successor extracts
again is not more than these; a cancel waits for a commit of each."""
AT_ONCE: Final = 4
"""Sources, or short ones together, under way in the pool."""
TASK_CHARACTERS: Final = 32_768
"""Of short sources that are one task of the pool: a task costs as much as a tenth of a short source does."""
COMMIT_CHUNKS: Final = 128
"""Chunks that are committed before their group is finished, and of one source at once: a cancel waits for the commit of
less than twice these, which is also one request to the vector store. The pool works on meanwhile."""
POLL_S: Final = 0.3
"""Seconds between two looks for new sources while the collect lane is still at work."""
MAX_ATTEMPTS: Final = 3
"""Times a source may take its pool process down with it before it is a dead letter."""

P = ParamSpec("P")
T = TypeVar("T")

_Made: TypeAlias = tuple[ClaimedSource, ExtractedSource | KeError]
"""A source and what became of it."""

log = structlog.get_logger(__name__)


class Unextractable(KeError):
    """The source could not be extracted."""

    code = "unextractable"


class ExtractActivities(contract.ExtractActivities):
    """Extracts sources."""

    def __init__(self, database: Database, vectors: VectorStore, pool: CpuPool, entities: EntityActivities) -> None:
        self._database = database
        self._vectors = vectors
        self._pool = pool
        self._entities = entities

    @activity.defn(name="extract_sources")
    async def extract_sources(self, piece: ExtractSlice) -> SliceReport:
        """Extracts sources until the slice ends or none is left."""

        async def body(beat: Beat) -> SliceReport:
            report = await _Slice(self._database, self._vectors, self._pool, piece, beat).run()
            return report if piece.entities_apart else await self._and_entities(piece, report, beat)

        return await run_with_heartbeat(body)

    async def _and_entities(self, piece: ExtractSlice, report: SliceReport, beat: Beat) -> SliceReport:
        """Finds the entities of what is extracted, for a workflow without a lane for that."""
        if piece.spec.entities is None or beat.stopping:
            return report
        rest = EntitySlice(piece.job_id, piece.epoch, piece.spec.entities, extracting=False)
        found = await self._entities.run(rest, beat)
        return replace(found, done=report.done and found.done, counters=report.counters + found.counters)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Chunks of one source that are committed together."""

    source: ClaimedSource
    chunks: Sequence[ExtractedChunk]
    is_last: bool
    """Whether the source has none after these."""


class _BeatingPool:
    """The pool, each of whose results is a sign of life: one long source takes minutes of them."""

    def __init__(self, pool: CpuPool, beat: Beat) -> None:
        self._pool = pool
        self._beat = beat

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result."""
        result = await self._pool.run(function, *args, **kwargs)
        self._beat.progress()
        return result


class _Slice:
    """One attempt at a slice."""

    def __init__(
        self, database: Database, vectors: VectorStore, pool: CpuPool, piece: ExtractSlice, beat: Beat
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._pool = _BeatingPool(pool, beat)
        self._piece = piece
        self._beat = beat
        self._job_id = uuid.UUID(piece.job_id)
        self._lease = LaneLease(database, self._job_id, piece.epoch, Lane.EXTRACT)
        self._claim = self._lease.claim
        self._embedder = find_embedder(piece.spec.embedder)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._alone = asyncio.Lock()
        self._taken = 0
        self._totals = Counters()
        self._ends_at = time.monotonic() + piece.max_seconds

    async def run(self) -> SliceReport:
        await self._prepare()
        done = False
        under_way: set[asyncio.Task[None]] = set()
        try:
            while not (done or self._beat.stopping or self._over()):
                group = await self._claim_group()
                if group:
                    under_way.add(asyncio.create_task(self._extract(group)))
                    under_way = await tasks.fewer(under_way, GROUPS)
                elif under_way:
                    under_way = await tasks.fewer(under_way, len(under_way))
                elif await self._nothing_more_comes():
                    done = True
                else:
                    await self._beat.wait(POLL_S)
            await tasks.fewer(under_way, 1)
        finally:
            await tasks.end(under_way)
        if self._beat.stopping:
            async with self._database.transaction() as connection:
                await extracting.release_tasks(connection, self._job_id, claim=self._claim)
        return SliceReport(done=done, counters=self._totals, interrupted=self._beat.stopping)

    async def _prepare(self) -> None:
        """Queues what the job names, once, and takes back what a dead slice had claimed."""
        await self._vectors.ensure_collection(self._embedder.collection, self._embedder.dimensions)
        async with self._lease.taking() as connection:
            progress = await lane_progress(connection, self._job_id, Lane.EXTRACT)
            self._totals = progress.counters
            await extracting.release_tasks(connection, self._job_id)
            after = 0 if progress.seeded else await extract_queue.queued_up_to(connection, self._job_id)
        if not progress.seeded:
            await self._queue_sources(after)

    async def _queue_sources(self, after: int | None) -> None:
        """Queues the sources that the job names, batch by batch; broken off, the next slice goes on."""
        while after is not None and not self._beat.stopping:
            async with self._lease.holding() as connection:
                after = await extract_queue.select_sources(connection, self._job_id, self._piece.spec, after=after)
                if after is None:
                    await add_progress(connection, self._job_id, Lane.EXTRACT, Counters(), seeded=True)
            self._beat.progress()

    def _over(self) -> bool:
        """Whether the slice ends: by its time, or, with `chunk_size`, by its batch."""
        size = self._piece.spec.chunk_size
        return time.monotonic() >= self._ends_at or (size is not None and self._taken >= size)

    async def _claim_group(self) -> list[ClaimedSource]:
        size = self._piece.spec.chunk_size
        room = GROUP_SOURCES if size is None else min(GROUP_SOURCES, size - self._taken)
        async with self._lease.holding() as connection:
            group = await extracting.claim_tasks(connection, self._job_id, self._claim, limit=room)
        self._taken += len(group)
        return group

    async def _nothing_more_comes(self) -> bool:
        """Whether the lane is at its end; that is written for the lane that follows it."""
        async with self._lease.holding() as connection:
            if self._piece.collecting and not (await lane_progress(connection, self._job_id, Lane.COLLECT)).done:
                return False
            # Looked at after the flag: a source that came just before it is still seen.
            if await extracting.open_tasks(connection, self._job_id):
                return False
            await add_progress(connection, self._job_id, Lane.EXTRACT, Counters(), done=True)
        return True

    async def _extract(self, group: Sequence[ClaimedSource]) -> None:
        """Extracts a group; asked to stop, it keeps what is committed, and the other sources are given back.

        What was made and is not committed is less than a second's work, and its commit would be half of that.
        """
        waiting = {asyncio.create_task(self._together(some)) for some in _short_together(group)}
        stop = asyncio.create_task(self._beat.stop.wait())
        made: list[_Made] = []
        try:
            while waiting and not self._beat.stopping:
                finished, _ = await asyncio.wait({*waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting & finished:
                    made += task.result()
                waiting -= finished
                chunks = sum(len(result.chunks) for _, result in made if isinstance(result, ExtractedSource))
                if chunks >= COMMIT_CHUNKS or not waiting:
                    await self._keep(made)
                    made = []
        finally:
            await tasks.end({*waiting, stop})

    async def _keep(self, ready: Sequence[_Made]) -> None:
        """Commits what became of these sources."""
        await self._store([(source, result) for source, result in ready if isinstance(result, ExtractedSource)])
        for source, result in ready:
            if isinstance(result, KeError):
                await self._bury(source, result)

    async def _together(self, some: Sequence[ClaimedSource]) -> list[_Made]:
        """Extracts sources in one task of the pool; where that goes wrong each alone, which tells whose fault it is."""
        async with self._room:
            if len(some) > 1:
                texts = [SourceText(source.id, source.text) for source in some]
                try:
                    return list(zip(some, await extract_short(self._pool, texts, self._piece.spec), strict=True))
                except WorkLost:
                    # Whoever killed the process has company no more.
                    async with self._alone:
                        return [(source, await self._try_again(source, 1)) for source in some]
                except Exception:
                    # Of any kind: `_try` has the last word on it.
                    log.info("sources could not be extracted together", sources=len(some), exc_info=True)
            return [(source, await self._one(source)) for source in some]

    async def _one(self, source: ClaimedSource) -> ExtractedSource | KeError:
        """Extracts one source; returns what is wrong with it when that is final."""
        result = await self._try(source)
        if not isinstance(result, WorkLost):
            return result
        # Whose fault was it? Alone in this slice, an innocent source succeeds now.
        async with self._alone:
            return await self._try_again(source, 1)

    async def _try_again(self, source: ClaimedSource, attempts: int) -> ExtractedSource | KeError:
        """Extracts a source whose process died so often, as often as it may."""
        while True:
            log.warning("a pool process died under an extraction", source_id=str(source.id), attempt=attempts)
            result = await self._try(source)
            attempts += 1
            if not isinstance(result, WorkLost) or attempts >= MAX_ATTEMPTS:
                return result

    async def _try(self, source: ClaimedSource) -> ExtractedSource | KeError:
        try:
            return await extract_source(self._pool, SourceText(source.id, source.text), self._piece.spec)
        except KeError as error:
            return error
        except Exception as error:
            # The edge to the models: what a text can still bring about there is this source's end and not the job's.
            log.exception("a source went wrong in a way that was not foreseen", source_id=str(source.id))
            return Unextractable(f"{type(error).__name__}: {error}")

    async def _store(self, made: Sequence[tuple[ClaimedSource, ExtractedSource]]) -> None:
        """Commits what was made; asked to stop, no more than what has begun: the rest is given back."""
        for commit in _commits(made):
            if self._beat.stopping:
                return
            await self._commit(commit)

    async def _commit(self, pieces: Sequence[_Piece]) -> None:
        """Rows first, then points, then texts and `ready`: a crash in between leaves rows that are found again."""
        sources = [piece.source for piece in pieces]
        stored = [
            StoredPiece(piece.source, [self._row(piece.source, made) for made in piece.chunks], piece.is_last)
            for piece in pieces
        ]
        batch = [row for piece in stored for row in piece.chunks]
        points = [
            Point(row.id, made.vector, self._job_id, row.source.owner_job_id, row.source.id)
            for row, made in zip(batch, (made for piece in pieces for made in piece.chunks), strict=True)
        ]
        embedder, collection = self._embedder.name, self._embedder.collection
        async with self._database.transaction() as connection:
            await extracting.write_extractions(
                connection, self._job_id, self._piece.epoch, sources, batch, embedder=embedder, collection=collection
            )
        self._beat.progress()
        if points:
            epochs = {s.owner_job_id: s.owner_epoch for s in sources} | {self._job_id: self._piece.epoch}
            await self._vectors.upsert(collection, points, epochs=epochs)
            self._beat.progress()
        async with self._database.transaction() as connection:
            self._totals = await extracting.finish_pieces(
                connection,
                self._job_id,
                self._piece.epoch,
                self._claim,
                stored,
                find_entities=self._piece.spec.entities is not None,
            )
        self._beat.progress({"extract": {name: n for name, n in asdict(self._totals).items() if n}})

    def _row(self, source: ClaimedSource, made: ExtractedChunk) -> NewExtraction:
        chunk = made.chunk
        return NewExtraction(
            id=extracting.new_extraction_id(self._job_id, source, chunk.number, self._embedder.name),
            source=source,
            chunk_number=chunk.number,
            text=chunk.text,
            heading=chunk.heading,
            start=chunk.start,
            end=chunk.end,
            tokens=chunk.tokens,
        )

    async def _bury(self, source: ClaimedSource, error: KeError) -> None:
        attempts = MAX_ATTEMPTS if isinstance(error, WorkLost) else 1
        letter = DeadLetter.of("source", source.id, source.url, error, attempts=attempts)
        async with self._database.transaction() as connection:
            self._totals = await extracting.fail_task(connection, self._job_id, self._piece.epoch, self._claim, letter)


def _short_together(group: Sequence[ClaimedSource]) -> Iterator[list[ClaimedSource]]:
    """The sources in their order: those that follow each other and are short together, as a task of the pool may be."""
    some: list[ClaimedSource] = []
    for source in group:
        if some and sum(len(s.text) for s in some) + len(source.text) > TASK_CHARACTERS:
            yield some
            some = []
        some.append(source)
    if some:
        yield some


def _commits(made: Sequence[tuple[ClaimedSource, ExtractedSource]]) -> Iterator[list[_Piece]]:
    """What is committed together: at least `COMMIT_CHUNKS` where there are as many, and less than twice these.

    Every commit holds a source once at most.
    """
    commit: list[_Piece] = []
    for source, extracted in made:
        number = len(extracted.chunks)
        for first in range(0, max(number, 1), COMMIT_CHUNKS):
            end = min(first + COMMIT_CHUNKS, number)
            commit.append(_Piece(source, extracted.chunks[first:end], is_last=end == number))
            if sum(len(piece.chunks) for piece in commit) >= COMMIT_CHUNKS:
                yield commit
                commit = []
    if commit:
        yield commit
