"""The fences of the embedded vector store: below which epoch it refuses a job's writes."""

import sqlite3
import uuid
from collections.abc import Mapping
from pathlib import Path

from ke.contracts.errors import Fenced


class Fences:
    """A durable map from job to the lowest epoch that may still write.

    SQLite, because one fence is added by each cleanup, for ever: a file that is written whole would grow slow.
    Used from one thread at a time.
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file."""
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS fences (job BLOB PRIMARY KEY, epoch INTEGER NOT NULL) STRICT, WITHOUT ROWID"
        )

    def raise_to(self, job_id: uuid.UUID, epoch: int) -> None:
        """Refuses this job's writes below `epoch` from now on, also after a crash; a fence is never lowered."""
        self._db.execute(
            "INSERT INTO fences VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET epoch = max(epoch, excluded.epoch)",
            (job_id.bytes, epoch),
        )

    def check(self, epochs: Mapping[uuid.UUID, int]) -> None:
        """Raises `Fenced` when one of these epochs is older than its job's fence."""
        for job_id, epoch in epochs.items():
            row = self._db.execute("SELECT epoch FROM fences WHERE job = ?", (job_id.bytes,)).fetchone()
            if row is not None and epoch < row[0]:
                raise Fenced(f"job {job_id} is at epoch {row[0]}; epoch {epoch} may not write any more")

    def close(self) -> None:
        """Closes the file."""
        self._db.close()
