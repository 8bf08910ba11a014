"""Scenarios that aim at one guarantee each, so that a build without it is caught for sure."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit

from tests.faults.injections import LateWrite, frozen, victims
from tests.faults.ledger import Ledger
from tests.faults.scenes import CONCURRENCY, NotReached, Scene
from tests.faults.site import Pages
from tests.faults.stack import FaultStack

SLOW_S: Final = 4.0
"""For a page: longer than the job takes to end, and less than a connection to Postgres may take, after which the slice
gives up by itself."""
ENDS_WITHIN_S: Final = 2.5
TRIES: Final = 6


async def directed(name: str, stack: FaultStack, ledger: Ledger) -> None:
    """Plays one."""
    await SCENARIOS[name](stack, ledger)


async def late_write(stack: FaultStack, ledger: Ledger) -> None:
    """A worker freezes with a batch of points on its way, and goes on when the job is cleaned."""
    scene = Scene(stack, ledger, "crawl", "extracting", 1)
    await scene.reach()
    await LateWrite().inject(stack, scene, _nothing)
    await asyncio.sleep(2.0)


async def cancel_while_cut_off(stack: FaultStack, ledger: Ledger) -> None:
    """A worker is cut off from Temporal and Postgres, and its job is cancelled; the pages it has claimed are slow.

    It hears of nothing and nobody can stop it, so it fetches what it has claimed until it finds that it cannot reach
    Postgres: a job that waits for that is still cancelling. So is one on a machine that is too slow to end a job while
    the first of these pages are fetched, and then it is tried again.
    """
    for _ in range(TRIES):
        scene = Scene(stack, ledger, "crawl", "collecting", 10)
        scene.job = await scene.submit(Pages(number=90, delay_s=0.2))
        # By its tenth page it has found more than it may fetch at once.
        await scene._until_moved("collect")
        stack.site.add(scene.job.mark, Pages(number=90, delay_s=SLOW_S))
        await _some_wait_for_their_turn(scene)
        stack.slices.temporal.hold()
        stack.slices.postgres.hold()
        await scene.cancel()
        ended = await _ends(scene, ENDS_WITHIN_S)
        await asyncio.sleep(SLOW_S + 1.0)
        stack.heal()
        await scene._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL")
        if ended:
            return


async def _ends(scene: Scene, seconds: float) -> bool:
    """Whether the job ends within so many seconds."""
    try:
        await scene._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL", timeout_s=seconds)
    except NotReached:
        return False
    return True


async def _some_wait_for_their_turn(scene: Scene) -> None:
    """Waits for a moment in which slow fetches have just begun and more pages are claimed that were not asked for.

    Raises:
        NotReached: There was no such moment in a minute.
    """
    site, ends = scene.stack.site, time.monotonic() + 60
    while time.monotonic() < ends:
        await asyncio.sleep(0.1)
        asked = {fetch.path for fetch in site.log}
        claimed = "SELECT url FROM pages WHERE job_id::text = $1 AND state = 'fetching'"
        rows = await scene.stack.sql(claimed, scene.job_id)
        waiting = [row["url"] for row in rows if urlsplit(row["url"]).path not in asked]
        # Those that the site was asked for just now are slow; the others' turn comes when these have ended.
        if time.time() - site.log[-1].at < 1.0 and len(waiting) >= CONCURRENCY:
            return
    raise NotReached("no slow fetch began while pages waited for their turn")


async def twice(stack: FaultStack, ledger: Ledger) -> None:
    """A worker freezes for longer than its heartbeat timeout; another one takes its slice up; then both write."""
    scene = Scene(stack, ledger, "crawl", "collecting", 7)
    scene.job = await scene.submit(Pages(number=60, delay_s=0.6))
    await scene._until_moved("collect")
    with frozen(await victims(stack, scene, "worker")):
        before = await _fetched(scene)
        await scene._until(f"SELECT 1 FROM job_progress WHERE job_id = $1 AND pages_fetched >= {before + 8}")
    await scene._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL")


async def _fetched(scene: Scene) -> int:
    rows = await scene.stack.sql(
        "SELECT sum(pages_fetched)::int AS n FROM job_progress WHERE job_id::text = $1", scene.job_id
    )
    return int(rows[0]["n"])


async def _nothing() -> None:
    """Asks for nothing."""


SCENARIOS: Final[dict[str, Callable[[FaultStack, Ledger], Awaitable[None]]]] = {
    "fence": late_write,
    "wait": cancel_while_cut_off,
    "claim": twice,
}
"""What each broken build must not pass."""
