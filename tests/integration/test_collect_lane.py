"""The collect lane on a real Postgres and a real site, slice by slice, without Temporal."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from temporalio.testing import ActivityEnvironment

from activities import collect_slice
from activities.collect_slice import BATCH_PAGES, LEAST_BATCH
from ke.contracts.errors import WorkLost
from ke.contracts.jobs import CollectSpec, Counters, FetchRate, Reading
from ke.runtime.pool import CpuPool
from ke.storage.closing import LIMITS_REACHED
from ke.storage.collect_batches import write_batch
from ke.storage.collect_shards import Held
from ke.storage.database import Database
from ke.storage.frontier import FrontierEntry
from ke.storage.jobs import get_job
from tests.integration.lanes import Lanes, running_site

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def lanes(database: Database, pool: CpuPool) -> AsyncIterator[Lanes]:
    async with running_site() as site:
        yield Lanes(database, pool, site)


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"\udce9"'},
        {"Last-Modified": "caf\udce9"},
        {"ETag": '"' + "x" * 5_000 + '"'},
        {"Retry-After": "Mon, 01 Jan 99999 00:00:00 GMT"},
    ],
    ids=["latin-etag", "latin-date", "long-etag", "far-retry"],
)
async def test_odd_headers_are_no_reason_to_stop(lanes: Lanes, headers: dict[str, str]) -> None:
    """A header that cannot be stored or read costs neither the page nor the job."""
    lanes.html("/", "/next")
    lanes.answers["/next"] = lambda _: web.Response(text="<p>Hello</p>", content_type="text/html", headers=headers)
    report = await lanes.run(await lanes.job(lanes.crawl()))
    assert report.done
    assert report.counters.pages_fetched == 2


async def test_host_name_that_cannot_be_dialled_is_a_failed_page(lanes: Lanes) -> None:
    """A link or redirect to a name that no resolver takes is a dead letter, and the crawl goes on."""
    lanes.html("/", "/moved", "/fine")
    lanes.html("/fine")
    lanes.answers["/moved"] = lambda _: web.Response(status=302, headers={"Location": f"http://{'x' * 70}.example/"})
    spec = lanes.crawl()
    piece = await lanes.job(replace(spec, scope=replace(spec.scope, same_host=False)))
    report = await lanes.run(piece)
    assert report.done
    assert (report.counters.pages_fetched, report.counters.pages_failed) == (2, 1)


async def test_late_worker_cannot_end_its_successors_lane(lanes: Lanes) -> None:
    """A slice that was cut off while another took over is refused, and the other one ends with every page."""
    gate = asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response(text="<a href='/a'>a</a> <a href='/b'>b</a>", content_type="text/html")

    lanes.answers["/"] = held
    lanes.html("/a")
    lanes.html("/b")
    piece = await lanes.job(lanes.crawl())
    late = asyncio.create_task(lanes.run(piece))
    await lanes.until(lambda asked: asked.count("/") == 1)
    successor = asyncio.create_task(lanes.run(piece))
    await lanes.until(lambda asked: asked.count("/") == 2)
    gate.set()
    with pytest.raises(WorkLost):
        await late
    report = await successor
    assert report.done
    assert {state for state, _ in (await lanes.pages(piece)).values()} == {"fetched"}
    assert report.counters.pages_fetched == 3


async def test_robots_outage_of_a_moment_buries_nothing(lanes: Lanes) -> None:
    """A robots.txt that answers 503 once is asked again, and the page is fetched then."""
    times = iter(range(100))
    lanes.answers["/robots.txt"] = lambda _: web.Response(status=503 if next(times) == 0 else 404)
    lanes.html("/")
    report = await lanes.run(await lanes.job(lanes.crawl()))
    assert report.done
    assert report.counters.pages_fetched == 1


async def test_pages_that_ask_not_to_be_kept_count_against_the_limit(lanes: Lanes) -> None:
    """An endless site of `noindex` pages ends at `max_pages`, with no source."""
    lanes.html("/", "/page-1", head='<meta name="robots" content="noindex">')
    for number in range(1, 40):
        lanes.html(f"/page-{number}", f"/page-{number + 1}", head='<meta name="robots" content="noindex">')
    report = await lanes.run(await lanes.job(lanes.crawl(max_pages=5, max_depth=50)))
    assert report.done
    assert (report.counters.pages_fetched, report.counters.sources) == (5, 0)
    assert sum(path != "/robots.txt" for path in lanes.asked) == 5


async def test_no_more_than_a_batch_is_fetched_and_not_kept(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is under way while a batch is written counts as well: all of it is fetched again after a kill.

    The pages of a host that is alone are claimed with a batch, in its transaction, but for the first. No batch is cut
    short by its time, which would make more of them on a slow machine.
    """
    monkeypatch.setattr(collect_slice, "BATCH_SECONDS", 60.0)
    at_stake: list[int] = []
    claims: list[int] = []
    claim_pages = collect_slice.frontier.claim_pages

    async def claimed(*args: Any, **named: Any) -> list[FrontierEntry]:
        entries = await claim_pages(*args, **named)
        claims.append(len(entries))
        return entries

    async def counted(*args: Any, held: Held, **named: Any) -> Counters:
        at_stake.append(len(args[4]) + held.pages)
        return await write_batch(*args, held=held, **named)

    monkeypatch.setattr(collect_slice, "write_batch", counted)
    monkeypatch.setattr(collect_slice.frontier, "claim_pages", claimed)
    names = [f"/page-{number}" for number in range(300)]
    lanes.html("/", *names)
    for name in names:
        lanes.html(name)
    report = await lanes.run(await lanes.job(lanes.crawl(max_pages=301)))
    assert report.counters.pages_fetched == 301
    assert len(at_stake) < 301 / LEAST_BATCH + 2
    assert max(at_stake) <= BATCH_PAGES
    assert sum(claims) == 301
    assert len(claims) <= len(at_stake) + 1


