"""The lanes of a job as its workflow runs them: slice after slice, in stretches, with one way to stop.

A stretch starts a loop of slices in each lane that is not done, and ends when all are, or when something asks them to
yield. Then the running slices are cancelled, commit what they have, and return their report.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, TypeVar

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import CancelledError as ActivityCancelledError
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

from ke.contracts.activities import (
    CollectActivities,
    CollectSlice,
    EntityActivities,
    EntitySlice,
    ExtractActivities,
    ExtractSlice,
    SliceReport,
    StructuredActivities,
    StructuredSlice,
)
from ke.contracts.jobs import CollectSpec, Counters, CrawlLimits, ExtractSpec, JobError, Lane
from ke.contracts.naming import TaskQueue
from workflows import policies

T = TypeVar("T")

_ACTIVITY: Final = {
    Lane.COLLECT: "collect_pages",
    Lane.EXTRACT: "extract_sources",
    Lane.ENTITIES: "find_entities",
    Lane.RECORDS: "extract_records",
}
"""The activity whose slices a lane runs, as a receipt names it."""


class Lanes:
    """The lanes of one job, for as long as one run of a workflow works on them.

    Attributes:
        done: Whether each lane is at its end.
        limits: Where the collect lane stops; what is set here holds from its next slice on.
        shards: Into how many shards the collect lane is split, each with a loop of slices of its own.
        drained: Slices that were running when the job was stopped for good, and acknowledged it.
        timed_out: The activities of those that did not: their worker never answered.
        stop_seen_at: When the workflow heard that the job is to stop for good.
    """

    def __init__(
        self,
        job_id: str,
        collect: CollectSpec | None,
        extract: ExtractSpec | None,
        *,
        must_yield: Callable[[], bool],
        show: Callable[[], None],
        done: Collection[Lane] = (),
        retrying: bool = False,
        shards: int = 1,
    ) -> None:
        """Starts nothing yet.

        Args:
            job_id: The job.
            collect: What the collect lane fetches; None: there is no such lane.
            extract: What the extract lane makes of sources; None: there is no such lane. With a schema there is also a
                records lane.
            must_yield: Whether something asks the lanes to stop for now, or for good.
            show: Called when there is something new to tell.
            done: Lanes that an earlier run brought to their end.
            retrying: Whether it is dead letters that are fetched; a retry's collect lane is never split.
            shards: Into how many shards an earlier run had split the collect lane.
        """
        self._job_id = job_id
        self._collect = collect
        self._extract = extract
        self._entities: str | None = None
        self._must_yield = must_yield
        self._show = show
        self._retrying = retrying
        self._present = [lane for lane, spec in ((Lane.COLLECT, collect), (Lane.EXTRACT, extract)) if spec is not None]
        if extract is not None and extract.schema is not None:
            self._present.append(Lane.RECORDS)
        self._epoch = 0
        self._started_at = ""
        self._yielding = False
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[tuple[Lane, int], workflow.ActivityHandle[SliceReport]] = {}
        self._collected = 0  # slices of the collect lane that had pages
        self._totals: dict[Lane, Counters] = {}
        self._notes: dict[Lane, str] = {}
        self.done = {lane: lane in done for lane in Lane}
        self.limits = collect.limits if collect else CrawlLimits()
        self.shards = shards
        self.slices = 0
        self.drained = 0
        self.timed_out: list[str] = []
        self.stop_seen_at: datetime | None = None

    def open(self, epoch: int, started_at: str, entities: str | None = None) -> None:
        """Says how the lanes work; before the first stretch.

        Args:
            epoch: The write epoch.
            started_at: Since when, ISO 8601.
            entities: The finder of the entities lane; None: there is no such lane.
        """
        self._epoch, self._started_at, self._entities = epoch, started_at, entities
        if entities is not None:
            self._present.append(Lane.ENTITIES)

    # What there is to tell

    @property
    def all_done(self) -> bool:
        """Whether each lane that there is has come to its end."""
        return all(self.done[lane] for lane in self._present)

    def is_over(self, lane: Lane) -> bool:
        """Whether a lane is done, or not there at all."""
        return self.done[lane] or lane not in self._present

    @property
    def counters(self) -> Counters:
        """As of the last finished slice of each lane."""
        return sum(self._totals.values(), Counters())

    @property
    def note(self) -> str:
        """What the lanes wait for, or why they ended."""
        return "; ".join(note for note in self._notes.values() if note)

    def count_anew(self, counters: Counters) -> None:
        """Takes the job's final numbers in place of the slices' own."""
        self._totals = {Lane.COLLECT: counters}

    # A stretch

    async def run_stretch(self) -> None:
        """Runs the lanes until they are done or must yield, and tells the slices to stop; `drain` waits for them."""
        self._yielding = False
        self._tasks = []
        for lane in self._present:
            if not self.done[lane]:
                self._start_loops(lane)
        await workflow.wait_condition(lambda: self._interrupted or all(task.done() for task in self._tasks))

    def stop(self) -> None:
        """Cancels the running slices; asking twice is asking once."""
        self._yielding = True
        for handle in self._running.values():
            handle.cancel()

    def stop_for_good(self) -> None:
        """The same, and from now on it is counted how the slices answer."""
        self.stop_seen_at = self.stop_seen_at or workflow.now()
        self.stop()

    async def drain(self) -> BaseException | None:
        """Waits until each running slice has acknowledged or timed out; returns the failure of a lane."""
        await workflow.wait_condition(lambda: all(task.done() for task in self._tasks))
        failures = [task.exception() for task in self._tasks]
        return next((failure for failure in failures if failure is not None), None)

    @property
    def _interrupted(self) -> bool:
        return self._must_yield() or any(task.done() and task.exception() is not None for task in self._tasks)

    def _start_loops(self, lane: Lane) -> None:
        shards = self.shards if lane is Lane.COLLECT else 1
        for shard in range(shards):
            name = lane if shards == 1 else f"{lane} {shard}"
            self._tasks.append(asyncio.create_task(self._run_lane(lane, shard), name=name))

    def _may_go_on(self, lane: Lane) -> bool:
        # `_yielding` outlasts what it is for: a `resume` may come before the slice has answered to the `pause`.
        return not (
            self.done[lane] or self._yielding or self._interrupted or workflow.info().is_continue_as_new_suggested()
        )

    async def _run_lane(self, lane: Lane, shard: int = 0) -> None:
        """Runs slices of one lane, or of one shard of it, until it is done or the stretch ends."""
        shards = self.shards
        while self._may_go_on(lane):
            handle = self._start_slice(lane, shard)
            self._running[lane, shard] = handle
            try:
                report = await handle
            except ActivityError as error:
                final = isinstance(error.cause, ApplicationError) and error.cause.non_retryable
                if final or not (self._yielding or self._interrupted):
                    raise
                # It was cancelled before a worker had it, its worker is dead and cannot acknowledge, or a store was
                # out of reach when it stopped: what it had not committed is done again by the next slice.
                self._count_answer(lane, error.cause)
                return
            finally:
                del self._running[lane, shard]
            self._take_report(lane, report)
            if lane is Lane.COLLECT and shards != self.shards:
                # Here, so that the stretch does not end in between.
                if self._may_go_on(lane):
                    self._start_loops(lane)
                return
            if report.idle and self._may_go_on(lane):
                await self._rest(lane)

    def _take_report(self, lane: Lane, report: SliceReport) -> None:
        self.slices += 1
        # One shard may find the lane at its end while another one is still on its way to see that.
        self.done[lane] |= report.done
        self._totals[lane] = report.counters
        self._notes[lane] = report.note
        if lane is Lane.COLLECT:
            self._collected += not report.idle
            self.shards = max(self.shards, report.shards)
        self._count_answer(lane)
        self._show()

    async def _rest(self, lane: Lane) -> None:
        """Leaves a shard without pages alone until another one may have found some for it."""
        seen = self._collected
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._collected > seen or not self._may_go_on(lane),
                timeout=policies.IDLE_SHARD,
                timeout_summary="a shard without pages",
            )

    def _count_answer(self, lane: Lane, cause: BaseException | None = None) -> None:
        """Counts a slice that ended after the stop. One that Temporal itself cancelled was not running."""
        if self.stop_seen_at is None or isinstance(cause, ActivityCancelledError):
            return
        if isinstance(cause, ActivityTimeoutError):
            is_split = lane is Lane.COLLECT and self.shards > 1
            self.timed_out.append("collect_shard" if is_split else _ACTIVITY[lane])
        else:
            self.drained += 1

    def _start_slice(self, lane: Lane, shard: int) -> workflow.ActivityHandle[SliceReport]:
        if lane is Lane.COLLECT and self._collect is not None:
            is_whole = self.shards == 1
            part = "" if is_whole else f", shard {shard + 1} of {self.shards}"
            return workflow.start_activity_method(
                CollectActivities.collect_pages if is_whole else CollectActivities.collect_shard,
                CollectSlice(
                    job_id=self._job_id,
                    epoch=self._epoch,
                    spec=replace(self._collect, limits=self.limits),
                    extract=self._extract is not None,
                    started_at=self._started_at,
                    max_pages=policies.SLICE_MAX_PAGES,
                    max_seconds=policies.SLICE_MAX_SECONDS,
                    retrying=self._retrying,
                    shard=shard,
                    shards=self.shards,
                    may_split=is_whole and not self._retrying,
                ),
                **policies.lane_slice(TaskQueue.COLLECT, f"collect, slice {self.slices + 1}{part}", urgent=shard == 0),
            )
        if lane is Lane.ENTITIES and self._entities is not None:
            return workflow.start_activity_method(
                EntityActivities.find_entities,
                EntitySlice(
                    job_id=self._job_id,
                    epoch=self._epoch,
                    finder=self._entities,
                    extracting=not self.is_over(Lane.EXTRACT),
                    max_seconds=policies.SLICE_MAX_SECONDS,
                ),
                **policies.lane_slice(TaskQueue.ENTITIES, f"entities, slice {self.slices + 1}"),
            )
        if lane is Lane.RECORDS:
            return workflow.start_activity_method(
                StructuredActivities.extract_records,
                StructuredSlice(
                    job_id=self._job_id,
                    epoch=self._epoch,
                    collecting=self._collect is not None,
                    max_seconds=policies.SLICE_MAX_SECONDS,
                ),
                **policies.lane_slice(TaskQueue.RECORDS, f"records, slice {self.slices + 1}"),
            )
        assert self._extract is not None  # noqa: S101  (the other lane there is)
        return workflow.start_activity_method(
            ExtractActivities.extract_sources,
            ExtractSlice(
                job_id=self._job_id,
                epoch=self._epoch,
                # Without the schema, which is the other lane's and may be long.
                spec=replace(self._extract, schema=None, instructions=""),
                collecting=self._collect is not None,
                max_seconds=policies.SLICE_MAX_SECONDS,
                entities_apart=self._entities is not None,
            ),
            **policies.lane_slice(TaskQueue.EXTRACT, f"extract, slice {self.slices + 1}"),
        )


async def shielded(end: Coroutine[Any, Any, T]) -> T:
    """Awaits the end of a run, which a cancel that comes only now must not cut short."""
    task = asyncio.create_task(end, name="finish")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        # It is delivered once, so this is not cancelled again.
        return await task


def error_of(failure: BaseException | None) -> JobError | None:
    """A lane's failure, as a row tells it."""
    if failure is None:
        return None
    cause = failure.cause if isinstance(failure, ActivityError) else None
    if isinstance(cause, ApplicationError):
        return JobError(type=cause.type or "internal", message=cause.message)
    return JobError(type="internal", message=str(cause or failure) or type(failure).__name__)
