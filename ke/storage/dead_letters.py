"""The `dead_letters` table: what failed for good, one letter for each page or source."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import dead_letter_id
from ke.storage.tables import dead_letters

MAX_MESSAGE: Final = 2000
"""Characters of an error message that are kept."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A page or source that failed for good."""

    subject: Literal["page", "source"]
    subject_id: uuid.UUID
    url: str
    error_type: str
    error_message: str
    attempts: int
    failed_at: datetime


async def write_dead_letters(connection: AsyncConnection, job_id: uuid.UUID, letters: Sequence[DeadLetter]) -> None:
    """Writes the letters; a second failure of the same subject updates its letter and keeps its first time."""
    if not letters:
        return
    values = [
        {
            "id": dead_letter_id(job_id, letter.subject, letter.subject_id),
            "job_id": job_id,
            "subject": letter.subject,
            "subject_id": letter.subject_id,
            "url": letter.url,
            "error_type": letter.error_type,
            "error_message": letter.error_message.replace("\x00", "")[:MAX_MESSAGE],
            "attempts": letter.attempts,
            "first_failed_at": letter.failed_at,
            "last_failed_at": letter.failed_at,
        }
        for letter in letters
    ]
    statement = insert(dead_letters)
    updated = {name: statement.excluded[name] for name in ("error_type", "error_message", "attempts", "last_failed_at")}
    await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=updated), values)
