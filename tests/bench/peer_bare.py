"""A bare worker and its workflow, in a process of its own: `python -m tests.bench.peer_bare ADDRESS HOST_PORT`.

One workflow with one activity, which fetches a page and reads it in the pool, as a job of one page does; no rows, and
no start or end to be written down. Prints a line when it is ready, and ends with its standard input.
"""

import asyncio
import sys
from datetime import timedelta

import uvloop
from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "bench-bare"

with workflow.unsafe.imports_passed_through():
    from activities.warmup import load_models, warm
    from ke.runtime.pool import CpuPool
    from ke.web.egress import EgressPolicy
    from ke.web.fetch import Fetcher
    from ke.web.parse import parse_page


@workflow.defn(name="bench-bare")
class BareWorkflow:
    """One activity."""

    @workflow.run
    async def run(self, url: str) -> int:
        result: int = await workflow.execute_activity(
            "bench-read", url, start_to_close_timeout=timedelta(seconds=30), result_type=int
        )
        return result


class Reading:
    """The activity, with what it holds open."""

    def __init__(self, fetcher: Fetcher, pool: CpuPool) -> None:
        self._fetcher = fetcher
        self._pool = pool

    @activity.defn(name="bench-read")
    async def read(self, url: str) -> int:
        """The length of the page's text."""
        response = await self._fetcher.fetch(url)
        page = await self._pool.run(
            parse_page, response.body, response.content_type, response.charset, response.final_url
        )
        return len(page.text)


async def main(address: str, host_port: str) -> None:
    """Serves until standard input ends."""
    client = await Client.connect(address)
    pool = CpuPool(2)
    policy = EgressPolicy(frozenset({host_port}))
    async with Fetcher(user_agent="ke-bench/1", timeout_s=30, max_bytes=10_000_000, policy=policy) as fetcher:
        await warm(pool, load_models)
        reading = Reading(fetcher, pool)
        async with Worker(client, task_queue=QUEUE, workflows=[BareWorkflow], activities=[reading.read]):
            print("{}", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    await pool.close()


if __name__ == "__main__":
    from tests.bench.peer_bare import main as run  # the pool does not take functions of the main module

    uvloop.run(run(*sys.argv[1:]))
