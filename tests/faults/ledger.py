"""What a run knows by itself: which jobs were accepted, what was asked of them and when, and what was broken when."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.faults.site import Pages


@dataclass
class Watched:
    """A job that the gateway has accepted."""

    id: str
    kind: str
    mark: str = ""
    """Its pages at the site; empty for an extraction of another job's sources."""
    pages: Pages | None = None
    extracts: bool = True
    retried: bool = False
    """Whether its dead letters were retried, with a link that has been mended."""
    cancelled_at: float | None = None
    """Seconds since 1970 when its cancel had been accepted; None: it was not cancelled from here."""
    counted: dict[str, int] = field(default_factory=dict)
    """What the stores held of it just before its cleanup was asked for, by store; empty: not counted."""
    crowd: bool = False
    """One of a hundred that are cancelled at once: its latency is told apart."""
    deleted: bool = False
    """Whether the deletion of its record was asked for."""


@dataclass
class Ledger:
    """All that a run has done so far."""

    jobs: dict[str, Watched] = field(default_factory=dict)
    faults: list[tuple[float, float]] = field(default_factory=list)
    """From when to when something was broken, recovery included; seconds since 1970."""
    _open: list[float] = field(default_factory=list)

    def add(self, job: Watched) -> Watched:
        """Writes an accepted job down."""
        self.jobs[job.id] = job
        return job

    @contextmanager
    def disturbed(self) -> Iterator[None]:
        """What happens in this block happens while something is broken."""
        begin = time.time()
        self._open.append(begin)
        try:
            yield
        finally:
            self._open.remove(begin)
            self.faults.append((begin, time.time()))

    def was_disturbed(self, begin: float, end: float) -> bool:
        """Whether something was broken at any time in between."""
        return any(f <= end and t >= begin for f, t in [*self.faults, *((o, time.time()) for o in self._open)])
