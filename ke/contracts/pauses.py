"""The pause of a host, as one slice of a crawl leaves it to the next."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host to which no request may start for a while."""

    until: datetime
    between_s: float
    """Its regular pause between two requests, in seconds."""
    asked: bool
    """Whether it asked for this pause itself."""
