"""What a retry of dead letters takes up: queued again before it, first in line during it, and buried again after it.

What is queued is told from what a crawl has newly found by its dead letter, which stays until it has succeeded.
Lanes' counters go with the rows: down when something is queued again, up when it fails again or is buried untried.
"""

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Counters, Lane
from ke.contracts.retries import LetterFilter, Subject
from ke.storage.dead_letters import fits
from ke.storage.frontier import FrontierEntry, claim_pages
from ke.storage.jobs import add_progress
from ke.storage.tables import dead_letters, entity_tasks, extraction_tasks, pages, retries

REQUEUE_BATCH: Final = 5_000
"""Letters that one transaction takes up, or buries: a second or less, far below the statement timeout."""
_OPEN_PAGES: Final = ("pending", "fetching")
_OPEN_TASKS: Final = ("pending", "claimed")


async def requeue_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    retry_id: str,
    letters: LetterFilter,
    *,
    after: int,
    limit: int = REQUEUE_BATCH,
) -> int | None:
    """Puts the pages of the next letters that fit back into the frontier, to be tried as often as a new page.

    Called until it returns None, each time in a transaction of its own that holds the job and the lane.

    Args:
        connection: The transaction.
        job_id: The job.
        retry_id: The retry that takes them up, and counts them.
        letters: Which letters.
        after: The `seq` after which to look.
        limit: Letters at most.

    Returns:
        The `seq` of the last letter looked at, or None when there was none left.
    """
    picked = _pick(job_id, "page", letters, after, limit)
    moved = (
        sa.update(pages)
        .where(pages.c.id.in_(sa.select(picked.c.subject_id)), pages.c.job_id == job_id, pages.c.state == "failed")
        .values(state="pending", attempts=0, claim=None, not_before=None)
        .returning(pages.c.id)
        .cte("moved")
    )
    last, number = await _take_up(connection, retry_id, picked, moved)
    if number:
        delta = Counters(pages_failed=-number, dead_letters=-number)
        await add_progress(connection, job_id, Lane.COLLECT, delta, seeded=True, done=False, note="")
    return last


@dataclass(frozen=True, slots=True)
class _Tasks:
    """The tasks of a lane, and the subject of its letters."""

    table: sa.Table
    subject: Subject = "source"
    prefix: str = ""
    """Of the columns that are the lane's own, where it shares a table."""

    @property
    def state(self) -> sa.Column[Any]:
        """The column that says how far they are."""
        return self.table.c[f"{self.prefix}state"]

    def values(self, state: str, attempts: Any) -> dict[str, Any]:
        """What moves a task into a state, claimed by nobody."""
        return {
            f"{self.prefix}state": state,
            f"{self.prefix}attempts": attempts,
            f"{self.prefix}claim": None,
        }


_TASKS: Final = {
    Lane.EXTRACT: _Tasks(extraction_tasks),
    Lane.ENTITIES: _Tasks(entity_tasks),
    Lane.RECORDS: _Tasks(extraction_tasks, subject="record", prefix="record_"),
}


async def requeue_tasks(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    retry_id: str,
    letters: LetterFilter,
    lane: Lane,
    *,
    after: int,
    limit: int = REQUEUE_BATCH,
) -> int | None:
    """The same for another lane: sources go back to its tasks."""
    tasks = _TASKS[lane]
    picked = _pick(job_id, tasks.subject, letters, after, limit)
    columns = tasks.table.c
    moved = (
        sa.update(tasks.table)
        .where(
            columns.job_id == job_id,
            columns.source_id.in_(sa.select(picked.c.subject_id)),
            tasks.state == "failed",
        )
        .values(tasks.values("pending", 0))
        .returning(columns.source_id)
        .cte("moved")
    )
    last, number = await _take_up(connection, retry_id, picked, moved)
    if number:
        await add_progress(connection, job_id, lane, Counters(dead_letters=-number), seeded=True, done=False, note="")
    return last


def _pick(job_id: uuid.UUID, subject: Subject, letters: LetterFilter, after: int, limit: int) -> sa.CTE:
    return (
        sa.select(dead_letters.c.seq, dead_letters.c.subject_id)
        .where(
            dead_letters.c.job_id == job_id,
            dead_letters.c.subject == subject,
            dead_letters.c.seq > after,
            fits(letters),
        )
        .order_by(dead_letters.c.seq)
        .limit(limit)
        .cte("picked")
    )


async def _take_up(connection: AsyncConnection, retry_id: str, picked: sa.CTE, moved: sa.CTE) -> tuple[int | None, int]:
    """The `seq` of the last letter that was picked, and how many of their subjects were moved: these are counted."""
    last = sa.select(sa.func.max(picked.c.seq)).scalar_subquery()
    number = sa.select(sa.func.count()).select_from(moved).scalar_subquery()
    record = (await connection.execute(sa.select(last, number))).one()
    if record[1]:
        counted = sa.update(retries).where(retries.c.id == retry_id)
        await connection.execute(counted.values(letters=retries.c.letters + record[1]))
    return record[0], int(record[1])


