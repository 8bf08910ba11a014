"""The `dead_letters` table: what failed for good, one letter for each page or source."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import KeError
from ke.contracts.ids import dead_letter_id
from ke.contracts.jobs import Counters, Lane
from ke.contracts.retries import LetterFilter, Subject
from ke.storage.arrays import among
from ke.storage.jobs import add_progress
from ke.storage.tables import dead_letters, entity_tasks, extraction_tasks, jobs, pages, retries

MAX_MESSAGE: Final = 2000
"""Characters of an error message that are kept."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A page or source that failed for good."""

    subject: Subject
    subject_id: uuid.UUID
    url: str
    error_type: str
    error_message: str
    attempts: int
    failed_at: datetime

    @classmethod
    def of(cls, subject: Subject, subject_id: uuid.UUID, url: str, error: KeError, *, attempts: int) -> "DeadLetter":
        """The letter of an error of now."""
        return cls(subject, subject_id, url, error.code, error.message, attempts, datetime.now(UTC))


async def write_dead_letters(connection: AsyncConnection, job_id: uuid.UUID, letters: Sequence[DeadLetter]) -> None:
    """Writes the letters; a second failure of the same subject adds to its letter and keeps its first time."""
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
    latest = ("error_type", "error_message", "last_failed_at")
    updated: dict[str, Any] = {name: statement.excluded[name] for name in latest}
    updated["attempts"] = dead_letters.c.attempts + statement.excluded.attempts
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
    found_on: str | None
    """The URL of the first page that has a link to it; None of a seed, of what is no page, and where that is gone."""


@dataclass(frozen=True, slots=True)
class LettersOfError:
    """The dead letters of a job that have one subject and one error."""

    subject: str
    error_type: str
    letters: int
    last_failed_at: datetime
    url: str
    """Of the first of them."""
    error_message: str
    """The same."""


@dataclass(frozen=True, slots=True)
class LetterSummary:
    """A job's dead letters by their errors."""

    letters: int
    """All of them."""
    errors: int
    """How many different ones there are."""
    most: list[LettersOfError]
    """Those with the most letters, these first."""


def fits(letters: LetterFilter) -> sa.ColumnElement[bool]:
    """The condition that a dead letter fits a filter."""
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    if letters.ids is not None:
        conditions.append(dead_letters.c.id.in_([uuid.UUID(key) for key in letters.ids]))
    if letters.subject is not None:
        conditions.append(dead_letters.c.subject == letters.subject)
    if letters.error_type is not None:
        conditions.append(dead_letters.c.error_type == letters.error_type)
    if letters.url_prefix is not None:
        conditions.append(dead_letters.c.url.startswith(letters.url_prefix, autoescape=True))
    return sa.and_(*conditions)


