"""Cancel, pause, terminate, from wherever people do it."""

import time
import uuid
from statistics import median

import pytest

from examples.serve import SiteServer
from ke.client import ApiError, Job
from tests.e2e.sites import PAGES, requests_within, slowly
from tests.e2e.stack import Stack, eventually


async def midway(stack: Stack, site: SiteServer, *, extract: bool = False) -> Job:
    """A crawl that has fetched some pages and has many to go."""
    async with stack.client() as client:
        job = await client.submit_crawl(
            [f"{site.url}/index.html"],
            limits={"max_pages": PAGES},
            rate={"concurrency": 4},
            extract={} if extract else None,
        )
        return await eventually(lambda: client.get_job(job["id"]), lambda j: j["progress"]["pages_fetched"] > 10)


async def ended(stack: Stack, job_id: str) -> Job:
    """The job when it has ended."""
    async with stack.client() as client:
        return await eventually(lambda: client.get_job(job_id, wait_s=10), lambda j: j["completed_at"] is not None)


@pytest.mark.parametrize("way", ["http", "cli", "temporal"])
async def test_cancel_stops_the_crawl_from_everywhere(stack: Stack, big_site: SiteServer, way: str) -> None:
    """The row ends cancelled, with a result and a receipt, and from then on the site sees no request."""
    job = await midway(stack, big_site)
    with slowly(big_site):
        if way == "http":
            async with stack.client() as client:
                await client.cancel_job(job["id"], reason="enough")
        elif way == "cli":
            assert (await stack.ke("jobs", "cancel", job["id"])).code == 0
        else:
            answer = await stack.ke("temporal", "workflow", "cancel", "--workflow-id", job["workflow_id"])
            assert answer.code == 0, answer.err
        job = await ended(stack, job["id"])
    assert job["status"] == "cancelled"
    receipt = job["result"]["cancellation"]
    assert receipt["activities_drained"] == 1
    assert receipt["activities_timed_out"] == 0
    assert 0 <= receipt["latency_s"] < 10
    assert receipt["reason"] == ("enough" if way == "http" else receipt["reason"])
    result = job["result"]
    assert 10 < result["pages_fetched"] < PAGES
    assert result["pages_skipped"] > 0
    assert await requests_within(3, big_site) == 0


async def test_cancel_stops_the_requests_within_two_seconds(stack: Stack, big_site: SiteServer) -> None:
    """That of the middle one of three: a machine that stands still may make one of them late."""
    late_s = []
    for _ in range(3):
        job = await midway(stack, big_site)
        with slowly(big_site):
            async with stack.client() as client:
                await client.cancel_job(job["id"])
            accepted = time.time()
            assert (await ended(stack, job["id"]))["status"] == "cancelled"
            await requests_within(0, big_site)
        late_s.append(big_site.requests[-1].unix_s - accepted)
    assert median(late_s) < 2, late_s


async def test_cancel_with_cleanup_leaves_nothing(stack: Stack, big_site: SiteServer) -> None:
    """A job cancelled with cleanup is cancelled, cleaned, and its receipt counts what was deleted."""
    job = await midway(stack, big_site, extract=True)
    async with stack.client() as client:
        with slowly(big_site):
            await client.cancel_job(job["id"], cleanup=True)
            job = await ended(stack, job["id"])
        assert job["status"] == "cancelled"
        job = await eventually(lambda: client.get_job(job["id"]), lambda j: j["artifacts"] == "cleaned")
        receipt = await client.get_cleanup(f"cleanup-{job['id']}")
    assert receipt["deleted"]["sources"] == job["result"]["sources"] > 0
    assert set(receipt["remaining"].values()) == {0}
    left = await stack.sql("SELECT count(*) n FROM pages WHERE job_id = $1", uuid.UUID(job["id"]))
    assert left[0]["n"] == 0


async def test_cancel_of_an_ended_job_says_why_not(stack: Stack, example_site: SiteServer) -> None:
    """A cancel that comes too late is a 409 that names the state, and changes nothing."""
    async with stack.client() as client:
        job = await client.submit_scrape([f"{example_site.url}/bell-rock.html"])
        job = await ended(stack, job["id"])
        with pytest.raises(ApiError) as refused:
            await client.cancel_job(job["id"])
        assert refused.value.status == 409
        assert "completed" in refused.value.detail
        assert (await client.get_job(job["id"]))["status"] == job["status"]


async def test_bare_signals_pause_and_resume(stack: Stack, big_site: SiteServer) -> None:
    """Temporal's own CLI pauses a crawl without an argument, nothing is fetched meanwhile, and resume ends it."""
    job = await midway(stack, big_site)
    signal = ("temporal", "workflow", "signal", "--workflow-id", job["workflow_id"], "--name")
    async with stack.client() as client:
        with slowly(big_site):
            assert (await stack.ke(*signal, "pause")).code == 0
            await eventually(lambda: client.get_job(job["id"]), lambda j: j["status"] == "paused")
        fetched = (await client.get_job(job["id"]))["progress"]["pages_fetched"]
        assert await requests_within(2, big_site) == 0
        assert (await stack.ke(*signal, "resume")).code == 0
        job = await ended(stack, job["id"])
    assert job["status"] == "completed"
    assert job["result"]["pages_fetched"] == PAGES > fetched


async def test_terminated_from_outside_reads_failed_when_it_is_read(stack: Stack, big_site: SiteServer) -> None:
    """A job terminated in Temporal is failed when it is read next, with a result, and soon fetches no more."""
    job = await midway(stack, big_site)
    with slowly(big_site):
        answer = await stack.ke("temporal", "workflow", "terminate", "--workflow-id", job["workflow_id"])
        assert answer.code == 0, answer.err
        async with stack.client() as client:
            # Again where Temporal did not tell within a second, which is all that a read waits.
            job = await eventually(lambda: client.get_job(job["id"]), lambda j: j["status"] == "failed", timeout_s=20)
        assert job["error"]["type"] == "terminated"
        assert job["result"]["pages_fetched"] > 0
        await eventually(lambda: requests_within(3, big_site), lambda number: number == 0, timeout_s=30)
