"""The watch over an event loop."""

import asyncio
import io
import json
import logging
import time
from collections.abc import Iterator

import pytest
import structlog

from ke.runtime import logs
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


async def test_a_blocked_loop_is_told_with_its_longest_stall(written: io.StringIO) -> None:
    """Work that blocks the loop is a warning, which says for how long and how often."""
    async with watched_loop(tick_s=0.005):
        await asyncio.sleep(0.05)
        for blocked_s in (2 * STALL_S, 4 * STALL_S):
            time.sleep(blocked_s)  # noqa: ASYNC251  the fault that is looked for
            await asyncio.sleep(0.05)
    (told,) = lines(written)
    assert told["level"] == "warning"
    assert told["longest_ms"] >= 4 * STALL_S * 1000 - 6
    assert told["stalls"] >= 2


async def test_each_window_tells_its_own_stalls(written: io.StringIO) -> None:
    """A stall is told soon, and not again with what comes after it."""
    async with watched_loop(tick_s=0.005, window_s=0.05):
        await asyncio.sleep(0.02)
        time.sleep(6 * STALL_S)  # noqa: ASYNC251  the fault that is looked for
        await asyncio.sleep(0.03)
        assert [line["longest_ms"] >= 6 * STALL_S * 1000 - 6 for line in lines(written)] == [True]
        await asyncio.sleep(0.3)
    assert sum(line["longest_ms"] >= 6 * STALL_S * 1000 - 6 for line in lines(written)) == 1


async def test_work_that_is_awaited_is_no_stall(written: io.StringIO) -> None:
    """What another thread does for longer than a stall holds nothing up."""
    async with watched_loop(tick_s=0.005):
        await asyncio.to_thread(time.sleep, 20 * STALL_S)
    assert not [line for line in lines(written) if line["longest_ms"] >= 20 * STALL_S * 1000 - 6]
