"""A collect lane in shards, on a real Postgres and real sites: side by side, they do what one slice would do."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import sqlalchemy as sa
from aiohttp import web
from sqlalchemy.dialects.postgresql import ARRAY
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from activities import collect_slice, splitting
from activities.lane_hold import LaneHold
from ke.contracts.activities import CollectSlice, SliceReport
from ke.contracts.errors import WorkLost
from ke.contracts.jobs import CollectSpec, Counters, CrawlLimits, CrawlScope, FetchRate, Lane
from ke.runtime.pool import CpuPool
from ke.storage.collect_shards import Held, Shard, held_by_others, hold_pages, hold_shard, take_shard, write_note
from ke.storage.database import Database
from ke.storage.frontier import add_pages, claim_pages, frontier_state, release_pages
from ke.storage.jobs import hold_fence, lane_progress, request_cancel
from ke.storage.tables import pages
from tests.integration.lanes import Lanes, LaneSite, running_site
from tests.seeding import seed_job

SHARDS = 4
HOSTS = 8
PAGES = 30
"""Pages of each host, its start aside."""


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    """Eight hosts."""
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(running_site()) for _ in range(HOSTS)]
        yield Lanes(database, pool, sites[0], sites[1:])


def sites_of(lanes: Lanes) -> list[LaneSite]:
    return [lanes.site, *lanes.others]


def a_crawl(lanes: Lanes, *, concurrency: int = 2, **limits: int) -> CollectSpec:
    """All pages of all hosts; each start page links to those of the next host as well."""
    sites = sites_of(lanes)
    for site, following in zip(sites, sites[1:] + sites[:1], strict=True):
        near = (f"/{number}" for number in range(PAGES))
        far = (f"{following.url}/{number}" for number in range(PAGES))
        site.html("/", *near, *far, text=site.url)
        for number in range(PAGES):
            site.html(f"/{number}", text=f"{site.url} {number}")
    seeds = tuple(f"{site.url}/" for site in sites)
    rate = FetchRate(concurrency=concurrency)
    scope = CrawlScope(sitemaps=False, robots=False)
    return CollectSpec(seeds, follow=True, limits=CrawlLimits(**limits), scope=scope, rate=rate)


async def run_shards(lanes: Lanes, piece: CollectSlice) -> list[SliceReport]:
    """Slice after slice of each shard, all shards side by side, each on a worker of its own, until all see the end."""

    async def shard(number: int) -> SliceReport:
        while True:
            report = await lanes.run(replace(piece, shard=number, shards=SHARDS))
            if report.done:
                return report

    async with asyncio.timeout(60):
        return await asyncio.gather(*(shard(number) for number in range(SHARDS)))


async def counted(lanes: Lanes, piece: CollectSlice) -> Counters:
    async with lanes.database.transaction() as connection:
        progress = await lane_progress(connection, uuid.UUID(piece.job_id), Lane.COLLECT)
    assert progress.done
    return progress.counters


async def states(lanes: Lanes, piece: CollectSlice) -> Counter[str]:
    async with lanes.database.transaction() as connection:
        statement = sa.select(pages.c.state, sa.func.count().label("number")).where(
            pages.c.job_id == uuid.UUID(piece.job_id)
        )
        found = await connection.execute(statement.group_by(pages.c.state))
        return Counter({row.state: row.number for row in found})


async def shards_of_hosts(lanes: Lanes) -> dict[int, list[str]]:
    """The addresses of the hosts of each shard."""
    found: dict[int, list[str]] = {}
    async with lanes.database.transaction() as connection:
        for site in sites_of(lanes):
            host = sa.literal(site.url.removeprefix("http://"))
            for number in range(SHARDS):
                if (await connection.execute(sa.select(Shard(number, SHARDS).has(host)))).scalar_one():
                    found.setdefault(number, []).append(site.url)
    return found


async def test_shards_fetch_each_page_once_and_press_no_host(lanes: Lanes) -> None:
    """Each page is fetched exactly once, by whichever shard has its host, within the host's own limit."""
    spec = a_crawl(lanes, max_pages=1000)
    now, most = Counter[str](), Counter[str]()

    def held(site: LaneSite, path: str) -> None:
        whole = site.answers[path]

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            now[site.url] += 1
            most[site.url] = max(most[site.url], now[site.url])
            most["all"] = max(most["all"], now.total())
            await asyncio.sleep(0.02)
            now[site.url] -= 1
            return whole(request)  # type: ignore[return-value]

        site.answers[path] = answer

    for site in sites_of(lanes):
        for path in list(site.answers):
            held(site, path)
    piece = await lanes.job(spec)
    reports = await run_shards(lanes, piece)
    for site in sites_of(lanes):
        assert Counter(site.asked) == Counter(["/", *(f"/{number}" for number in range(PAGES))])
        assert most[site.url] <= 2
    assert most["all"] > 2
    total = HOSTS * (PAGES + 1)
    assert (await counted(lanes, piece)).pages_fetched == total
    assert await states(lanes, piece) == {"fetched": total}
    assert {report.note for report in reports} == {"all pages fetched"}


