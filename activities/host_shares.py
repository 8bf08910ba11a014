"""How much of a slice each host may have at once: what is slow holds up nothing but itself."""

import math
import time
from collections import Counter
from collections.abc import Iterable
from typing import Final

from ke.storage.frontier import FrontierEntry
from ke.web.politeness import HostGate

MAX_UNDER_WAY: Final = 64
"""Pages that a slice fetches and reads at once, of all hosts together; one host alone may have its own share."""
MAX_HELD: Final = 1_000
"""Pages that a slice has claimed, those included that wait for their turn at a host that is slow."""
LOOK_AGAIN_S: Final = 0.5
"""Seconds after which the frontier is looked at again, for hosts that were not there."""
DRY_S: Final = 1.0
"""Seconds for which a frontier that had nothing more is not asked again, unless something was added to it."""


class HostShares:
    """Decides how many pages of which host are claimed next.

    A host has twice its concurrency: one half is fetched while the other is read, or waits for its turn. One whose
    pace is not known yet has two pages, and one with pauses between its requests as many as it lets through in a
    second, and one more. What waits for such a host counts for nothing against the others. A host that has the slice
    for itself has pages ahead, so that they are claimed with a commit, and not by some in between; others that turn up
    find room beside those.

    Args:
        gate: Knows the hosts' paces.
        concurrency: Requests to one host at once.
        ahead: Pages of a host that is alone.
    """

    def __init__(self, gate: HostGate, concurrency: int, ahead: int = 0) -> None:
        self._gate = gate
        self.most = 2 * concurrency
        """Pages of one host that are fetched or read at once."""
        self._ahead = max(self.most, ahead)
        self.is_alone = False
        """Whether there was one host, and no other, when pages were claimed last."""
        self._under_way: Counter[str] = Counter()
        self._rooms: dict[str, int] = {}
        self._waiting: Counter[str] = Counter()
        self._looked_at = 0.0
        self._dry_until = 0.0

    def count(self, running: Iterable[FrontierEntry], waiting: Iterable[FrontierEntry]) -> None:
        """Takes note of what is under way now.

        Args:
            running: Pages whose request has begun.
            waiting: Pages that wait for robots.txt, or for their turn at their host.
        """
        held = list(waiting)
        self._under_way = Counter(entry.host for entry in (*running, *held))
        self._waiting = Counter(entry.host for entry in held if self._gate.wait_s(entry.host) > 0)

    @property
    def is_dry(self) -> bool:
        """Whether there was nothing left when the frontier was asked last."""
        return time.monotonic() < self._dry_until

    @property
    def total_room(self) -> int:
        """Pages that may be claimed, of all hosts together."""
        held = self._under_way.total()
        busy = sum(min(number - self._waiting[host], self.most) for host, number in self._under_way.items())
        return min(max(self.most, MAX_UNDER_WAY) - busy, max(self.most, MAX_HELD) - held)

    def wants_more(self) -> bool:
        """Whether it is time to claim: a host has used up half of its share, or others may have turned up."""
        if self.is_dry:
            return False
        half_empty = any(2 * number <= min(self.most, self._allowed(host)) for host, number in self._under_way.items())
        return not self._under_way or half_empty or time.monotonic() - self._looked_at > LOOK_AGAIN_S

    def room(self, host: str) -> int:
        """Pages of this host that may be claimed now."""
        self._rooms[host] = max(0, self._allowed(host) - self._under_way[host])
        return self._rooms[host]

    def claimed(self, entries: Iterable[FrontierEntry], asked_for: int) -> None:
        """Takes note of what a claim gave, of how many it was asked for."""
        got = Counter(entry.host for entry in entries)
        self._looked_at = time.monotonic()
        is_full = got.total() >= asked_for or any(number >= self._rooms[host] for host, number in got.items())
        self._dry_until = 0.0 if is_full else self._looked_at + DRY_S
        self.is_alone = len(self._rooms.keys() | self._under_way.keys()) == 1
        self._rooms.clear()

    def added(self) -> None:
        """Takes note that there may be new pages."""
        self._dry_until = 0.0

    def _allowed(self, host: str) -> int:
        if not self._gate.knows(host):
            return min(2, self.most)
        pause = self._gate.pause(host)
        if pause is None:
            return self._ahead if self.is_alone else self.most
        if pause.until is not None:
            return 1
        if pause.seconds * self.most <= 1:
            return self.most
        return min(self.most, 1 + math.ceil(1 / pause.seconds))
