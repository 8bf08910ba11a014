"""What a crawl fetches again when its worker is killed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from statistics import median

from activities.collect_slice import BATCH_PAGES
from tests.bench.figures import Figure, Goal
from tests.bench.lab import JOB_TIMEOUT_S, Lab, a_stack, crawl_body, ended, submit, warm
from tests.bench.site import Served, served
from tests.e2e.stack import eventually
from tests.faults.measures import say

ROUNDS = (5, 1)


async def kill(lab: Lab) -> AsyncIterator[Figure]:
    """Pages fetched again after a worker's kill -9, by the server's log, against one batch."""
    repeated: list[int] = []
    async with served(await lab.site(), logged=True) as web, a_stack(web.host_port) as stack:
        await warm(stack, web.url)
        async with stack.client() as client:
            for number in range(lab.options.size(*ROUNDS)):
                before = web.fetches()
                job = await submit(client, crawl_body(web.url, extract=None))
                share = (number + 1) / (lab.options.size(*ROUNDS) + 1)
                await _killed_at(web, before.total() + share * await _pages(web.site.folder), stack.kill_worker)
                done = await ended(client, job["id"])
                fetches = web.fetches() - before
                repeated.append(fetches.total() - len(fetches))
                say(f"  killed at {share:.0%}: {len(fetches)} pages, {repeated[-1]} of them fetched twice")
                assert done["result"] is not None
                assert len(fetches) >= done["result"]["pages_fetched"]
    ratios = [number / BATCH_PAGES for number in repeated]
    note = f"{median(repeated):g} pages against a batch of {BATCH_PAGES}; at most {max(repeated)}"
    yield Figure("kill", Goal.most(1.0), ratios, note, worst=True)


async def _pages(folder: Path) -> int:
    return len(await asyncio.to_thread(lambda: list(folder.rglob("*.html"))))


async def _killed_at(web: Served, fetches: float, kill: Callable[[], int]) -> None:
    """Kills when the server has been asked for so many pages."""

    async def total() -> int:
        return (await asyncio.to_thread(web.fetches)).total()

    await eventually(total, lambda seen: seen >= fetches, timeout_s=JOB_TIMEOUT_S, every_s=0.02)
    kill()
