"""How long an event loop was held up: by work that should be in the pool, or by a machine that has too much to do."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

TICK_S: Final = 0.02
"""Seconds between two looks at the clock; a stall that is much shorter falls between them."""
WINDOW_S: Final = 10.0
"""Seconds that one line of the log sums up."""
WORTH_TELLING_S: Final = 0.02
"""The shortest stall that is told, so that an idle process says nothing."""
STALL_S: Final = 0.05
"""From here on it is a warning: everything else that the process does was late by as much."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Stalls:
    """The stalls of one window."""

    number: int = 0
    """Of `STALL_S` and more."""
    longest_s: float = 0.0

    def note(self, late_s: float) -> None:
        """Takes in how late a tick was."""
        self.number += late_s >= STALL_S
        self.longest_s = max(self.longest_s, late_s)

    def tell(self) -> None:
        """Writes them into the log, if they are worth it."""
        if self.longest_s < WORTH_TELLING_S:
            return
        write = log.warning if self.number else log.info
        write("event loop was held up", longest_ms=round(self.longest_s * 1000), stalls=self.number)


@asynccontextmanager
async def watched_loop(*, tick_s: float = TICK_S, window_s: float = WINDOW_S) -> AsyncIterator[None]:
    """Tells of the stalls of the running event loop, a line for each window that has some, until the block ends.

    Args:
        tick_s: Seconds between two looks.
        window_s: Seconds that one line sums up.
    """
    task = asyncio.create_task(_watch(tick_s, window_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _watch(tick_s: float, window_s: float) -> None:
    stalls = Stalls()
    began = last = time.monotonic()
    try:
        while True:
            await asyncio.sleep(tick_s)
            now = time.monotonic()
            stalls.note(now - last - tick_s)
            last = now
            if now - began >= window_s:
                stalls.tell()
                stalls, began = Stalls(), now
    finally:
        stalls.tell()
