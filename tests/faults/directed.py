"""Scenarios that aim at one guarantee each, so that a build without it is caught for sure."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from tests.faults.injections import LateWrite, frozen, victims
from tests.faults.ledger import Ledger
from tests.faults.scenes import NotReached, Scene
from tests.faults.site import Pages
from tests.faults.stack import FaultStack


async def directed(name: str, stack: FaultStack, ledger: Ledger) -> None:
    """Plays one."""
    await SCENARIOS[name](stack, ledger)


async def late_write(stack: FaultStack, ledger: Ledger) -> None:
    """A worker freezes with a batch of points on its way, and goes on when the job is cleaned."""
    scene = Scene(stack, ledger, "crawl", "extracting", 1)
    await scene.reach()
    await LateWrite().inject(stack, scene, _nothing)
    await asyncio.sleep(2.0)


async def cancel_while_frozen(stack: FaultStack, ledger: Ledger) -> None:
    """A worker freezes for less than its heartbeat timeout; its job is cancelled meanwhile."""
    scene = Scene(stack, ledger, "crawl", "collecting", 2)
    scene.job = await scene.submit(Pages(number=60, delay_s=0.4))
    await scene._until_moved("collect")
    with frozen(await victims(stack, scene, "worker")):
        await scene.cancel()
        # Whoever waits for the slice is not done by then: it is less than a heartbeat timeout.
        with contextlib.suppress(NotReached):
            await scene._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL", timeout_s=9.0)
        await asyncio.sleep(1.0)
    await asyncio.sleep(2.0)


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
    "wait": cancel_while_frozen,
    "claim": twice,
}
"""What each broken build must not pass."""
