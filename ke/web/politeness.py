"""How hard one host is pressed: requests at once, pauses between them, and a longer pause when it asks for one."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ke.contracts.pauses import HeldHost

MAX_HOSTS: Final = 10_000
"""Hosts that are remembered at once; the longest unused one that is idle goes first."""


@dataclass(frozen=True, slots=True)
class HostPause:
    """How long requests to a host are held back."""

    seconds: float
    until: datetime | None = None
    """When the pause that the host asked for ends; None for the regular one between two requests."""


class _Host:
    """One host's queue: a slot for each request under way, and the time before which none starts."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.turn = asyncio.Lock()
        self.not_before = 0.0
        self.between_s = 0.0
        self.asked: HostPause | None = None
        self.users = 0


class HostGate:
    """Lets requests to each host through at a bearable rate.

    Args:
        concurrency: Requests to one host at once.
        delay_s: Seconds between the starts of two requests to one host, at least.
    """

    def __init__(self, concurrency: int, delay_s: float = 0.0) -> None:
        self._concurrency = concurrency
        self._delay_s = delay_s
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    @asynccontextmanager
    async def slot(self, host: str, crawl_delay_s: float | None = None) -> AsyncIterator[None]:
        """Waits until a request to this host may start, and counts it until the block ends.

        Args:
            host: `host:port`.
            crawl_delay_s: What the host's robots.txt asks for, in seconds; the longer of the two delays holds.
        """
        state = self._state(host)
        state.users += 1
        try:
            async with state.slots:
                async with state.turn:
                    # Again after each sleep: a `backoff` may have moved the time meanwhile.
                    while (wait_s := state.not_before - time.monotonic()) > 0:  # noqa: ASYNC110 - a time, not an event
                        await asyncio.sleep(wait_s)
                    state.between_s = max(self._delay_s, crawl_delay_s or 0.0)
                    state.not_before = time.monotonic() + state.between_s
                yield
        finally:
            state.users -= 1

    def backoff(self, host: str, seconds: float) -> None:
        """Starts no further request to this host for so many seconds, as after a 429 or 503."""
        state = self._state(host)
        if time.monotonic() + seconds > state.not_before:
            state.not_before = time.monotonic() + seconds
            state.asked = HostPause(seconds, datetime.now(UTC) + timedelta(seconds=seconds))

    def held_hosts(self) -> dict[str, HeldHost]:
        """The hosts to which no request may start now, for another process to keep to."""
        now, at = time.monotonic(), datetime.now(UTC)
        return {
            host: HeldHost(
                at + timedelta(seconds=state.not_before - now),
                state.between_s,
                asked=state.asked is not None and state.asked.until is not None and state.asked.until > at,
            )
            for host, state in self._hosts.items()
            if state.not_before > now
        }

    def take_up(self, held: Mapping[str, HeldHost]) -> None:
        """Holds back what another process held back, for as long as is left of it."""
        for host, was in held.items():
            seconds = (was.until - datetime.now(UTC)).total_seconds()
            if seconds <= self.wait_s(host):
                continue
            if was.asked:
                self.backoff(host, seconds)
            state = self._state(host)
            state.not_before, state.between_s = time.monotonic() + seconds, was.between_s

    def knows(self, host: str) -> bool:
        """Whether a request to this host has been let through, or is about to be."""
        return host in self._hosts

    def wait_s(self, host: str) -> float:
        """Seconds until the next request to this host may start, 0 when it may now."""
        state = self._hosts.get(host)
        return max(0.0, state.not_before - time.monotonic()) if state else 0.0

    def pause(self, host: str) -> HostPause | None:
        """What holds requests to this host back; None when nothing does."""
        state = self._hosts.get(host)
        if state is None:
            return None
        if state.asked is not None and state.asked.until is not None and state.asked.until > datetime.now(UTC):
            return state.asked
        return HostPause(state.between_s) if state.between_s else None

    def _state(self, host: str) -> _Host:
        state = self._hosts.get(host)
        if state is None:
            self._forget_idle()
            state = self._hosts[host] = _Host(self._concurrency)
        self._hosts.move_to_end(host)
        return state

    def _forget_idle(self) -> None:
        if len(self._hosts) < MAX_HOSTS:
            return
        now = time.monotonic()
        for name, state in self._hosts.items():
            if state.users == 0 and state.not_before <= now:
                del self._hosts[name]
                return