# While it runs


def lettered(job_id: uuid.UUID) -> sa.ColumnElement[bool]:
    """The condition that a page has a dead letter: that it is one of those that were taken up."""
    # Looked up page by page: a list of ids that outgrows `work_mem` would be read through for each page that has none.
    letter = sa.exists().where(
        dead_letters.c.subject_id == pages.c.id, dead_letters.c.job_id == job_id, dead_letters.c.subject == "page"
    )
    return letter.correlate(pages)


async def claim_letters_first(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    claim: uuid.UUID,
    *,
    limit: int,
    pages_left: int,
    room: Callable[[str], int] | None = None,
) -> list[FrontierEntry]:
    """Takes due pages that had failed, and others only as far as those that wait for their turn leave room.

    Args:
        connection: The transaction.
        job_id: The job.
        claim: Of the slice that fetches them.
        limit: Pages at most.
        pages_left: What the job's page limit allows, what is under way counted.
        room: How many pages of a `host:port` there is room for.
    """
    of_host = room or (lambda _: limit)
    claimed = await claim_pages(connection, job_id, claim, limit=limit, room=of_host, only=lettered(job_id))
    if len(claimed) >= limit:
        return claimed
    waiting = sa.select(sa.func.count()).where(pages.c.job_id == job_id, pages.c.state == "pending", lettered(job_id))
    reserved = int((await connection.execute(waiting)).scalar_one())
    left = min(limit, pages_left - reserved) - len(claimed)
    if left > 0:
        taken = Counter(entry.host for entry in claimed)
        claimed += await claim_pages(
            connection,
            job_id,
            claim,
            limit=left,
            room=lambda host: of_host(host) - taken[host],
            only=~lettered(job_id),
        )
    return claimed


# After it


async def bury_pages(connection: AsyncConnection, job_id: uuid.UUID, limit: int = REQUEUE_BATCH) -> int:
    """Gives pages that were taken up and not tried back to their letters, at most `limit`; returns how many.

    Called until it returns 0, each time in a transaction of its own that holds the job.
    """
    untried = (
        sa.select(pages.c.id, dead_letters.c.attempts)
        .join_from(pages, dead_letters, dead_letters.c.subject_id == pages.c.id)
        .where(
            pages.c.job_id == job_id,
            pages.c.state.in_(_OPEN_PAGES),
            dead_letters.c.job_id == job_id,
            dead_letters.c.subject == "page",
        )
        .limit(limit)
        .subquery("untried")
    )
    statement = (
        sa.update(pages)
        .where(pages.c.id == untried.c.id)
        .values(state="failed", claim=None, not_before=None, attempts=untried.c.attempts)
    )
    number = (await connection.execute(statement)).rowcount
    if number:
        await add_progress(connection, job_id, Lane.COLLECT, Counters(pages_failed=number, dead_letters=number))
    return number


async def bury_sources(connection: AsyncConnection, job_id: uuid.UUID, limit: int = REQUEUE_BATCH) -> int:
    """The same for sources that were not extracted."""
    return await _bury_tasks(connection, job_id, Lane.EXTRACT, limit)


async def bury_entities(connection: AsyncConnection, job_id: uuid.UUID, limit: int = REQUEUE_BATCH) -> int:
    """The same for sources whose entities were not looked for."""
    return await _bury_tasks(connection, job_id, Lane.ENTITIES, limit)


async def bury_records(connection: AsyncConnection, job_id: uuid.UUID, limit: int = REQUEUE_BATCH) -> int:
    """The same for sources of which no record was made."""
    return await _bury_tasks(connection, job_id, Lane.RECORDS, limit)


async def _bury_tasks(connection: AsyncConnection, job_id: uuid.UUID, lane: Lane, limit: int) -> int:
    tasks = _TASKS[lane]
    columns = tasks.table.c
    untried = (
        sa.select(columns.source_id, dead_letters.c.attempts)
        .join_from(tasks.table, dead_letters, dead_letters.c.subject_id == columns.source_id)
        .where(
            columns.job_id == job_id,
            tasks.state.in_(_OPEN_TASKS),
            dead_letters.c.job_id == job_id,
            dead_letters.c.subject == tasks.subject,
        )
        .order_by(columns.seq)
        .limit(limit)
        .with_for_update(of=tasks.table)  # in the order of `ke.storage.task_locks`
        .subquery("untried")
    )
    statement = (
        sa.update(tasks.table)
        .where(columns.job_id == job_id, columns.source_id == untried.c.source_id)
        .values(tasks.values("failed", untried.c.attempts))
    )
    number = (await connection.execute(statement)).rowcount
    if number:
        await add_progress(connection, job_id, lane, Counters(dead_letters=number))
    return number
