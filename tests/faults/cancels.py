"""Cancels jobs at random moments, in every way there is, and prints how long each took to stand still.

`python -m tests.faults cancels [--count 200] [--seed 1]` ends with status 1 when a promise does not hold: a job that is
cancelled in another state than `cancelled`, or a fetch after its row said so, or a p99 over a second.
"""

import argparse
import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import asyncpg
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client

from examples.serve import SiteServer
from ke.client import ApiError, KnowledgeExtractionClient
from ke.client_types import Job
from ke.contracts.jobs import CancelRequest
from tests.e2e.stack import Stack, eventually
from tests.faults.measures import machine, open_folder, percentile, say, summary, verdict
from tests.faults.prose import page_name, write_site

Kind = Literal["crawl", "crawl and extract", "extract", "extract long"]
Way = Literal["http", "http, cleanup", "temporal", "signal, cleanup"]
Moment = Literal["at once", "midway", "paused"]

KINDS: tuple[Kind, ...] = ("crawl", "crawl and extract", "extract", "extract long")
WAYS: tuple[Way, ...] = ("http", "http", "http, cleanup", "temporal", "signal, cleanup")
MOMENTS: tuple[Moment, ...] = ("at once", "midway", "midway", "midway", "midway", "midway", "midway", "paused")
LATEST_S = 6.0
"""The latest moment of a cancel, in seconds after the submit."""
SITE_DELAY_S = 0.1
PAGES = 400
PAGE_CHARACTERS = 6_000
LONG_PAGES = 8
LONG_CHARACTERS = 400_000
LOOK_S = 0.02
SHOWN = 5
GOAL_S = 1.0
END_S = 60.0


@dataclass(frozen=True)
class Plan:
    """One cancel."""

    kind: Kind
    way: Way
    moment: Moment
    after_s: float


@dataclass(frozen=True)
class Cancelled:
    """What became of it, in seconds."""

    plan: Plan
    job: Job
    sent_at: float
    """Unix time."""
    receipt_s: float
    """By the receipt: from the request that the job saw until its last activity had acknowledged."""
    outside_s: float
    """From sending the request until the row says `cancelled`."""
    last_fetch_s: float
    """From the accept until the last request that the site saw, 0 when there was none."""
    late_fetches: int
    """Requests that came after the row said `cancelled`."""
    timed_out: int
    """Activities that did not acknowledge."""


@dataclass(frozen=True)
class Library:
    """Stored sources for extract jobs."""

    short: str
    long: str