@pytest.mark.parametrize("most", [1, 7, 50])
async def test_page_limit_holds_for_all_shards_together(lanes: Lanes, most: int) -> None:
    """Not one page more is asked for, and none less is fetched."""
    piece = await lanes.job(a_crawl(lanes, max_pages=most))
    reports = await run_shards(lanes, piece)
    assert sum(len(site.asked) for site in sites_of(lanes)) == most
    counters = await counted(lanes, piece)
    assert counters.pages_fetched == most
    assert await states(lanes, piece) == {"fetched": most, "skipped": counters.pages_skipped}
    # Whoever finds out later says what the first one has.
    assert len({report.note for report in reports}) == 1


async def test_byte_limit_holds_for_all_shards_together(lanes: Lanes) -> None:
    """What is under way in any of them is reserved for all."""
    piece = await lanes.job(a_crawl(lanes, max_pages=1000, max_bytes=12_000))
    await run_shards(lanes, piece)
    counters = await counted(lanes, piece)
    assert 6_000 < counters.bytes <= 12_000
    assert set(await states(lanes, piece)) == {"fetched", "skipped"}


async def test_page_of_many_hosts_is_stored_once(lanes: Lanes) -> None:
    """Shards that meet the same content at the same moment find out."""
    spec = a_crawl(lanes)
    for site in sites_of(lanes):
        for number in range(PAGES):
            site.html(f"/{number}", text=f"the same {number}")
    piece = await lanes.job(spec)
    await run_shards(lanes, piece)
    counters = await counted(lanes, piece)
    assert (counters.sources, counters.pages_duplicate) == (PAGES + HOSTS, (HOSTS - 1) * PAGES)


