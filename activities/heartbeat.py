"""Heartbeats of a long activity, and its end in good order when it is asked to stop."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from temporalio import activity
from temporalio.exceptions import ApplicationError

BEAT_S: Final = 0.2
"""Seconds between two calls of `activity.heartbeat`; the SDK sends them on no faster than the worker's throttle."""
STALL_S: Final = 120.0
"""Seconds without any progress after which the heartbeat stops, so that a stuck body is taken for dead. Longer than
the longest single wait of a body: one fetch, one transaction, one batch of points."""
STOP_S: Final = 8.0
"""Seconds a body has to commit what it has after it was asked to stop; below the heartbeat timeout."""

LATE_S: Final = 8.0
"""Seconds without a beat, less than the heartbeat timeout, after which this process was frozen and its work may be
another's."""

T = TypeVar("T")


class Beat:
    """The pulse of one activity attempt, and the flag that asks its body to stop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._details: Any = None
        self._last = self._beaten = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Whether the body must commit what it has and return.

        A process that wakes up after it was frozen stops before it hears from Temporal: whatever it would begin now
        could come after the job stood still.
        """
        if time.monotonic() - self._beaten > LATE_S:
            self.stop.set()
        return self.stop.is_set()

    def progress(self, details: Any = None) -> None:
        """Says that the body moves; `details` are shown in the web UI."""
        self._last = time.monotonic()
        if details is not None:
            self._details = details

    async def wait(self, seconds: float) -> None:
        """Waits so many seconds, or less when the body must stop."""
        self.progress()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stop.wait()

    async def run(self) -> None:
        """Beats until the body stalls."""
        while time.monotonic() - self._last < STALL_S:
            # First of all: a body that is done by then never beats, which would be a write of Temporal's.
            await asyncio.sleep(BEAT_S)
            # Looked at before this beat hides it.
            _ = self.stopping
            self._beaten = time.monotonic()
            activity.heartbeat(*([] if self._details is None else [self._details]))


async def run_with_heartbeat(body: Callable[[Beat], Coroutine[Any, Any, T]]) -> T:
    """Runs an activity's body under a heartbeat and turns every request to stop into its flag.

    The body runs in a task of its own, which a cancellation does not touch: it sees the flag, commits what it has
    and returns. What it returns after a cancel is the activity's result; the workflow knows what the cancel meant.

    Args:
        body: Looks at `beat.stopping` between its steps and calls `beat.progress` after each.

    Returns:
        What the body returned.

    Raises:
        ApplicationError: The worker shuts down, or someone paused or reset the activity: it is to be run again, on
            another worker. Also when the body did not stop in `STOP_S`.
        asyncio.CancelledError: The activity is not wanted any more: its workflow was terminated, or it timed out.
    """
    beat = Beat()
    work = asyncio.create_task(body(beat))
    helpers = [asyncio.create_task(beat.run()), asyncio.create_task(_stop_on_shutdown(beat))]
    try:
        try:
            result = await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():
                raise
            beat.stop.set()
            await asyncio.wait([work], timeout=STOP_S)
            result = await _stopped(work)
        return _answer(result, beat)
    finally:
        for task in (*helpers, work):
            task.cancel()
        await asyncio.gather(*helpers, work, return_exceptions=True)


async def _stop_on_shutdown(beat: Beat) -> None:
    await activity.wait_for_worker_shutdown()
    beat.stop.set()


async def _stopped(work: "asyncio.Task[T]") -> T:
    if not work.done():
        work.cancel()
        raise ApplicationError(f"The work did not stop within {STOP_S:g} s and was broken off.", type="work-lost")
    return work.result()


def _answer(result: T, beat: Beat) -> T:
    if not beat.stopping:
        return result
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return result
    if details is not None and (details.not_found or details.timed_out):
        raise asyncio.CancelledError("not wanted any more")
    raise ApplicationError("Handed back: the worker shuts down, or the activity was paused.", type="handed-back")