class Slot:
    """A place in which one job after the other runs, with a site of its own: what it is asked for is that job's."""

    def __init__(self, stack: Stack, site: SiteServer, library: Library, temporal: Client) -> None:
        self._stack = stack
        self._site = site
        self._library = library
        self._temporal = temporal
        self.skipped = 0

    async def run(self, plans: list[Plan], done: list[Cancelled]) -> None:
        """Takes plans until none is left."""
        connection = await asyncpg.connect(self._stack.endpoints["database"])
        try:
            async with self._stack.client() as client:
                while plans:
                    result = await self._one(client, connection, plans.pop())
                    if result is None:
                        self.skipped += 1
                    else:
                        done.append(result)
        finally:
            await connection.close()

    async def _one(
        self, client: KnowledgeExtractionClient, connection: asyncpg.Connection, plan: Plan
    ) -> Cancelled | None:
        """One job and its cancel; None when it had ended before."""
        job = await self._submit(client, plan.kind)
        if plan.moment != "at once":
            await asyncio.sleep(plan.after_s)
        if plan.moment == "paused":
            await self._pause(client, job)
        sent_at, began = time.time(), time.monotonic()
        try:
            await self._cancel(client, job, plan.way)
        except ApiError as error:
            if error.status == 409:
                return None
            raise
        accepted = time.monotonic()
        await self._ended(connection, job["id"])
        ended = time.monotonic()
        await asyncio.sleep(0.3)
        fetches = [r.monotonic_s for r in self._site.requests if r.monotonic_s > accepted]
        self._site.requests.clear()
        job = await client.get_job(job["id"])
        if "cleanup" in plan.way:
            await eventually(lambda: client.get_job(job["id"]), lambda j: j["artifacts"] == "cleaned", timeout_s=END_S)
        result: Mapping[str, Any] = job["result"] or {}
        receipt = result.get("cancellation") or {"latency_s": 0.0, "activities_timed_out": 0}
        return Cancelled(
            plan,
            job,
            sent_at,
            float(receipt["latency_s"]),
            ended - began,
            max((at - accepted for at in fetches), default=0.0),
            sum(at > ended for at in fetches),
            int(receipt["activities_timed_out"]),
        )

    async def _submit(self, client: KnowledgeExtractionClient, kind: Kind) -> Job:
        if kind.startswith("extract"):
            source = self._library.long if kind == "extract long" else self._library.short
            return await client.submit_extract(source_job_id=source)
        extract: dict[str, Any] | None = {} if kind == "crawl and extract" else None
        return await client.submit_crawl([f"{self._site.url}/index.html"], limits={"max_pages": PAGES}, extract=extract)

    async def _pause(self, client: KnowledgeExtractionClient, job: Job) -> None:
        """Pauses it and waits until it is; it may not have begun, or have ended."""
        running = await eventually(
            lambda: client.get_job(job["id"]), lambda j: j["status"] != "queued", timeout_s=END_S, every_s=LOOK_S
        )
        if running["status"] != "running":
            return
        await client.pause_job(job["id"])
        await eventually(
            lambda: client.get_job(job["id"]), lambda j: j["status"] != "running", timeout_s=END_S, every_s=LOOK_S
        )

    async def _cancel(self, client: KnowledgeExtractionClient, job: Job, way: Way) -> None:
        if way.startswith("http"):
            await client.cancel_job(job["id"], cleanup="cleanup" in way)
            return
        handle = self._temporal.get_workflow_handle(job["workflow_id"])
        if way == "temporal":
            await handle.cancel()
        else:
            await handle.signal("cancel_and_clean", CancelRequest())

    async def _ended(self, connection: asyncpg.Connection, job_id: str) -> None:
        await eventually(
            lambda: connection.fetchval("SELECT completed_at FROM jobs WHERE id = $1", uuid.UUID(job_id)),
            lambda at: at is not None,
            timeout_s=END_S,
            every_s=LOOK_S,
        )


async def make_library(stack: Stack, site: SiteServer, long_site: SiteServer) -> Library:
    """Crawls the sites once, without extraction."""
    async with stack.client() as client:
        short = await client.submit_crawl([f"{site.url}/index.html"], limits={"max_pages": PAGES})
        urls = [f"{long_site.url}/{page_name(number, 'long')}" for number in range(LONG_PAGES)]
        long = await client.submit_scrape(urls)
        for job in (short, long):
            ended = await eventually(
                lambda job=job: client.get_job(job["id"], wait_s=20),  # type: ignore[misc]
                lambda j: j["completed_at"] is not None,
                timeout_s=180,
            )
            assert ended["status"] == "completed", ended
    return Library(short["id"], long["id"])


def make_plans(count: int, seed: int) -> list[Plan]:
    """Cancels in random order."""
    chance = random.Random(seed)
    return [
        Plan(chance.choice(KINDS), chance.choice(WAYS), chance.choice(MOMENTS), chance.uniform(0.0, LATEST_S))
        for _ in range(count)
    ]


async def timeline(temporal: Client, one: Cancelled) -> list[str]:
    """What Temporal's history has of a cancel, in seconds after it was sent."""
    history = await temporal.get_workflow_handle(one.job["workflow_id"]).fetch_history()
    names = {e.event_id: e.activity_task_scheduled_event_attributes.activity_type.name for e in history.events}
    lines = []
    for event in history.events:
        at = event.event_time.ToDatetime(UTC).timestamp() - one.sent_at
        if at < -0.05:  # before the cancel
            continue
        attributes = getattr(event, event.WhichOneof("attributes") or "", None)
        name = names.get(getattr(attributes, "scheduled_event_id", 0) or event.event_id, "")
        kind = EventType.Name(event.event_type).removeprefix("EVENT_TYPE_").lower()
        if kind not in {"workflow_task_scheduled", "upsert_workflow_search_attributes", "workflow_properties_modified"}:
            lines.append(f"      {at:7.3f}  {kind} {name}".rstrip())
    return lines


