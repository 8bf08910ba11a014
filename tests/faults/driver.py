"""`python -m tests.faults run`: faults drawn from a seed, and after each one the invariants.

Each fault hits a job that was brought to a phase of its kind; while it is broken the job is cancelled, cleaned or
paused, as the plan says. Then everything that was accepted must move on or have ended, and the invariants are looked
at from outside. Jobs of earlier faults go on meanwhile, and are cleaned up when they have ended.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from temporalio.service import RPCError

from ke.client import ApiError, GatewayUnreachable
from ke.contracts.errors import KeError
from tests.faults.broken import BROKEN, command_of
from tests.faults.directed import directed
from tests.faults.invariants import Invariants
from tests.faults.ledger import Ledger
from tests.faults.plan import Step, draw
from tests.faults.report import Report
from tests.faults.scenes import NotReached, Scene
from tests.faults.site import Pages
from tests.faults.stack import UNREACHABLE, FaultStack, patiently

RECOVERY_TIMEOUT_S: Final = 120.0
END_TIMEOUT_S: Final = 240.0
MOST_ACTIVE: Final = 3
"""Jobs that may be open when the next fault is prepared."""
PATIENCE: Final = 60
DISK_MB: Final = 1500
T = TypeVar("T")
LIBRARY: Final = Pages(number=80, delay_s=0.01)
"""The job whose sources extractions read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    parser.add_argument("--faults", type=int, default=20, help="how many faults")
    parser.add_argument("--seed", type=int, help="the same seed gives the same plan; drawn and printed by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--broken", choices=sorted(BROKEN), default="", help="a build that must be caught")
    parser.add_argument("--plan", action="store_true", help="only print the plan")


async def run(options: argparse.Namespace) -> int:
    """Runs to the end of the plan; 0 when every invariant held."""
    seed = options.seed if options.seed is not None else int(time.time()) % 100_000
    print(f"seed {seed}", flush=True)
    if options.plan:
        for step in draw(seed, options.faults):
            print(f"{step.number:>4}  {step.fault!s:<48} {step.where:<28} {step.action}, then {step.then}")
        return 0
    report = Report(seed, options.faults, options.broken)
    stack = stack_for(options.broken)
    try:
        if options.broken:
            await play_directed(stack, report, options.broken)
        else:
            await play(stack, report, lambda disk: draw(seed, options.faults, disk=disk))
    finally:
        print(report.table(), flush=True)
        if stack.keep:
            print(f"logs: {stack.data_dir}/logs", flush=True)
        if options.json:
            options.json.write_text(json.dumps(report.document(), indent=1) + "\n")
    return 0 if report.complete and not report.broken else 1


async def play(stack: FaultStack, report: Report, plan: Callable[[bool], Sequence[Step]]) -> None:
    """Starts the stack, goes through a plan, and ends all of it.

    Args:
        stack: Not yet started.
        report: Takes the figures and what was broken.
        plan: Gives the faults; it is told whether the disk can be filled.
    """
    began = time.monotonic()
    try:
        async with stack:
            driver = Driver(stack, report)
            try:
                await driver.all(plan(stack.disk is not None))
                await driver.end()
                report.complete = True
            except Exception:
                # A run that fails itself: its logs are wanted too.
                stack.keep = True
                raise
            stack.keep = bool(report.broken)
    finally:
        report.elapsed_s = time.monotonic() - began


async def play_directed(stack: FaultStack, report: Report, name: str) -> None:
    """Starts the stack, plays the one scenario that catches a broken build, and ends all of it."""
    began = time.monotonic()
    try:
        async with stack:
            await Driver(stack, report).directed(name)
        report.complete = True
    finally:
        report.elapsed_s = time.monotonic() - began


def stack_for(broken: str = "") -> FaultStack:
    """The stack of a run, or that of the scenario that catches a broken build."""
    if broken:
        return FaultStack(worker=command_of(broken), split=True, workers=2 if broken == "claim" else 1)
    return FaultStack(disk_mb=DISK_MB)


