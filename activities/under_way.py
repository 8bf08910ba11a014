"""The pages of a collect slice from their claim to their commit."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from activities.pages import PageReader
from ke.storage.collecting import PageOutcome
from ke.storage.frontier import FrontierEntry

REMEMBERED_LINKS: Final = 200_000
"""Links that a slice remembers as already in the frontier, to spare the database."""


class PagesUnderWay:
    """Pages that wait for their turn at the host, that are fetched or read, and that have come and are not committed.

    Attributes:
        reader: Fetches and reads them.
        came: What became of those that have come.
    """

    def __init__(self, reader: PageReader) -> None:
        """Begins none yet."""
        self.reader = reader
        self.came: list[PageOutcome] = []
        self._tasks: dict[asyncio.Task[PageOutcome], tuple[FrontierEntry, int]] = {}
        self._first_came_at = 0.0
        self._known_links: set[str] = set()

    def begin(self, entries: Sequence[FrontierEntry], *, most: int | None, share: int) -> None:
        """Begins to fetch and read pages.

        Args:
            entries: The pages.
            most: Bytes that each may have, where the crawl limits them.
            share: Bytes that each reserves.
        """
        for entry in entries:
            self._tasks[asyncio.create_task(self.reader.read(entry, max_bytes=most))] = (entry, share)

    @property
    def to_come(self) -> int:
        """How many have not come yet."""
        return len(self._tasks)

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self._tasks) + len(self.came)

    @property
    def reserved(self) -> int:
        """The bytes that they have, or may have."""
        return sum(share for _, share in self._tasks.values()) + sum(outcome.bytes for outcome in self.came)

    @property
    def came_since_s(self) -> float:
        """How long ago the first of those came that have come."""
        return time.monotonic() - self._first_came_at

    def started(self) -> list[FrontierEntry]:
        """Those whose request has begun."""
        return [entry for entry, _ in self._tasks.values() if entry.id in self.reader.started]

    def waiting(self) -> list[FrontierEntry]:
        """Those that wait for their turn at their host."""
        return [entry for entry, _ in self._tasks.values() if entry.id not in self.reader.started]

    async def wait(self, timeout_s: float) -> list[PageOutcome]:
        """Waits until some have come; returns what became of these, which `came` has too."""
        finished, _ = await asyncio.wait(self._tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        # In the order in which they were claimed: of two that came together the same one is the first each time.
        done = [task for task in self._tasks if task in finished]
        outcomes = [task.result() for task in done]
        for task in done:
            del self._tasks[task]
        if outcomes and not self.came:
            self._first_came_at = time.monotonic()
        self.came += map(self._without_known_links, outcomes)
        return outcomes

    def take(self) -> list[PageOutcome]:
        """What has come; it is the caller's to commit from here on."""
        batch, self.came = self.came, []
        return batch

    async def break_off(self, *, started_too: bool) -> list[uuid.UUID]:
        """Ends those that wait, or all that have not come; returns the ids of those that did not come in the end."""
        tasks = [task for task, (entry, _) in self._tasks.items() if started_too or entry.id not in self.reader.started]
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        entries = [self._tasks.pop(task)[0] for task in tasks]
        outcomes = [result for result in results if isinstance(result, PageOutcome)]
        self.came += map(self._without_known_links, outcomes)
        kept = {outcome.entry.id for outcome in outcomes}
        return [entry.id for entry in entries if entry.id not in kept]

    def _without_known_links(self, outcome: PageOutcome) -> PageOutcome:
        fresh = tuple(link for link in outcome.links if link not in self._known_links)
        if len(self._known_links) < REMEMBERED_LINKS:
            self._known_links.update(fresh)
        return replace(outcome, links=fresh)
