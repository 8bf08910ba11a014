"""When a collect lane that is whole is worth splitting into shards of hosts."""

import time
import uuid
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.activities import CollectSlice
from ke.contracts.ids import page_id
from ke.storage.collect_shards import is_spread

SPLIT_AFTER_S: Final = 3.0
"""Seconds for which a lane stays whole, however many hosts it has: most jobs are done by then, or nearly."""
LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at whether there are several hosts."""


class Splitting:
    """Looks whether a slice of a whole lane is to end, so that the lane goes on in shards.

    Args:
        piece: The slice.
        shards: Into how many it would be split; 1: it stays whole.
    """

    def __init__(self, piece: CollectSlice, shards: int) -> None:
        self._job_id = uuid.UUID(piece.job_id)
        self._seeds = piece.spec.urls if piece.spec.follow else ()
        self._shards = shards if piece.may_split and piece.shards == 1 else 1
        self._looks_at = time.monotonic() + SPLIT_AFTER_S
        self.is_due = False

    @property
    def shards(self) -> int:
        """Into how many shards the lane is to be split now."""
        return self._shards if self.is_due else 1

    async def look(self, connection: AsyncConnection) -> None:
        """Looks, where it is time to."""
        if self._shards == 1 or time.monotonic() < self._looks_at:
            return
        self._looks_at = time.monotonic() + LOOK_EVERY_S
        seeds = [page_id(self._job_id, url) for url in self._seeds]
        self.is_due = await is_spread(connection, self._job_id, seeds)
