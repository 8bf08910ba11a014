"""Scenarios that aim at one guarantee each, so that a build without it is caught for sure."""

import asyncio
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
    """A worker freezes for less than its heartbeat timeout; its job is cancelled meanwhile.

    A job that waits for its slice is still open when the worker goes on; so is one on a machine that is too slow to
    end a job in that time, and then it is tried again.
    """
    for _ in range(3):
        scene = Scene(stack, ledger, "crawl", "collecting", 2)
        scene.job = await scene.submit(Pages(number=60, delay_s=0.4))
        await scene._until_moved("collect")
        with frozen(await victims(stack, scene, "worker")):
            await scene.cancel()
            ended = await _ends(scene, 8.0)
            await asyncio.sleep(1.0)
        await asyncio.sleep(2.0)
        if ended:
            return


async def _ends(scene: Scene, seconds: float) -> bool:
    try:
        await scene._until("SELECT 1 FROM jobs WHERE id = $1 AND completed_at IS NOT NULL", timeout_s=seconds)
    except NotReached:
        return False
    return True


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
