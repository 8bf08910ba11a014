"""What a copy of a collection lacks, while the copy is made and the collection is written to.

The copy is read off in order of id. A point that is written or deleted behind the reader is noted, and what has
become of it is read again later: as it is then, so that it does not matter in which order things happened. A point
ahead of the reader needs no note.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Copying:
    """How far a copy has come."""

    passed: uuid.UUID | None = None
    """The last id that was read."""
    whole: bool = False
    """Whether all ids were read."""
    noted: set[uuid.UUID] = field(default_factory=set)
    """Ids whose points may be other ones in the copy, or there in only one of the two."""

    def note(self, ids: Iterable[uuid.UUID]) -> None:
        """Takes the ids of points that are about to be written or deleted."""
        if self.whole:
            self.noted.update(ids)
        elif self.passed is not None:
            passed = self.passed
            self.noted.update(point for point in ids if point <= passed)

    def take(self, limit: int) -> list[uuid.UUID]:
        """Removes up to `limit` of the notes, for the copy to be put right."""
        return [self.noted.pop() for _ in range(min(limit, len(self.noted)))]