async def report(done: list[Cancelled], temporal: Client) -> list[str]:
    """Prints the figures; returns what does not hold."""
    broken = [f"job {one.job['id']} ended as {one.job['status']}" for one in done if one.job["status"] != "cancelled"]
    broken += [
        f"{one.late_fetches} fetches after job {one.job['id']} was cancelled" for one in done if one.late_fetches
    ]
    cancelled = [one for one in done if one.job["status"] == "cancelled"]
    for kind in KINDS:
        say(summary(f"outside, {kind}", [one.outside_s for one in cancelled if one.plan.kind == kind]))
    for moment in dict.fromkeys(MOMENTS):
        say(summary(f"outside, {moment}", [one.outside_s for one in cancelled if one.plan.moment == moment]))
    say(summary("(a) receipt: latency_s", [one.receipt_s for one in cancelled]))
    say(summary("(b) outside: sent to cancelled", [one.outside_s for one in cancelled]))
    say(summary("(c) last fetch after the accept", [one.last_fetch_s for one in cancelled]))
    say(f"ways: {dict(Counter(one.plan.way for one in cancelled))}")
    say(f"activities timed out: {sum(one.timed_out for one in cancelled)}")
    for one in sorted(cancelled, key=lambda one: -one.outside_s)[:SHOWN]:
        plan = one.plan
        say(f"  {one.outside_s:.3f} s: {plan.kind}, {plan.moment} ({plan.after_s:.1f} s), by {plan.way}")
        say("\n".join(await timeline(temporal, one)))
    for name, values in (
        ("receipt", [one.receipt_s for one in cancelled]),
        ("outside", [one.outside_s for one in cancelled]),
        ("last fetch", [one.last_fetch_s for one in cancelled]),
    ):
        if values and percentile(values, 0.99) > GOAL_S:
            broken.append(f"{name}: p99 is over {GOAL_S:g} s")
    return broken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this program."""
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(datetime.now(UTC).timestamp()))
    parser.add_argument("--at-once", type=int, default=4, help="jobs side by side")


async def run(options: argparse.Namespace) -> int:
    """Runs it all on a stack of its own; returns the exit status."""
    say(f"count {options.count}, seed {options.seed}, {options.at_once} jobs at once; {machine()}")
    folder = open_folder("ke-cancels-")
    for name in ("site", "long"):
        (folder / name).mkdir()
    write_site(folder / "site", pages=PAGES, characters=PAGE_CHARACTERS, seed=options.seed)
    write_site(folder / "long", pages=LONG_PAGES, characters=LONG_CHARACTERS, seed=options.seed, prefix="long")
    async with AsyncExitStack() as opened:
        sites = [
            await opened.enter_async_context(SiteServer(folder / "site", delay_s=SITE_DELAY_S))
            for _ in range(options.at_once)
        ]
        long_site = await opened.enter_async_context(SiteServer(folder / "long"))
        stack = Stack(folder / "data", fetch_allow=",".join(site.host_port for site in (*sites, long_site)))
        try:
            await asyncio.to_thread(stack.start)
            temporal = await Client.connect(stack.endpoints["temporal"])
            sites[0].delay_s = 0
            library = await make_library(stack, sites[0], long_site)
            sites[0].delay_s = SITE_DELAY_S
            sites[0].requests.clear()
            plans, done = make_plans(options.count, options.seed), list[Cancelled]()
            slots = [Slot(stack, site, library, temporal) for site in sites]
            began = time.monotonic()
            await asyncio.gather(*(slot.run(plans, done) for slot in slots))
            skipped = sum(slot.skipped for slot in slots)
            say(f"{len(done)} cancels in {time.monotonic() - began:.0f} s; {skipped} jobs had ended before theirs")
            broken = await report(done, temporal)
        finally:
            await asyncio.to_thread(stack.stop)
    return verdict(broken, "the promises hold", folder)