async def list_dead_letters(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    *,
    limit: int,
    after: int | None = None,
    letters: LetterFilter = LetterFilter(),  # noqa: B008  (frozen)
) -> list[DeadLetterRow]:
    """A job's dead letters in the order of their arrival, at most `limit`, from after the `seq` in `after`."""
    names = DeadLetterRow.__dataclass_fields__
    statement = (
        sa.select(*(_found_on() if name == "found_on" else dead_letters.c[name] for name in names))
        .where(dead_letters.c.job_id == job_id, fits(letters))
        .order_by(dead_letters.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(dead_letters.c.seq > after)
    return [DeadLetterRow(*record) for record in await connection.execute(statement)]


def _found_on() -> sa.ColumnElement[str | None]:
    """The URL of the page that has a link to a letter's page: a letter of a source or a record has none."""
    page, origin = pages.alias(), pages.alias()
    return (
        sa.select(origin.c.url)
        .join(page, page.c.found_on == origin.c.id)
        .where(page.c.id == dead_letters.c.subject_id)
        .correlate(dead_letters)
        .scalar_subquery()
    )


async def summarize_dead_letters(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    *,
    limit: int,
    letters: LetterFilter = LetterFilter(),  # noqa: B008  (frozen)
) -> LetterSummary:
    """A job's dead letters by their errors, at most `limit` of these, with the first letter of each."""
    groups = (
        sa.select(
            *(dead_letters.c[name] for name in ("subject", "error_type")),
            sa.func.count().label("letters"),
            sa.func.max(dead_letters.c.last_failed_at).label("last_failed_at"),
            sa.func.min(dead_letters.c.seq).label("first"),
            sa.cast(sa.func.sum(sa.func.count()).over(), sa.BigInteger).label("all"),
            sa.func.count().over().label("errors"),
        )
        .where(dead_letters.c.job_id == job_id, fits(letters))
        .group_by(dead_letters.c.subject, dead_letters.c.error_type)
        .order_by(sa.desc("letters"), dead_letters.c.subject, dead_letters.c.error_type)
        .limit(limit)
        .subquery("groups")
    )
    first = dead_letters.alias("first")
    statement = (
        sa.select(groups, first.c.url, first.c.error_message)
        .join(first, sa.and_(first.c.job_id == job_id, first.c.seq == groups.c.first))
        .order_by(groups.c.letters.desc(), groups.c.subject, groups.c.error_type)
    )
    found = (await connection.execute(statement)).all()
    names = LettersOfError.__dataclass_fields__
    most = [LettersOfError(*(record._mapping[name] for name in names)) for record in found]  # noqa: SLF001
    return LetterSummary(found[0].all if found else 0, found[0].errors if found else 0, most)


async def purge_dead_letters(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    letters: LetterFilter = LetterFilter(),  # noqa: B008  (frozen)
) -> int:
    """Deletes a job's dead letters, and takes them off its lanes' counters and its result; returns how many that were.

    What a retry has taken up and not tried yet stays: it is buried again, or gone, when the retry ends. Call it with
    the job's row locked, so that no retry takes a letter up at the same time.
    """
    mine = sa.and_(dead_letters.c.job_id == job_id, fits(letters))
    is_retried = sa.select(jobs.c.retry_id.is_not(None)).where(jobs.c.id == job_id)
    if (await connection.execute(is_retried)).scalar_one_or_none():
        mine = sa.and_(mine, ~taken_up(job_id))
    gone = sa.delete(dead_letters).where(mine).returning(_lane_of_letter().label("lane")).cte("gone")
    found = await connection.execute(sa.select(gone.c.lane, sa.func.count()).group_by(gone.c.lane))
    numbers: dict[str, int] = {record[0]: record[1] for record in found}
    for lane, number in numbers.items():
        await add_progress(connection, job_id, Lane(lane), Counters(dead_letters=-number))
    purged = sum(numbers.values())
    if purged:
        left = jobs.c.result["dead_letters"].as_integer() - purged
        result = jobs.c.result.op("||", return_type=JSONB)(sa.func.jsonb_build_object("dead_letters", left))
        has_number = jobs.c.result.has_key("dead_letters")
        await connection.execute(sa.update(jobs).where(jobs.c.id == job_id, has_number).values(result=result))
    return purged


def _lane_of_letter() -> sa.ColumnElement[str]:
    """The lane that a letter was counted in; a source that fails in the entities lane was extracted before."""
    failed = sa.exists().where(
        entity_tasks.c.job_id == dead_letters.c.job_id,
        entity_tasks.c.source_id == dead_letters.c.subject_id,
        entity_tasks.c.state == "failed",
    )
    return sa.case(
        (dead_letters.c.subject == "page", Lane.COLLECT.value),
        (dead_letters.c.subject == "record", Lane.RECORDS.value),
        (failed.correlate(dead_letters), Lane.ENTITIES.value),
        else_=Lane.EXTRACT.value,
    )


def taken_up(job_id: uuid.UUID) -> sa.ColumnElement[bool]:
    """The condition that a retry has taken a letter up and not tried it yet."""
    # Looked up letter by letter: a list of ids that outgrows `work_mem` would be read through for each of them.
    is_open = sa.exists().where(
        pages.c.id == dead_letters.c.subject_id,
        pages.c.job_id == job_id,
        pages.c.state.in_(("pending", "fetching")),
    )
    is_queued = sa.or_(
        *(
            sa.exists()
            .where(
                tasks.c.job_id == job_id,
                tasks.c.source_id == dead_letters.c.subject_id,
                tasks.c.state.in_(("pending", "claimed")),
            )
            .correlate(dead_letters)
            for tasks in (extraction_tasks, entity_tasks)
        )
    )
    is_asked = sa.exists().where(
        extraction_tasks.c.job_id == job_id,
        extraction_tasks.c.source_id == dead_letters.c.subject_id,
        extraction_tasks.c.record_state.in_(("pending", "claimed")),
    )
    return sa.or_(
        sa.and_(dead_letters.c.subject == "page", is_open.correlate(dead_letters)),
        sa.and_(dead_letters.c.subject == "source", is_queued),
        sa.and_(dead_letters.c.subject == "record", is_asked.correlate(dead_letters)),
    )


async def settle_letters(
    connection: AsyncConnection, job_id: uuid.UUID, subject: Subject, tried: Mapping[uuid.UUID, bool]
) -> None:
    """Removes the letters of what succeeded at last, and counts for the retry at work what became of its letters.

    Call it before `write_dead_letters`, in the same transaction: a letter that is there by then was taken up.

    Args:
        connection: The transaction.
        job_id: The job.
        subject: What was tried.
        tried: The ids of the pages or sources that were tried to the end, each with whether it failed.
    """
    if not tried:
        return
    failed_by_letter = {dead_letter_id(job_id, subject, key): failed for key, failed in tried.items()}
    found = await connection.execute(sa.select(dead_letters.c.id).where(among(dead_letters.c.id, failed_by_letter)))
    retried = list(found.scalars())
    if not retried:
        return
    gone = [letter for letter in retried if not failed_by_letter[letter]]
    await connection.execute(sa.delete(dead_letters).where(among(dead_letters.c.id, gone)))
    sums: dict[str, Any] = {
        "succeeded": retries.c.succeeded + len(gone),
        "failed": retries.c.failed + len(retried) - len(gone),
    }
    at_work = sa.select(jobs.c.retry_id).where(jobs.c.id == job_id).scalar_subquery()
    await connection.execute(sa.update(retries).where(retries.c.id == at_work).values(sums))
