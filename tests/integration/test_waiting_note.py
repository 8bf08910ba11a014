"""What a crawl says of itself while a host makes it wait."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import web
from temporalio.testing import ActivityEnvironment

from ke.contracts.activities import CollectSlice
from ke.contracts.jobs import FetchRate, Lane
from ke.storage.jobs import lane_progress
from tests.integration.test_collect_lane import Lanes, lanes  # noqa: F401  (a fixture)


@asynccontextmanager
async def at_work(lanes: Lanes, piece: CollectSlice) -> AsyncIterator[None]:  # noqa: F811
    """A slice that runs for as long as the block lasts."""
    environment = ActivityEnvironment()
    running = asyncio.create_task(lanes.run(piece, environment))
    try:
        yield
    finally:
        environment.cancel()
        await running


async def note_of(lanes: Lanes, piece: CollectSlice) -> str:  # noqa: F811
    async with lanes.database.transaction() as connection:
        return (await lane_progress(connection, uuid.UUID(piece.job_id), Lane.COLLECT)).note


async def until_note(lanes: Lanes, piece: CollectSlice, words: str) -> str:  # noqa: F811
    """The note as soon as it has these words."""
    async with asyncio.timeout(30):
        while True:
            note = await note_of(lanes, piece)
            if words in note:
                return note
            await asyncio.sleep(0.05)


async def test_note_tells_the_delay_between_two_requests(lanes: Lanes) -> None:  # noqa: F811
    """A crawl that may ask a host only now and then says so, and why."""
    lanes.html("/", "/next")
    lanes.html("/next")
    spec = replace(lanes.crawl(), rate=FetchRate(concurrency=2, delay_s=60.0))
    piece = await lanes.job(spec)
    async with at_work(lanes, piece):
        note = await until_note(lanes, piece, "rate limit")
    assert note == f"rate limit: 60 s between two requests to {lanes.url.removeprefix('http://')}"


async def test_note_tells_the_crawl_delay_of_robots_txt(lanes: Lanes) -> None:  # noqa: F811
    """The delay that robots.txt asks for is told in the same way."""
    lanes.answers["/robots.txt"] = lambda _: web.Response(text="User-agent: *\nCrawl-delay: 30")
    lanes.html("/", "/next")
    piece = await lanes.job(lanes.crawl())
    async with at_work(lanes, piece):
        assert "30 s between two requests" in await until_note(lanes, piece, "rate limit")


async def test_note_tells_the_pause_that_a_host_asked_for_and_goes_with_it(lanes: Lanes) -> None:  # noqa: F811
    """While a host asked to be left alone the note says until when; after that it is gone."""
    busy = iter([True])
    lanes.html("/", "/busy", "/other")
    lanes.html("/other")

    def once_busy(_: web.Request) -> web.Response:
        if next(busy, False):
            return web.Response(status=429, headers={"Retry-After": "8"})
        return web.Response(text="<p>Now</p>", content_type="text/html")

    lanes.answers["/busy"] = once_busy
    piece = await lanes.job(replace(lanes.crawl(), rate=FetchRate(concurrency=1)))
    report = asyncio.create_task(lanes.run(piece))
    assert " UTC" in await until_note(lanes, piece, "asked for a pause until")
    await until_note(lanes, piece, "all pages fetched")
    assert (await report).counters.pages_fetched == 3


async def test_note_tells_when_pages_are_tried_again(lanes: Lanes) -> None:  # noqa: F811
    """When all that is left waits for its next attempt, the note says when that is, and what went wrong."""
    lanes.answers["/robots.txt"] = lambda _: web.Response(status=503)
    piece = await lanes.job(lanes.crawl())
    async with at_work(lanes, piece):
        note = await until_note(lanes, piece, "delay: 1 page is tried again, the next at ")
    assert "UTC: " in note
