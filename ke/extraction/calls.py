"""How often, and how soon, the endpoint of a language model is asked: one turnstile for all calls of a worker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

MAX_PAUSE_S: Final = 300.0
"""The longest pause that an endpoint can ask for."""
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
"""Of the pauses that are doubled as long as nothing succeeds, where the endpoint does not say how long to wait."""


class Turnstile:
    """Lets so many calls through at once, and none while the endpoint has asked for a pause or is out of reach."""

    def __init__(self, concurrency: int) -> None:
        self._room = asyncio.Semaphore(concurrency)
        self._until = 0.0
        self._until_at = datetime.now(UTC)
        self._reason = ""
        self._next_pause_s = FIRST_PAUSE_S

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn, as long as that takes, and holds it for one call."""
        while True:
            while self._left_s > 0:  # noqa: ASYNC110  (a pause, which may be made longer meanwhile)
                await asyncio.sleep(self._left_s)
            async with self._room:
                if self._left_s > 0:
                    continue  # asked for while this call waited for its place
                yield
                return

    def pause(self, reason: str, after_s: float | None = None) -> None:
        """Holds all calls back: for so many seconds, or a while that doubles until a call succeeds.

        Args:
            reason: Why, for people.
            after_s: What the endpoint asked for.
        """
        if after_s is None and self._left_s > 0:
            return  # another call that was under way with the one that has failed already
        # "At once" is not taken at its word: it would be asked again and again.
        seconds = self._next_pause_s if after_s is None else min(max(after_s, FIRST_PAUSE_S), MAX_PAUSE_S)
        if after_s is None:
            self._next_pause_s = min(self._next_pause_s * 2, LONGEST_PAUSE_S)
        if time.monotonic() + seconds > self._until:
            self._until = time.monotonic() + seconds
            self._until_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self._reason = reason

    def succeeded(self) -> None:
        """Says that the endpoint answers."""
        self._next_pause_s = FIRST_PAUSE_S
        self._reason = ""

    @property
    def note(self) -> str:
        """Why calls wait, and until when; "" when they do not."""
        if not self._reason:
            return ""
        return self._reason + (f"; the next call at {self._until_at:%H:%M:%S} UTC" if self._left_s > 0 else "")

    @property
    def _left_s(self) -> float:
        return self._until - time.monotonic()


def retry_after_s(value: str | None) -> float | None:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number, or a date. None: nothing usable."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_PAUSE_S) if seconds == seconds else None  # noqa: PLR0124  (not a number)
