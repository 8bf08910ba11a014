"""Jobs outlive what they run on."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from activities.collect_slice import BATCH_PAGES
from examples.serve import SiteServer
from tests.e2e.sites import PAGES, walk
from tests.e2e.stack import Stack, eventually, runs
from tests.e2e.test_stopping import ended, midway


@pytest.fixture
def own_stack(tmp_path: Path, big_site: SiteServer) -> Iterator[Stack]:
    """A stack that a test may kill."""
    stack = Stack(tmp_path / "data", fetch_allow=big_site.host_port)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()


async def stored_paths(stack: Stack, site: SiteServer, job_id: str) -> list[str]:
    """The paths of the job's sources."""
    rows = await stack.sql("SELECT url FROM sources WHERE job_id = $1", uuid.UUID(job_id))
    return [row["url"].removeprefix(f"{site.url}/") or "index.html" for row in rows]


async def test_killed_worker_costs_a_batch_and_loses_nothing(
    stack: Stack, big_site: SiteServer, folder_of_big_site: Path
) -> None:
    """After kill -9 of the worker the crawl ends with exactly the walk's set; at most one batch is fetched again."""
    job = await midway(stack, big_site)
    before = len(big_site.requests)
    children = psutil.Process(int(stack.endpoints["pids"]["workers"][0])).children(recursive=True)
    killed = stack.kill_worker()
    job = await ended(stack, job["id"])
    assert job["status"] == "completed"
    assert sorted(await stored_paths(stack, big_site, job["id"])) == sorted(walk(folder_of_big_site))
    asked = Counter(r.path for r in big_site.requests[before:] if r.path != "/robots.txt")
    assert sum(asked.values()) <= PAGES + BATCH_PAGES
    assert stack.endpoints["pids"]["workers"][0] != killed
    await eventually(_none_alive(children), lambda gone: gone)


def _none_alive(processes: list[psutil.Process]):
    async def look() -> bool:
        return not any(p.is_running() and runs(p) for p in processes)

    return look


async def test_everything_killed_the_crawl_still_ends(
    own_stack: Stack, big_site: SiteServer, folder_of_big_site: Path
) -> None:
    """After kill -9 of all processes at once the next `ke up` goes on with the job, to the same set."""
    job = await midway(own_stack, big_site)
    own_stack.kill_everything()
    await asyncio.to_thread(own_stack.start)
    job = await ended(own_stack, job["id"])
    assert job["status"] == "completed"
    assert job["result"]["pages_fetched"] == PAGES
    assert sorted(await stored_paths(own_stack, big_site, job["id"])) == sorted(walk(folder_of_big_site))
