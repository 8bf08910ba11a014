"""Which sources the records lane is to do: queued with the extract lane's, and skipped in batches."""

import uuid
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.tables import dead_letters, extraction_tasks, jobs
from ke.storage.task_locks import locked

OPEN: Final = ("pending", "claimed")
SKIP_BATCH: Final = 10_000
"""Sources that one transaction skips, at most."""


def budget_spent(tokens: int | None) -> str:
    """Why the sources are skipped that a budget of so many tokens does not cover."""
    return f"the budget of {tokens} tokens covers no further call"


def first_record_state(job_id: uuid.UUID) -> sa.ColumnElement[str | None]:
    """The state in which a new task begins: `pending` where the job has a schema, else null."""
    flat, nested = jobs.c.params["schema"], jobs.c.params["extract"]["schema"]
    has_schema = sa.or_(sa.func.json_typeof(flat) == "object", sa.func.json_typeof(nested) == "object")
    state = sa.case((has_schema, sa.literal("pending")), else_=sa.null())
    return sa.select(state).where(jobs.c.id == job_id).scalar_subquery()


async def skip_open_records(
    connection: AsyncConnection, job_id: uuid.UUID, reason: str, *, limit: int = SKIP_BATCH
) -> int:
    """Marks the next sources of which no record was made as skipped, at most `limit`; returns how many.

    Those that have a dead letter, which a retry has taken up, are left to `bury_records`. Called until it returns less
    than `limit`, each time in a transaction of its own.
    """
    tasks = extraction_tasks
    letter = sa.exists().where(
        dead_letters.c.subject_id == tasks.c.source_id,
        dead_letters.c.job_id == job_id,
        dead_letters.c.subject == "record",
    )
    is_open = sa.and_(tasks.c.job_id == job_id, tasks.c.record_state.in_(OPEN))
    some = locked(tasks, is_open, ~letter.correlate(tasks), limit=limit)
    statement = sa.update(tasks).where(tasks.c.job_id == job_id, some)
    skipped = statement.values(record_state="skipped", record_claim=None, record_reason=reason)
    return (await connection.execute(skipped)).rowcount
