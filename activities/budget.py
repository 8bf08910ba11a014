"""What is left of a crawl's limits."""

from dataclasses import dataclass
from datetime import UTC, datetime

from ke.contracts.jobs import Counters, CrawlLimits


@dataclass(slots=True)
class Budget:
    """The limits of a crawl. What is under way counts as if it succeeded, so that they are never passed."""

    limits: CrawlLimits
    began_at: datetime
    """Since when `max_seconds` counts."""
    out_of_bytes: bool = False
    """Whether a page did not fit into what was left of the bytes: the first such page ends the crawl."""

    def pages_left(self, done: Counters, under_way: int) -> int:
        """Pages that may still be begun, when so many are under way."""
        return self.limits.max_pages - done.pages_fetched - done.pages_duplicate - done.pages_unchanged - under_way

    def bytes_left(self, done: Counters, reserved: int) -> int | None:
        """Bytes that no fetch under way has reserved; None when there is no limit."""
        if self.limits.max_bytes is None:
            return None
        return max(0, self.limits.max_bytes - done.bytes - reserved)

    def reached(self, done: Counters, under_way: int, reserved: int) -> str | None:
        """The limit that forbids another fetch."""
        if self.pages_left(done, under_way) <= 0:
            return "max_pages"
        if self.limits.max_bytes is not None and (self.out_of_bytes or self.bytes_left(done, reserved) == 0):
            return "max_bytes"
        elapsed_s = (datetime.now(UTC) - self.began_at).total_seconds()
        if self.limits.max_seconds is not None and elapsed_s >= self.limits.max_seconds:
            return "max_seconds"
        return None
