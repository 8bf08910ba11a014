"""One crawl of several hosts on two workers: in shards, and still one job."""

import os
import signal
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from activities.collect_slice import BATCH_PAGES
from examples.serve import SiteServer
from ke.client import Job
from tests.e2e.sites import requests_within, slowly, write_tree
from tests.e2e.stack import Stack, eventually
from tests.e2e.test_stopping import ended

HOSTS = 6
PAGES = 80
"""Pages of each host."""
SHARDS = 4
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED


@pytest.fixture(scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[SiteServer]]:
    """Several hosts with pages of their own, which answer after a short pause."""
    async with AsyncExitStack() as stack:
        servers = []
        for number in range(HOSTS):
            folder = tmp_path_factory.mktemp(f"host-{number}")
            write_tree(folder, pages=PAGES)
            for page in folder.iterdir():
                page.write_text(page.read_text().replace("a tree.", f"tree {number}."))
            servers.append(await stack.enter_async_context(SiteServer(folder, delay_s=0.15)))
        yield servers


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, hosts: list[SiteServer]) -> Iterator[Stack]:
    """A stack with two workers."""
    allow = ",".join(host.host_port for host in hosts)
    running = Stack(tmp_path_factory.mktemp("pair") / "data", fetch_allow=allow, workers=2)
    try:
        running.start()
        yield running
    finally:
        running.stop()


async def workers_of(temporal: Client, job: Job) -> list[int]:
    """The process of the worker of each shard's slice that runs now."""
    seen = await temporal.get_workflow_handle(job["workflow_id"]).describe()
    return [
        int(activity.last_worker_identity.partition("@")[0])
        for activity in seen.raw_description.pending_activities
        if activity.activity_type.name == "collect_shard" and activity.state == STARTED
    ]


async def in_shards(stack: Stack, hosts: list[SiteServer], **limits: int) -> tuple[Job, list[int]]:
    """A crawl that was split and is at work on both workers, and who is at work; many pages are to go of slow hosts."""
    async with stack.client() as client:
        job = await client.submit_crawl(
            [f"{host.url}/index.html" for host in hosts],
            limits={"max_pages": HOSTS * PAGES, **limits},
            rate={"concurrency": 1},
        )
    temporal = await Client.connect(stack.endpoints["temporal"])
    at_work = await eventually(lambda: workers_of(temporal, job), lambda pids: len(set(pids)) == 2)
    return job, at_work


async def stored(stack: Stack, job: Job) -> list[str]:
    """The addresses of the job's sources."""
    rows = await stack.sql("SELECT url FROM sources WHERE job_id = $1", uuid.UUID(job["id"]))
    return [row["url"] for row in rows]


async def test_cancel_stops_all_shards(pair: Stack, hosts: list[SiteServer]) -> None:
    """Each slice acknowledges it, the receipt counts them, and from then on no host sees a request."""
    with slowly(*hosts):
        job, at_work = await in_shards(pair, hosts)
        async with pair.client() as client:
            await client.cancel_job(job["id"])
        job = await ended(pair, job["id"])
    assert job["status"] == "cancelled"
    receipt = job["result"]["cancellation"]
    assert 2 <= receipt["activities_drained"] <= SHARDS
    assert receipt["activities_drained"] >= len(set(at_work))
    assert (receipt["activities_timed_out"], receipt["latency_s"] < 5) == (0, True)
    assert job["result"]["pages_fetched"] + job["result"]["pages_skipped"] <= HOSTS * PAGES
    assert await requests_within(3, *hosts) == 0


async def test_pause_stops_all_shards_and_resume_goes_on(pair: Stack, hosts: list[SiteServer]) -> None:
    """Nothing is fetched meanwhile, and all is fetched in the end, each page once."""
    before = [len(host.requests) for host in hosts]
    async with pair.client() as client:
        with slowly(*hosts):
            job, _ = await in_shards(pair, hosts)
            await client.pause_job(job["id"])
            await eventually(lambda: client.get_job(job["id"]), lambda j: j["status"] == "paused")
        assert await requests_within(1, *hosts) == 0
        await client.resume_job(job["id"])
        job = await ended(pair, job["id"])
    assert (job["status"], job["result"]["pages_fetched"]) == ("completed", HOSTS * PAGES)
    assert len(set(await stored(pair, job))) == HOSTS * PAGES
    for host, number in zip(hosts, before, strict=True):
        asked = Counter(r.path for r in host.requests[number:] if r.path not in {"/robots.txt", "/sitemap.xml"})
        # What the pause broke off is asked for again.
        assert len(asked) == PAGES
        assert asked.total() <= PAGES + BATCH_PAGES


async def test_page_limit_holds_on_both_workers_together(pair: Stack, hosts: list[SiteServer]) -> None:
    """It is reached, and never passed."""
    most = HOSTS * PAGES // 2
    with slowly(*hosts):
        job, _ = await in_shards(pair, hosts, max_pages=most)
    job = await ended(pair, job["id"])
    assert (job["status"], job["result"]["pages_fetched"]) == ("completed", most)
    assert len(await stored(pair, job)) == most


async def test_killed_worker_costs_a_batch_of_each_of_its_shards(pair: Stack, hosts: list[SiteServer]) -> None:
    """After kill -9 of one of the two the other one goes on at once, and nothing is lost."""
    before = [len(host.requests) for host in hosts]
    with slowly(*hosts):
        job, at_work = await in_shards(pair, hosts)
        killed = at_work[0]
        os.kill(killed, signal.SIGKILL)
    job = await ended(pair, job["id"])
    assert (job["status"], job["result"]["pages_fetched"]) == ("completed", HOSTS * PAGES)
    assert len(set(await stored(pair, job))) == HOSTS * PAGES
    asked = [
        (number, r.path)
        for number, (host, first) in enumerate(zip(hosts, before, strict=True))
        for r in host.requests[first:]
        if r.path not in {"/robots.txt", "/sitemap.xml"}
    ]
    assert len(set(asked)) == HOSTS * PAGES
    assert len(asked) <= HOSTS * PAGES + BATCH_PAGES * at_work.count(killed)