@dataclass
class Driver:
    """Goes through a plan."""

    stack: FaultStack
    report: Report
    ledger: Ledger = field(default_factory=Ledger)
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    _library: str = ""
    _live: list[Scene] = field(default_factory=list)
    """Jobs that have not been given up to a cleanup, with what becomes of them."""
    _then: dict[str, str] = field(default_factory=dict)
    _stuck: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.invariants = Invariants(self.stack, self.ledger)

    async def all(self, steps: Sequence[Step]) -> None:
        """All faults of the plan, one after the other."""
        if self.stack.disk_mb and self.stack.disk is None:
            self.report.not_run.append("fill the disk of postgres (it needs root, to mount a small tmpfs)")
        self._library = await self._stock()
        scenes = [Scene(self.stack, self.ledger, s.kind, s.phase, s.moment, self._library) for s in steps]
        for step, scene, following in zip(steps, scenes, [*scenes[1:], None], strict=True):
            if following is not None:
                await following.prepare()
            await self._whole_step(step, scene, len(steps))

    async def directed(self, name: str) -> None:
        """The one scenario that shows what a broken build does wrong."""
        with self.ledger.disturbed():
            await directed(name, self.stack, self.ledger)
        self.report.faults[f"directed at {name}"] += 1
        await self._look("the scenario")
        self.report.jobs = len(self.ledger.jobs)

    async def end(self) -> None:
        """Lets everything end, cleans up, reconciles, and looks at all of it once more."""
        self.stack.heal()
        self._live.clear()
        await self._settled(END_TIMEOUT_S)
        await self._reconcile()
        self._note(await persistently(self.invariants.at_end), "all of it")
        rows = await self.stack.sql(
            "SELECT id, status, (result->'cancellation'->>'latency_s')::float AS latency FROM jobs"
        )
        self.report.jobs = len(self.ledger.jobs)
        for row in rows:
            self.report.ended[row["status"]] += 1
            if row["latency"] is not None:
                job = self.ledger.jobs.get(str(row["id"]))
                (self.report.crowd_s if job and job.crowd else self.report.cancel_s).append(row["latency"])
        for side in self.stack.sides.values():
            self.report.answers_lost += side.postgres.dropped + side.temporal.dropped + side.vectors.dropped
            self.report.calls_failed += side.vectors.failed
        self.report.grown_mb = dict(self.invariants.grown)

    async def _stock(self) -> str:
        scene = Scene(self.stack, self.ledger, "scrape", "queued", 0)
        scene.job = await scene.submit(LIBRARY)
        await patiently(lambda: self.stack.client.get_job(scene.job_id, wait_s=60))
        return scene.job_id

    # One fault

    async def _whole_step(self, step: Step, scene: Scene, total: int) -> None:
        """One step in a task of its own: what breaks a call of the run itself off must not end the run."""
        task = asyncio.create_task(self._step(step, scene, total))
        try:
            await task
        except asyncio.CancelledError:
            this = asyncio.current_task()
            if this is not None and this.cancelling():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
            self.stack.heal()
            self.report.not_run.append(f"fault {step.number}, {step.fault}: the run broke it off itself")

    async def _step(self, step: Step, scene: Scene, total: int) -> None:
        began = time.monotonic()
        broken: list[str] = []
        state, recovery = "", 0.0
        try:
            with self.ledger.disturbed():
                state = await scene.reach()
                await step.fault.inject(self.stack, scene, lambda: self._act(step.action, scene))
                self.stack.heal()
                healed = time.monotonic()
                await asyncio.gather(*scene.tasks)
                await self._recovered()
                recovery = time.monotonic() - healed
        except* (NotReached, AssertionError, ApiError, GatewayUnreachable, TimeoutError) as errors:
            error = first_of(errors)
            line = str(error) or type(error).__name__
            broken.append(line if line.startswith("one-key") else f"progress: {line}")
            self.stack.heal()
        self.report.faults[step.fault.name] += 1
        self.report.recovery_s.append(recovery)
        if scene.job is not None:
            self._live.append(scene)
            self._then[scene.job.id] = step.then
        self._note(broken, str(step.fault))
        broken += await self._look(f"fault {step.number}, {step.fault}")
        await persistently(self._retire)
        self.say(
            f"{step.number:>4}/{total}  {step.fault!s:<46} {step.where:<26} [{state}] {step.action:<16}"
            f" recovered {recovery:5.1f} s  {time.monotonic() - began:5.1f} s  {'BROKEN' if broken else 'ok'}"
        )

    async def _act(self, action: str, scene: Scene) -> None:
        acts: dict[str, Callable[[], Awaitable[None]]] = {
            "cancel": scene.cancel,
            "cancel and clean": lambda: scene.cancel(cleanup=True),
            "clean": scene.clean,
            "delete": lambda: scene.clean(delete_record=True),
            "resume": scene.resume,
            "pause and resume": scene.pause_and_resume,
        }
        if scene.job is not None and action in acts:
            await acts[action]()

    async def _recovered(self) -> None:
        """Waits until all processes are there and every open job has moved on or ended.

        Raises:
            AssertionError: It did not in time.
        """
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        before: dict[str, tuple[object, ...]] | None = None
        while True:
            stuck: Sequence[str] = ["the stack"]
            with suppress(*UNREACHABLE, GatewayUnreachable):
                if await self._whole():
                    now = await self._marks()
                    before = now if before is None else before
                    stuck = [job for job, mark in now.items() if before.get(job) == mark and job not in self._stuck]
            if not stuck:
                return
            if time.monotonic() > deadline:
                # Told once; the faults that follow are not to be blamed for it.
                self._stuck.update(stuck)
            assert time.monotonic() < deadline, (
                f"neither ended nor moved on {RECOVERY_TIMEOUT_S:g} s after the fault: {', '.join(stuck)}"
            )
            await asyncio.sleep(0.2)

    async def _whole(self) -> bool:
        roles = self.stack.processes()
        if len(roles["worker"]) < self.stack.workers or not all(roles.values()):
            return False
        return await self.stack.client.is_ready()

    async def _marks(self) -> dict[str, tuple[object, ...]]:
        """How far every open job and cleanup is."""
        rows = await self.stack.sql(_OPEN)
        return {str(row["id"]): tuple(row) for row in rows}

    # Around it

    async def _retire(self) -> None:
        """Gives jobs that have ended to a cleanup, and waits while too many are open."""
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        while True:
            rows = await self.stack.sql("SELECT id, completed_at, artifacts FROM jobs WHERE retry_id IS NULL")
            ended = {str(row["id"]): row["artifacts"] for row in rows if row["completed_at"] is not None}
            for scene in [scene for scene in self._live if scene.job_id in ended]:
                self._live.remove(scene)
                then = self._then[scene.job_id]
                assert scene.job is not None
                if then != "keep" and ended[scene.job_id] == "present":
                    scene.job.counted = scene.job.counted or await scene.count()
                    await scene.clean(delete_record=then == "delete")
            if len(self._live) <= MOST_ACTIVE or time.monotonic() > deadline:
                return
            await asyncio.sleep(0.3)

    async def _settled(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with suppress(*UNREACHABLE):
                if await self._whole() and not await self.stack.sql(_OPEN):
                    return
            await asyncio.sleep(0.3)

    async def _reconcile(self) -> None:
        """Lets `ke` compare its stores: what a fault left half made is gone after it."""
        await patiently(lambda: self.stack.client.reconcile(max_share=1.0, wait_s=60))

    async def _look(self, when: str) -> list[str]:
        return self._note(await persistently(self.invariants.after_fault), when)

    def _note(self, lines: Sequence[str], when: str) -> list[str]:
        """Writes down, and says, what is newly broken."""
        new = [line for line in lines if line not in set(self.report.broken)]
        for line in new:
            self.say(f"      BROKEN after {when}: {line}")
        self.report.broken += new
        return new


def first_of(error: BaseException) -> BaseException:
    """What went wrong first, where several things did at once."""
    return first_of(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


async def persistently(look: Callable[[], Awaitable[T]]) -> T:
    """Looks again while a store that was just broken does not answer the run itself.

    Raises:
        OSError: Or another of `UNREACHABLE`: it did not answer in a minute.
    """
    for _ in range(PATIENCE - 1):
        try:
            return await look()
        except (*UNREACHABLE, KeError, RPCError):
            await asyncio.sleep(1.0)
    return await look()


_OPEN: Final = (
    "SELECT j.id, j.status, j.artifacts, j.retry_id, p.pages, p.sources, p.done, b.batches FROM jobs j"
    " LEFT JOIN LATERAL (SELECT sum(pages_fetched + pages_failed + pages_duplicate) AS pages,"
    "   sum(sources_extracted + entities) AS sources, count(*) FILTER (WHERE done) AS done"
    "   FROM job_progress WHERE job_id = j.id) p ON true"
    " LEFT JOIN LATERAL (SELECT count(*) AS batches FROM cleanup_batches"
    "   WHERE cleanup_id = 'cleanup-' || j.id) b ON true"
    " WHERE j.deleted_at IS NULL AND (j.completed_at IS NULL OR j.retry_id IS NOT NULL"
    "  OR j.artifacts IN ('cleaning', 'cleanup_failed'))"
)
