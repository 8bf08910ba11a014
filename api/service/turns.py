"""Calls about one job take turns in this gateway, instead of each holding a connection while it waits for the row."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from ke.contracts.errors import Unavailable

TURN_WITHIN_S: Final = 10.0
"""Seconds for which a call waits for its turn."""


class Turns:
    """A lock for each job that is called about now.

    Ten who cancel one job at once would otherwise take all connections, nine of them to wait for the row that the
    first one holds. Between gateways the row's own lock decides, as it does in any case.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[uuid.UUID, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def take(self, job_id: uuid.UUID) -> AsyncIterator[None]:
        """Waits for the turn and holds it as long as the block runs.

        Raises:
            Unavailable: The turn did not come in time.
        """
        # The variable keeps the lock alive: it is forgotten with the last one who waits for it.
        lock = self._locks.setdefault(job_id, asyncio.Lock())
        try:
            async with asyncio.timeout(TURN_WITHIN_S):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable(f"Other calls about job {job_id} are under way: try again.") from None
        try:
            yield
        finally:
            lock.release()