async def test_each_host_is_in_one_shard(lanes: Lanes) -> None:
    """Whatever it is called."""
    names = sa.literal([f"{n}.example:443" for n in range(400)] + [""], ARRAY(sa.Text))
    hosts = sa.func.unnest(names, type_=sa.Text)
    table = sa.select(hosts.label("host")).subquery()
    async with lanes.database.transaction() as connection:
        parts = [
            set((await connection.execute(sa.select(table.c.host).where(Shard(n, 3).has(table.c.host)))).scalars())
            for n in range(3)
        ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 401
    assert min(map(len, parts)) > 60


async def test_broken_links_of_unchanged_pages_are_asked_for_once_by_the_shards_of_a_recrawl(lanes: Lanes) -> None:
    """Whichever shard comes to the end first adds them; those of a page that has changed are not among them."""
    spec = a_crawl(lanes, max_pages=1000)
    for site in sites_of(lanes):
        site.html("/0", "/missing", text=f"{site.url} 0")
    first, outcome = await lanes.whole(spec)
    assert outcome.counters.pages_failed == HOSTS
    lanes.site.html("/0", text="The link is mended.")
    for site in sites_of(lanes):
        site.asked.clear()
    piece = await lanes.job(replace(spec, recrawl_of=first))
    await run_shards(lanes, piece)
    done = await counted(lanes, piece)
    unchanged = HOSTS * (PAGES + 1) - 1
    assert (done.pages_unchanged, done.pages_fetched, done.pages_failed) == (unchanged, 1, HOSTS - 1)
    assert [site.asked.count("/missing") for site in sites_of(lanes)] == [0, *[1] * (HOSTS - 1)]
    assert await states(lanes, piece) == Counter(unchanged=unchanged, fetched=1, failed=HOSTS - 1)


async def test_dead_shard_is_taken_up_alone(lanes: Lanes) -> None:
    """Its claims are taken back by its own next slice only; until then no other one takes the lane to be at its end."""
    piece = await lanes.job(a_crawl(lanes))
    job, dead = uuid.UUID(piece.job_id), uuid.uuid4()
    hosts = await shards_of_hosts(lanes)
    number = next(iter(hosts))
    shard = Shard(number, SHARDS)
    async with lanes.database.transaction() as connection:
        await hold_fence(connection, job, piece.epoch)
        await take_shard(connection, job, shard, dead)
        await add_pages(connection, job, ((url, 0) for url in piece.spec.urls))
        claimed = await claim_pages(connection, job, dead, limit=100, shard=shard)
        await hold_pages(connection, job, shard, Held(pages=len(claimed)))
    assert sorted(entry.url for entry in claimed) == sorted(f"{url}/" for url in hosts[number])
    others = [n for n in range(SHARDS) if n != number]
    reports = await asyncio.gather(*(lanes.run(replace(piece, shard=n, shards=SHARDS)) for n in others))
    assert not any(report.done for report in reports)
    assert (await states(lanes, piece))["fetching"] == len(claimed)
    assert not any(site.asked for site in sites_of(lanes) if site.url in hosts[number])
    await run_shards(lanes, piece)
    assert await states(lanes, piece) == {"fetched": HOSTS * (PAGES + 1)}
    for site in sites_of(lanes):
        assert max(Counter(site.asked).values()) == 1


async def test_slice_that_lost_its_shard_is_refused(lanes: Lanes) -> None:
    """By the next one of its shard, by the lane when it is whole again, and by another split; not by other shards."""
    job = (await seed_job(lanes.database)).id
    mine, other = uuid.uuid4(), uuid.uuid4()

    async def take(shard: Shard, lease: uuid.UUID) -> None:
        async with lanes.database.transaction() as connection:
            await take_shard(connection, job, shard, lease)

    async def is_held() -> bool:
        try:
            async with lanes.database.transaction() as connection:
                await hold_shard(connection, job, Shard(1, 4), mine)
        except WorkLost:
            return False
        return True

    await take(Shard(1, 4), mine)
    await take(Shard(0, 4), other)
    assert await is_held()
    for taken in (Shard(1, 4), Shard(), Shard(0, 2)):
        await take(Shard(1, 4), mine)
        assert await is_held()
        await take(taken, other)
        assert not await is_held()
    await take(Shard(), mine)
    await take(Shard(1, 4), other)
    with pytest.raises(WorkLost):
        async with lanes.database.transaction() as connection:
            await hold_shard(connection, job, Shard(), mine)


async def test_shards_release_their_own_pages_only(lanes: Lanes) -> None:
    """And see of the others only how much is left."""
    piece = await lanes.job(a_crawl(lanes))
    job, hosts = uuid.UUID(piece.job_id), await shards_of_hosts(lanes)
    shard = Shard(next(iter(hosts)), SHARDS)
    async with lanes.database.transaction() as connection:
        await add_pages(connection, job, ((url, 0) for url in piece.spec.urls))
        await claim_pages(connection, job, uuid.uuid4(), limit=100)
        await release_pages(connection, job, shard=shard)
        state = await frontier_state(connection, job, shard)
        mine = len(hosts[shard.number])
        assert (state.due, state.waiting, state.elsewhere) == (mine, 0, HOSTS - mine)


async def test_limit_ends_the_lane_only_when_no_shard_is_at_work(lanes: Lanes) -> None:
    """What another one has under way may fail, and leave its place to a page that would be skipped."""
    piece = await lanes.job(a_crawl(lanes, max_pages=5, max_seconds=1))
    job, other = uuid.UUID(piece.job_id), Shard(1, SHARDS)
    async with lanes.database.transaction() as connection:
        await hold_fence(connection, job, piece.epoch)
        await take_shard(connection, job, other, uuid.uuid4())
        await hold_pages(connection, job, other, Held(pages=5))
    report = await lanes.run(replace(piece, shard=0, shards=SHARDS, max_seconds=2))
    assert (report.done, report.counters.pages_fetched) == (False, 0)
    assert not any(site.asked for site in sites_of(lanes))
    async with lanes.database.transaction() as connection:
        assert await held_by_others(connection, job, Shard(0, SHARDS)) == Held(pages=5)
        await hold_pages(connection, job, other, Held())
    report = await lanes.run(replace(piece, shard=0, shards=SHARDS))
    assert (report.done, report.note) == (True, "max_seconds")


async def test_notes_of_all_shards_are_the_lanes(lanes: Lanes) -> None:
    """One that has nothing to tell does not wipe out what another one waits for."""
    job = (await seed_job(lanes.database)).id

    async def note() -> str:
        async with lanes.database.transaction() as connection:
            return (await lane_progress(connection, job, Lane.COLLECT)).note

    async with lanes.database.transaction() as connection:
        for number in (0, 1):
            await take_shard(connection, job, Shard(number, 2), uuid.uuid4())
            await write_note(connection, job, Shard(number, 2), f"host {number}")
    assert await note() == "host 0; host 1"
    async with lanes.database.transaction() as connection:
        await write_note(connection, job, Shard(0, 2), "")
    assert await note() == "host 1"


@pytest.mark.parametrize(("n_hosts", "shards"), [(HOSTS, SHARDS), (1, SHARDS), (2, 1)])
async def test_whole_lane_asks_to_be_split_where_there_are_several_hosts(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, n_hosts: int, shards: int
) -> None:
    """And hands back what it has; one of a single host, or where the setting forbids it, goes on to its end."""
    monkeypatch.setattr(splitting, "SPLIT_AFTER_S", 0.0)
    monkeypatch.setattr(splitting, "LOOK_EVERY_S", 0.0)
    spec = a_crawl(lanes, concurrency=1)
    spec = replace(spec, urls=spec.urls[:n_hosts])
    splits = n_hosts > 1 and shards > 1
    piece = replace(await lanes.job(spec), may_split=True)
    report = await lanes.run(piece, shards=shards)
    assert (report.shards, report.done) == ((SHARDS, False) if splits else (1, True))
    assert (await states(lanes, piece))["fetching"] == 0
    if splits:
        # All shards know where the seeds have led.
        assert all("/" in site.asked for site in sites_of(lanes))
        await run_shards(lanes, piece)
        for site in sites_of(lanes):
            assert max(Counter(site.asked).values()) == 1
    assert await states(lanes, piece) == {"fetched": n_hosts * (PAGES + 1)}


async def test_cancel_stops_a_shard_that_waits_for_others(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As promptly as one that has pages; and one without pages ends by itself."""
    piece = await lanes.job(a_crawl(lanes))
    hosts = await shards_of_hosts(lanes)
    empty = Shard(next(iter(hosts)), SHARDS)
    job = uuid.UUID(piece.job_id)
    spec = replace(piece.spec, urls=tuple(url for url in piece.spec.urls if url[:-1] not in hosts[empty.number]))
    async with lanes.database.transaction() as connection:
        await add_pages(connection, job, ((url, 0) for url in spec.urls))
    idle = replace(piece, spec=spec, shard=empty.number, shards=SHARDS)
    report = await lanes.run(idle)
    assert (report.done, report.idle) == (False, True)
    monkeypatch.setattr(collect_slice, "IDLE_S", 600.0)
    environment = ActivityEnvironment()
    task = asyncio.create_task(lanes.run(idle, environment))
    await asyncio.sleep(0.5)
    environment.worker_shutdown()
    with pytest.raises(ApplicationError, match="Handed back"):
        await task


async def test_slice_on_another_worker_keeps_to_the_pauses_of_the_one_before(lanes: Lanes) -> None:
    """A host's own pause, asked for by Retry-After, and the regular one between two requests to another host."""
    spec = a_crawl(lanes)
    lanes.answers["/"] = lambda _: web.Response(status=429, headers={"Retry-After": "60"})
    asking = await lanes.job(replace(spec, urls=tuple(f"{lanes.url}/{path}" for path in ("", "0", "1"))))
    lanes.answers["/0"] = lanes.answers["/1"] = lanes.answers["/"]
    regular = replace(spec, urls=(f"{lanes.others[0].url}/",), rate=FetchRate(concurrency=2, delay_s=60))
    for piece, site in ((asking, lanes.site), (await lanes.job(regular), lanes.others[0])):
        assert not (await lanes.run(replace(piece, max_pages=2))).done
        asked = len(site.asked)
        assert asked > 0
        for shard in range(SHARDS):
            await lanes.run(replace(piece, max_seconds=1.0, shard=shard, shards=SHARDS))
        assert len(site.asked) == asked


async def test_busy_shards_leave_room_for_a_cancel(lanes: Lanes) -> None:
    """Each transaction shares the job's row; the next one waits for its turn without it, else nobody could write."""
    piece = await lanes.job(a_crawl(lanes))
    job, at_it = uuid.UUID(piece.job_id), Counter[int]()

    async def busy(number: int) -> None:
        hold = LaneHold(lanes.database, replace(piece, shard=number, shards=SHARDS))
        async with lanes.database.transaction() as connection:
            await hold.take(connection)
        while True:
            async with hold.writing():
                at_it[number] += 1
                await asyncio.sleep(0.02)

    shards = [asyncio.create_task(busy(number)) for number in range(SHARDS)]
    try:
        async with asyncio.timeout(20):
            while len(at_it) < SHARDS:  # noqa: ASYNC110  a counter
                await asyncio.sleep(0.01)
        async with lanes.database.transaction(lock_timeout_s=20.0) as connection:
            assert await request_cancel(connection, job, "") is not None
    finally:
        for task in shards:
            task.cancel()
        await asyncio.gather(*shards, return_exceptions=True)
