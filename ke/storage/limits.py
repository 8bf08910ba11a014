"""Which of its limits cut a job short."""

from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Counters
from ke.storage.jobs import JobRow
from ke.storage.record_queue import budget_spent
from ke.storage.tables import extraction_tasks, pages

_OF_PAGES: Final = ("max_pages", "max_bytes", "max_seconds")
"""Limits by which pages are left, with themselves as the reason."""


async def limits_reached(connection: AsyncConnection, row: JobRow, counters: Counters) -> list[str]:
    """The names of the limits that left something undone, as they stand in the parameters; mostly there are none.

    Args:
        connection: The transaction.
        row: The job.
        counters: What it has made.
    """
    found = await _of_pages(connection, row) if counters.pages_skipped else []
    budget = (row.params.get("extract") or row.params).get("max_tokens")
    if budget is not None and counters.records_skipped and await _is_spent(connection, row, budget):
        found.append("max_tokens")
    return found


async def _of_pages(connection: AsyncConnection, row: JobRow) -> list[str]:
    reasons = (
        sa.select(pages.c.reason)
        .where(pages.c.job_id == row.id, pages.c.state == "skipped", pages.c.reason.in_(_OF_PAGES))
        .distinct()
    )
    found = set((await connection.execute(reasons)).scalars())
    return [name for name in _OF_PAGES if name in found]


async def _is_spent(connection: AsyncConnection, row: JobRow, budget: int) -> bool:
    """Whether a source was left out because of the budget of tokens."""
    tasks = extraction_tasks.c
    one = sa.exists().where(
        tasks.job_id == row.id, tasks.record_state == "skipped", tasks.record_reason == budget_spent(budget)
    )
    return bool((await connection.execute(sa.select(one))).scalar_one())