async def test_byte_limit_ends_the_crawl_at_the_first_page_that_does_not_fit(lanes: Lanes) -> None:
    """No page is tried after one was too long for what was left."""
    lanes.html("/", *(f"/big-{n}" for n in range(30)))
    for number in range(30):
        lanes.answers[f"/big-{number}"] = lambda _: web.Response(body=b"<p>" + b"x" * 60_000, content_type="text/html")
    piece = await lanes.job(replace(lanes.crawl(max_bytes=50_000), rate=FetchRate(concurrency=1)))
    report = await lanes.run(piece)
    assert (report.done, report.note) == (True, "max_bytes")
    assert report.counters.bytes <= 50_000 + 65_536
    assert len(lanes.asked) < 10


async def test_cancel_gives_back_what_was_under_way(lanes: Lanes) -> None:
    """A slice that is cancelled commits what it has, gives the rest back, and the next one fetches only that."""
    gate = asyncio.Event()

    async def held(_: web.Request) -> web.StreamResponse:
        await gate.wait()
        return web.Response(text="<p>late</p>", content_type="text/html")

    lanes.html("/", "/quick", "/held")
    lanes.html("/quick")
    lanes.answers["/held"] = held
    piece = await lanes.job(lanes.crawl())
    environment = ActivityEnvironment()
    running = asyncio.create_task(lanes.run(piece, environment))
    await lanes.until(lambda asked: {"/held", "/quick"} <= set(asked))
    async with asyncio.timeout(60):
        while (await lanes.pages(piece))["/quick"][0] != "fetched":  # noqa: ASYNC110  rows can only be asked for
            await asyncio.sleep(0.02)
    environment.cancel()
    first = await running
    assert (first.done, first.interrupted) == (False, True)
    states = await lanes.pages(piece)
    assert states["/held"][0] == "pending"
    assert states["/quick"][0] == "fetched"
    gate.set()
    lanes.asked.clear()
    report = await lanes.run(piece)
    assert report.done
    assert [path for path in lanes.asked if path != "/robots.txt"] == ["/held"]


