"""Crawls of several hosts, on a real Postgres and real sites: a slow one holds up no other."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import sqlalchemy as sa
from aiohttp import web
from temporalio.testing import ActivityEnvironment

from ke.contracts.jobs import CollectSpec, CrawlLimits, CrawlScope, FetchRate, JobStatus
from ke.runtime.pool import CpuPool
from ke.storage import host_turns
from ke.storage.database import Database
from ke.storage.frontier import add_pages, claim_pages, host_of
from ke.storage.host_turns import HostTurns
from ke.storage.tables import pages
from ke.web.urls import canonicalize, host_key
from tests.integration.lanes import Lanes, LaneSite, running_site
from tests.seeding import seed_job


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    """A slow site first, and two quick ones."""
    async with running_site() as slow, running_site() as one, running_site() as other:
        yield Lanes(database, pool, slow, [one, other])


def a_crawl(lanes: Lanes, rate: FetchRate) -> CollectSpec:
    """Forty pages of each site, those of the slow one first in the frontier."""
    for site in (lanes.site, *lanes.others):
        site.html("/", *(f"/{number}" for number in range(40)), text=site.url)
        for number in range(40):
            site.html(f"/{number}", text=f"{site.url} {number}")
    seeds = (*(f"{lanes.url}/{n}" for n in range(40)), *(f"{site.url}/" for site in lanes.others))
    return CollectSpec(seeds, follow=True, limits=CrawlLimits(), scope=CrawlScope(sitemaps=False), rate=rate)


def fetched(site: LaneSite) -> int:
    return sum(path != "/robots.txt" for path in site.asked)


async def run_until_the_others_are_done(lanes: Lanes, spec: CollectSpec) -> None:
    """Runs a slice until all pages of the quick sites have been asked for; then breaks it off."""
    environment = ActivityEnvironment()
    running = asyncio.create_task(lanes.run(await lanes.job(spec), environment))
    async with asyncio.timeout(60):
        while any(fetched(site) < 41 for site in lanes.others):  # noqa: ASYNC110  the sites append to lists
            await asyncio.sleep(0.05)
    environment.cancel()
    await running


async def test_host_with_a_long_crawl_delay_holds_up_no_other(lanes: Lanes) -> None:
    """Its robots.txt asks for a minute between two requests, and its forty pages come first in the frontier."""
    lanes.answers["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nCrawl-delay: 60\n")
    await run_until_the_others_are_done(lanes, a_crawl(lanes, FetchRate(concurrency=2)))
    assert fetched(lanes.site) <= 2


async def test_host_that_asks_for_a_pause_holds_up_no_other(lanes: Lanes) -> None:
    """It answers 429 with a pause of a minute; what was claimed of it waits, and the others go on."""
    spec = a_crawl(lanes, FetchRate(concurrency=2))
    for number in range(40):
        lanes.answers[f"/{number}"] = lambda _: web.Response(status=429, headers={"Retry-After": "60"})
    await run_until_the_others_are_done(lanes, spec)
    assert fetched(lanes.site) <= 2


async def test_host_that_never_answers_holds_up_no_other(lanes: Lanes) -> None:
    """Its robots.txt does not come, so nothing of it may be fetched, and the others go on."""

    async def never(_: web.BaseRequest) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    lanes.answers["/robots.txt"] = never
    await run_until_the_others_are_done(lanes, a_crawl(lanes, FetchRate(concurrency=2)))
    assert fetched(lanes.site) == 0


async def test_no_host_has_more_requests_at_once_than_the_job_allows(lanes: Lanes) -> None:
    """All hosts are fetched side by side, each within its own limit, and the page limit holds for all together."""
    spec = a_crawl(lanes, FetchRate(concurrency=3))
    now, most = dict.fromkeys((s.url for s in (lanes.site, *lanes.others)), 0), {}

    def held(site: LaneSite, path: str) -> None:
        whole = site.answers[path]

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            now[site.url] += 1
            most[site.url] = max(most.get(site.url, 0), now[site.url])
            most["all"] = max(most.get("all", 0), sum(now.values()))
            await asyncio.sleep(0.02)
            now[site.url] -= 1
            return whole(request)  # type: ignore[return-value]

        site.answers[path] = answer

    for site in (lanes.site, *lanes.others):
        for path in list(site.answers):
            held(site, path)
    report = await lanes.run(await lanes.job(replace(spec, limits=CrawlLimits(max_pages=100))))
    assert report.done
    assert report.counters.pages_fetched == 100
    assert sum(map(fetched, (lanes.site, *lanes.others))) == 100
    assert max(most[site.url] for site in (lanes.site, *lanes.others)) == 3
    assert most["all"] > 3


# The claim


@pytest.mark.parametrize(
    "url",
    ["http://a.example", "https://a.example/x:9", "http://a.example:81/?q=:1", "http://[::1]/", "https://[::1]:8443/a"],
)
def test_host_of_a_canonical_url_is_its_host_key(url: str) -> None:
    """What the frontier writes is what the parser says."""
    assert host_of(canonicalize(url)) == host_key(url)


async def a_frontier(database: Database, hosts: int, each: int) -> uuid.UUID:
    job = (await seed_job(database, status=JobStatus.RUNNING)).id
    urls = [(f"https://{host:03}.example/{number}", number) for host in range(hosts) for number in range(each)]
    async with database.transaction() as connection:
        await add_pages(connection, job, urls)
    return job


async def test_claim_takes_of_each_host_in_turn_and_breadth_first(database: Database) -> None:
    """First the shallowest page of each host, then the next of each."""
    job = await a_frontier(database, 3, 4)
    async with database.transaction() as connection:
        claimed = await claim_pages(connection, job, uuid.uuid4(), limit=6)
    assert sorted(entry.url for entry in claimed) == sorted(
        f"https://{host:03}.example/{number}" for host in range(3) for number in range(2)
    )


async def test_claim_takes_no_more_of_a_host_than_there_is_room_for(database: Database) -> None:
    """And nothing of one that has none."""
    job = await a_frontier(database, 3, 4)
    rooms = {"000.example:443": 0, "001.example:443": 1}
    async with database.transaction() as connection:
        claimed = await claim_pages(connection, job, uuid.uuid4(), limit=10, room=lambda host: rooms.get(host, 3))
    assert sorted(entry.host for entry in claimed) == ["001.example:443"] + 3 * ["002.example:443"]


async def test_every_host_has_its_turn_where_there_are_very_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims go round: no host waits until the first ones of the alphabet are done."""
    monkeypatch.setattr(host_turns, "HOSTS_AT_ONCE", 4)
    job, turns, seen = await a_frontier(database, 10, 5), HostTurns(), []
    for _ in range(3):
        async with database.transaction() as connection:
            claimed = await claim_pages(connection, job, uuid.uuid4(), limit=4, room=lambda _: 1, turns=turns)
        seen += [entry.host for entry in claimed]
    assert len(set(seen)) == 10


async def test_pages_of_before_there_were_hosts_are_claimed(database: Database) -> None:
    """A row without a host, as an old worker writes it, is no reason to wait for ever."""
    job = await a_frontier(database, 1, 2)
    async with database.transaction() as connection:
        await connection.execute(sa.update(pages).where(pages.c.job_id == job).values(host=""))
        assert len(await claim_pages(connection, job, uuid.uuid4(), limit=10)) == 2
