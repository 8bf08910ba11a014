"""The records lane: asks a language model about each source, a few at a time, and commits each as it comes."""

import asyncio
import hashlib
import json
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Final

import structlog
from temporalio import activity

from activities.heartbeat import Beat, run_with_heartbeat
from activities.lane_lease import LaneLease
from activities.waiting_note import WaitingNote
from ke.contracts import activities as contract
from ke.contracts.activities import SliceReport, StructuredSlice
from ke.contracts.errors import Fenced, KeError, ModelUnavailable
from ke.contracts.jobs import Counters, ExtractSpec, Lane
from ke.contracts.params import specs_of
from ke.extraction.budget import BudgetSpent, Spending, TokenBudget
from ke.extraction.chat import ChatClient, ModelFailed, ModelSilent
from ke.extraction.records import DocumentText, ReadRecords, RecordReader, RecordTask
from ke.runtime.pool import CpuPool
from ke.storage import record_rows
from ke.storage.database import Database
from ke.storage.dead_letters import DeadLetter
from ke.storage.jobs import add_progress, get_job, lane_progress
from ke.storage.record_queue import SKIP_BATCH, budget_spent, skip_open_records
from ke.storage.record_rows import ClaimedRecord, NewRecords
from ke.storage.requeueing import REQUEUE_BATCH, bury_records

POLL_S: Final = 0.3
"""Seconds between two looks for new sources while the other lanes are still at work."""
TICK_S: Final = 1.0
"""Seconds between two signs of life while nothing but calls is under way; each of them has a limit of its own."""
MAX_ATTEMPTS: Final = 4
"""Times the endpoint may fail at a source before it is a dead letter."""
FIRST_RETRY_S: Final = 1.0
"""Seconds before the second attempt; doubled for each further one."""
DRAIN_S: Final = 600.0
"""Seconds that calls under way at the end of a slice have to come to their end; far below the slice's timeout."""

log = structlog.get_logger(__name__)


class Unreadable(KeError):
    """No record could be made of the source."""

    code = "unreadable"