async def test_each_type_is_read_skipped_or_buried(lanes: Lanes) -> None:
    """A PDF is read by pages; a locked or broken one is a failed page; other types are skipped, all with the reason."""
    paths = ("/good.pdf", "/locked.pdf", "/broken.pdf", "/picture.png", "/notes.md", "/notes.txt")
    lanes.html("/", *paths)
    kinds = {"pdf": "application/pdf", "png": "image/png", "md": "text/markdown", "txt": "text/plain"}
    bodies = {
        "/good.pdf": (ROOT / "examples" / "site" / "keepers-handbook.pdf").read_bytes(),
        "/locked.pdf": (ROOT / "tests" / "data" / "pdf" / "locked.pdf").read_bytes(),
        "/broken.pdf": b"%PDF-1.7\nnothing",
        "/picture.png": b"\x89PNG",
        "/notes.md": b"# Notes",
        "/notes.txt": b"Notes",
    }
    for path, body in bodies.items():
        kind = kinds[path.rpartition(".")[2]]
        lanes.answers[path] = lambda _, body=body, kind=kind: web.Response(body=body, content_type=kind)
    piece = await lanes.job(lanes.crawl())
    report = await lanes.run(piece)
    counters = report.counters
    assert (counters.pages_fetched, counters.pages_failed, counters.pages_skipped, counters.dead_letters) == (
        4,
        2,
        1,
        2,
    )
    pages = await lanes.pages(piece)
    assert pages["/locked.pdf"] == ("failed", "The document is encrypted, and opens with a password only.")
    assert pages["/broken.pdf"][0] == "failed"
    assert pages["/picture.png"] == ("skipped", "documents of type image/png cannot be read")
    assert pages["/notes.md"][0] == pages["/notes.txt"][0] == pages["/good.pdf"][0] == "fetched"
    async with lanes.database.transaction() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT metadata->>'reader', metadata->>'pages' FROM sources WHERE job_id = $1 AND url LIKE '%.pdf'",
            (uuid.UUID(piece.job_id),),
        )
        assert [tuple(row) for row in rows] == [("pages", "3")]


@pytest.mark.parametrize(("reading", "reader"), [(Reading.THOROUGH, "main"), (Reading.FAST, "density")])
async def test_a_job_chooses_how_its_pages_are_read(lanes: Lanes, reading: Reading, reader: str) -> None:
    """What the job asks for reaches the reader, which notes in the source how it read."""
    text = "".join(f"<p>This is sentence number {n} of an article about the weather.</p>" for n in range(20))
    page = f"<div>{text}</div><ul>{'<li><a href=/x>Another story</a></li>' * 20}</ul>"
    lanes.answers["/"] = lambda _: web.Response(text=page, content_type="text/html")
    piece = await lanes.job(replace(lanes.crawl(), reading=reading))
    await lanes.run(piece)
    async with lanes.database.transaction() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT metadata->>'reader' FROM sources WHERE job_id = $1", (uuid.UUID(piece.job_id),)
        )
        assert [row[0] for row in rows] == [reader]


async def _reached(lanes: Lanes, spec: CollectSpec) -> list[str] | None:
    job_id, _ = await lanes.whole(spec)
    async with lanes.database.transaction() as connection:
        row = await get_job(connection, uuid.UUID(job_id))
    assert row.result is not None
    found: list[str] | None = row.result.get(LIMITS_REACHED)
    return found


async def test_result_names_the_limits_that_left_something(lanes: Lanes) -> None:
    """Only where pages were left, and only the limits that are reached: one that fits exactly has cut nothing short."""
    lanes.html("/", "/1", "/2", "/3")
    for number in (1, 2, 3):
        lanes.html(f"/{number}", head=f"<meta name='description' content='{'x' * 20_000}{number}'>")
    assert await _reached(lanes, lanes.crawl(max_pages=2)) == ["max_pages"]
    assert await _reached(lanes, lanes.crawl(max_pages=4)) is None
    one_by_one = replace(lanes.crawl(max_bytes=30_000), rate=FetchRate(concurrency=1))
    assert await _reached(lanes, one_by_one) == ["max_bytes"]
    assert await _reached(lanes, replace(lanes.crawl(), urls=(f"{lanes.url}/", f"{lanes.url}/1"), follow=False)) is None
