"""What a collect lane waits for, told in its row for as long as it does."""

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from ke.contracts.counted import counted
from ke.storage.frontier import FrontierState
from ke.web.politeness import HostGate

WORTH_TELLING_S: Final = 3.0
"""Seconds of waiting below which a job seems to move."""
MAX_HOSTS_TOLD: Final = 3


class WaitingNote:
    """The note of a lane; it is written when it changes, which is seldom.

    Args:
        write: Writes the note into the lane's row, "" to clear it.
        shown: What stands there now, by an earlier slice.
    """

    def __init__(self, write: Callable[[str], Awaitable[None]], shown: str = "") -> None:
        self._write = write
        self._shown = shown

    async def tell(self, note: str) -> None:
        """Makes this the note."""
        if note != self._shown:
            await self._write(note)
            self._shown = note


def paced_by(gate: HostGate, hosts: Iterable[str]) -> str:
    """Why pages wait for their turn at these hosts; "" when they hardly wait."""
    told = []
    for host in sorted(set(hosts)):
        pause = gate.pause(host)
        if pause is None or pause.seconds < WORTH_TELLING_S:
            continue
        if pause.until is None:
            told.append(f"rate limit: {pause.seconds:g} s between two requests to {host}")
        else:
            told.append(f"rate limit: {host} asked for a pause until {pause.until:%H:%M:%S} UTC")
    more = f" and {counted(len(told) - MAX_HOSTS_TOLD, 'host')} more" if len(told) > MAX_HOSTS_TOLD else ""
    return "; ".join(told[:MAX_HOSTS_TOLD]) + more


def not_due(state: FrontierState, reason: str | None) -> str:
    """Why no page is due, where the next one is not for a while; "" otherwise."""
    if state.due or state.next_at is None or (state.next_at - datetime.now(UTC)).total_seconds() < WORTH_TELLING_S:
        return ""
    why = f": {reason[:200]}" if reason else ""
    pages = counted(state.waiting, "page is", "pages are")
    return f"delay: {pages} tried again, the next at {state.next_at:%H:%M:%S} UTC{why}"