class StructuredActivities(contract.StructuredActivities):
    """Makes records of sources."""

    def __init__(self, database: Database, pool: CpuPool, client: ChatClient | None) -> None:
        """Takes the client of the endpoint, or None where this worker was not told of one."""
        self._database = database
        self._pool = pool
        self._client = client

    @activity.defn(name="extract_records")
    async def extract_records(self, piece: StructuredSlice) -> SliceReport:
        """Asks a language model for the records of sources until the slice ends or none is left.

        Raises:
            ModelUnavailable: This worker has no endpoint.
        """
        client = self._client
        if client is None:
            raise ModelUnavailable("KE_LLM_URL is not set for this worker.")

        async def body(beat: Beat) -> SliceReport:
            return await _Slice(self._database, self._pool, client, piece, beat).run()

        return await run_with_heartbeat(body)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A source that is being asked about."""

    item: ClaimedRecord
    spending: Spending
    task: "asyncio.Task[ReadRecords]"


class _Slice:
    """One attempt at a slice."""

    def __init__(
        self, database: Database, pool: CpuPool, client: ChatClient, piece: StructuredSlice, beat: Beat
    ) -> None:
        self._database = database
        self._pool = pool
        self._client = client
        self._piece = piece
        self._beat = beat
        self._job_id = uuid.UUID(piece.job_id)
        self._lease = LaneLease(database, self._job_id, piece.epoch, Lane.RECORDS)
        self._claim = self._lease.claim
        self._totals = Counters()
        self._under_way: dict[uuid.UUID, _UnderWay] = {}
        self._note = WaitingNote(self._write_note)
        self._is_spent = False
        self._ends_at = time.monotonic() + piece.max_seconds

    async def run(self) -> SliceReport:
        await self._prepare()
        done = False
        try:
            while not (done or self._beat.stopping or self._over()):
                if self._is_spent and not self._under_way:
                    await self._skip_rest()
                await self._fill()
                if self._under_way:
                    await self._settle_finished()
                elif await self._nothing_more_comes():
                    done = True
                else:
                    await self._beat.wait(POLL_S)
            await self._drain()
        finally:
            await self._break_off()
        if done:
            await self._note.tell("")
        note = "" if done else self._told()
        return SliceReport(done=done, counters=self._totals, interrupted=self._beat.stopping, note=note)

    def _told(self) -> str:
        return self._client.turnstile.note

    def _over(self) -> bool:
        return time.monotonic() >= self._ends_at

    async def _prepare(self) -> None:
        """Takes the lane over, and learns from the job's row what is asked for."""
        async with self._lease.taking() as connection:
            progress = await lane_progress(connection, self._job_id, Lane.RECORDS)
            row = await get_job(connection, self._job_id)
        _, spec = specs_of(row.kind, row.params)
        task = self._task_of(spec)
        self._totals = progress.counters
        self._note = WaitingNote(self._write_note, progress.note)
        spent = progress.counters.tokens_in + progress.counters.tokens_out
        self._budget = TokenBudget(spec.max_tokens if spec else None, spent)
        self._reader = RecordReader(self._client, self._pool, task, self._budget)
        self._model = task.model
        self._schema_hash = hashlib.sha256(json.dumps(task.schema, sort_keys=True).encode()).digest()

    def _task_of(self, spec: ExtractSpec | None) -> RecordTask:
        if spec is None or spec.schema is None:
            raise Fenced(f"Job {self._job_id} asks for no records.")
        model = spec.model or self._client.endpoint.model
        if model is None:
            raise ModelUnavailable("The job names no model, and KE_LLM_MODEL is not set for this worker.")
        return RecordTask(spec.schema, spec.instructions, model)

    # Sources come in

    async def _fill(self) -> None:
        """Claims as many sources as calls may be under way at once, and begins to ask about them."""
        room = self._client.endpoint.concurrency - len(self._under_way)
        if room <= 0 or self._is_spent:
            return
        async with self._lease.holding() as connection:
            claimed = await record_rows.claim_records(connection, self._job_id, self._claim, limit=room)
        for item in claimed:
            spending = Spending()
            task = asyncio.create_task(self._read(item, spending))
            self._under_way[item.source.id] = _UnderWay(item, spending, task)

    async def _read(self, item: ClaimedRecord, spending: Spending) -> ReadRecords:
        if item.attempts:
            await asyncio.sleep(FIRST_RETRY_S * 2 ** (item.attempts - 1))
        source = item.source
        return await self._reader.read(DocumentText(source.url, source.title, source.text), spending)

    async def _nothing_more_comes(self) -> bool:
        async with self._database.transaction() as connection:
            if not (await lane_progress(connection, self._job_id, Lane.EXTRACT)).seeded:
                return False
            if self._piece.collecting and not (await lane_progress(connection, self._job_id, Lane.COLLECT)).done:
                return False
            # Looked at after the flags: a source that came just before them is still seen.
            return await record_rows.open_records(connection, self._job_id) == 0

    # Records go out

    async def _settle_finished(self) -> None:
        """Waits until something is finished, for a while at most, and commits what is."""
        stop = asyncio.create_task(self._beat.stop.wait())
        try:
            waited = {stop, *(one.task for one in self._under_way.values())}
            await asyncio.wait(waited, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        self._beat.progress()
        await self._note.tell(self._told())
        for one in [one for one in self._under_way.values() if one.task.done()]:
            await self._settle(one)
            del self._under_way[one.item.source.id]
        self._beat.progress({"records": {name: n for name, n in asdict(self._totals).items() if n}})

    async def _settle(self, one: _UnderWay) -> None:
        error = None if one.task.cancelled() else one.task.exception()
        if one.task.cancelled() or isinstance(error, BudgetSpent):
            self._is_spent = self._is_spent or error is not None
            await self._give_back(one, one.item.attempts)
        elif error is None:
            await self._store(one, one.task.result())
        elif isinstance(error, ModelFailed) and one.item.attempts + 1 < MAX_ATTEMPTS:
            await self._give_back(one, one.item.attempts + 1)
        else:
            await self._bury(one, error)

    async def _store(self, one: _UnderWay, read: ReadRecords) -> None:
        made = NewRecords(
            schema_hash=self._schema_hash,
            data=read.data,
            truncated=read.truncated,
            model=self._model,
            tokens_in=one.spending.tokens_in,
            tokens_out=one.spending.tokens_out,
        )
        async with self._database.transaction() as connection:
            self._totals = await record_rows.store_records(
                connection, self._job_id, self._piece.epoch, self._claim, one.item.source, made, self._cost(one)
            )

    async def _bury(self, one: _UnderWay, error: BaseException) -> None:
        if not isinstance(error, KeError):
            # The edge to the model: what an answer can still bring about is this source's end and not the job's.
            log.error("a source went wrong in a way that was not foreseen", exc_info=error)
            error = Unreadable(f"{type(error).__name__}: {error}")
        source = one.item.source
        letter = DeadLetter.of("record", source.id, source.url, error, attempts=one.item.attempts + 1)
        async with self._database.transaction() as connection:
            self._totals = await record_rows.fail_record(
                connection, self._job_id, self._piece.epoch, self._claim, source, letter, self._cost(one)
            )

    async def _give_back(self, one: _UnderWay, attempts: int) -> None:
        async with self._database.transaction() as connection:
            self._totals = await record_rows.give_back_record(
                connection,
                self._job_id,
                self._piece.epoch,
                self._claim,
                replace(one.item, attempts=attempts),
                self._cost(one),
            )

    def _cost(self, one: _UnderWay) -> Counters:
        endpoint, spending = self._client.endpoint, one.spending
        # A price for a million tokens is a millionth of it for one: so this is in millionths of the currency.
        micros = spending.tokens_in * endpoint.price_in + spending.tokens_out * endpoint.price_out
        return Counters(tokens_in=spending.tokens_in, tokens_out=spending.tokens_out, cost_micros=round(micros))

    # The end of a slice, and of a budget

    async def _drain(self) -> None:
        """Lets calls that are under way come to their end, unless the slice is to stop; begins no other source."""
        ends_at = time.monotonic() + DRAIN_S
        while self._under_way and not self._beat.stopping and time.monotonic() < ends_at:
            for one in self._under_way.values():
                if not one.spending.has_begun or (self._told() and not one.spending.under_way):
                    one.task.cancel()  # it only waits for its turn, or for an endpoint that nobody can ask now
            await self._settle_finished()
        if self._beat.stopping:
            return
        for one in self._under_way.values():
            one.task.cancel()
            await asyncio.gather(one.task, return_exceptions=True)
            await self._bury(one, ModelSilent(f"The source's calls took longer than {DRAIN_S:g} s."))
        self._under_way.clear()

    async def _break_off(self) -> None:
        """Hangs up on all calls and gives their sources back, with what the calls have cost as far as that is known."""
        left = list(self._under_way.values())
        for one in left:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in left), return_exceptions=True)
        for one in left:
            await self._settle(one)
        self._under_way.clear()

    async def _skip_rest(self) -> None:
        """Leaves out what the budget does not cover; what a retry has taken up is a dead letter again."""
        reason = budget_spent(self._budget.limit)
        number = SKIP_BATCH
        while number >= min(SKIP_BATCH, REQUEUE_BATCH) and not self._beat.stopping:
            async with self._lease.holding() as connection:
                number = await bury_records(connection, self._job_id)
                if not number:
                    number = await skip_open_records(connection, self._job_id, reason)
                    self._totals = await add_progress(
                        connection, self._job_id, Lane.RECORDS, Counters(records_skipped=number)
                    )
            self._beat.progress()

    async def _write_note(self, note: str) -> None:
        async with self._lease.holding() as connection:
            await add_progress(connection, self._job_id, Lane.RECORDS, Counters(), note=note)
