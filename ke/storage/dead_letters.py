"""The `dead_letters` table: what failed for good, one letter for each page or source."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import sqlalchemy as sa
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


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """A dead letter as it lies there."""

    seq: int
    id: uuid.UUID
    job_id: uuid.UUID
    subject: str
    subject_id: uuid.UUID
    url: str
    error_type: str
    error_message: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime


async def list_dead_letters(
    connection: AsyncConnection, job_id: uuid.UUID, *, limit: int, after: int | None = None
) -> list[DeadLetterRow]:
    """A job's dead letters in the order of their arrival, at most `limit`, from after the `seq` in `after`."""
    statement = (
        sa.select(*(dead_letters.c[name] for name in DeadLetterRow.__dataclass_fields__))
        .where(dead_letters.c.job_id == job_id)
        .order_by(dead_letters.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(dead_letters.c.seq > after)
    return [DeadLetterRow(*record) for record in await connection.execute(statement)]


async def purge_dead_letters(connection: AsyncConnection, job_id: uuid.UUID) -> int:
    """Deletes all dead letters of a job; returns how many that were."""
    return (await connection.execute(sa.delete(dead_letters).where(dead_letters.c.job_id == job_id))).rowcount
