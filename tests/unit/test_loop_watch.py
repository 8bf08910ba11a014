"""The watch over an event loop.

Each test has a loop of its own: on the one that tests have in common, gateways of other tests are watched too.
"""

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from ke.runtime import logs, loop_watch
from ke.runtime.loop_watch import STALL_S, watched_loop


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    before = structlog.get_config()
    stream = io.StringIO()
    logs.configure("test", stream=stream)
    yield stream
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.configure(**before)


def lines(written: io.StringIO) -> list[dict]:
    found = [json.loads(line) for line in written.getvalue().splitlines()]
    return [line for line in found if line["event"] == "event loop was held up"]


def test_a_blocked_loop_is_told_with_its_longest_stall(written: io.StringIO) -> None:
    """Work that blocks the loop is a warning, which says for how long and how often."""

    async def blocked() -> None:
        async with watched_loop(tick_s=0.005):
            await asyncio.sleep(0.05)
            for blocked_s in (2 * STALL_S, 4 * STALL_S):
                time.sleep(blocked_s)  # noqa: ASYNC251  the fault that is looked for
                await asyncio.sleep(0.05)

    asyncio.run(blocked())
    (told,) = lines(written)
    assert told["level"] == "warning"
    assert told["longest_ms"] >= 4 * STALL_S * 1000 - 6
    assert told["stalls"] >= 2


class MovedClock:
    """The monotonic clock, which a test can move on: by more than any machine holds a process up."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.moved_s


def test_each_window_tells_its_own_stalls(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is told soon, and not again with what comes after it."""
    clock = MovedClock()
    monkeypatch.setattr(loop_watch, "time", clock)

    def told() -> list[int]:
        return [line["longest_ms"] for line in lines(written) if line["longest_ms"] > 60_000]

    async def held_up_once() -> None:
        async with watched_loop(tick_s=0.005, window_s=0.05):
            await asyncio.sleep(0.02)
            clock.moved_s = 100
            async with asyncio.timeout(20):
                while not told():  # noqa: ASYNC110  the log has no event
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)

    asyncio.run(held_up_once())
    (longest_ms,) = told()
    assert longest_ms >= 99_000


def test_work_that_is_awaited_is_no_stall(written: io.StringIO) -> None:
    """What another thread does for longer than a stall holds nothing up."""

    async def awaited() -> None:
        async with watched_loop(tick_s=0.005):
            await asyncio.to_thread(time.sleep, 20 * STALL_S)

    asyncio.run(awaited())
    assert not [line for line in lines(written) if line["longest_ms"] >= 20 * STALL_S * 1000 - 6]
