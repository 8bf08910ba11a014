"""What a job has made, counted from its rows: exactly, and in pieces, as a statement has a minute."""

import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Counters
from ke.storage.tables import (
    dead_letters,
    entities,
    entity_tasks,
    extraction_tasks,
    extractions,
    job_progress,
    pages,
    records,
    sources,
)

COUNT_PIECE: Final = 100_000
"""Rows of a table that one statement counts."""
_TABLES: Final = {table.name: table for table in (pages, sources, extractions, entities, records, dead_letters)}
_TASKS: Final = {
    "extract": extraction_tasks.c.state,
    "entities": entity_tasks.c.state,
    "records": extraction_tasks.c.record_state,
}
"""The state of a source in each lane that does sources."""
_CHANGED: Final = "changed "
"""What the state of a page begins with that was crawled again and had another document."""
_SPENT: Final = ("tokens_in", "tokens_out", "cost_micros")


@dataclass(frozen=True, slots=True)
class _Tally:
    """Rows of one state."""

    number: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class JobCount:
    """What a job's rows tell."""

    counters: Counters
    has_failures: bool
    """Whether a page or a source failed for good. Its dead letter may have been purged since."""
    pages_changed: int
    """Of a re-crawl: fetched pages and duplicates that had another document."""

    @property
    def pages_new(self) -> int:
        """Of a re-crawl: those that had none."""
        return self.counters.pages_fetched + self.counters.pages_duplicate - self.pages_changed


async def count_job(
    connection: AsyncConnection, job_id: uuid.UUID, progress: Callable[[], None] = lambda: None
) -> JobCount:
    """Counts the job's rows, exactly."""
    rows = await _count_rows(connection, job_id, progress)
    tasks, spent = await _count_tasks(connection, job_id)
    page, chunk = rows["pages"], rows["extractions"]
    none = _Tally()

    def total(table: sa.Table) -> int:
        return sum(part.number for part in rows[table.name].values())

    changed = {name: page.get(f"{_CHANGED}{name}", none).number for name in ("fetched", "duplicate")}
    counters = Counters(
        pages_fetched=page.get("fetched", none).number + changed["fetched"],
        pages_failed=page.get("failed", none).number,
        pages_skipped=page.get("skipped", none).number,
        pages_duplicate=page.get("duplicate", none).number + changed["duplicate"],
        pages_unchanged=page.get("unchanged", none).number,
        pages_gone=page.get("gone", none).number,
        sources=total(sources),
        sources_extracted=tasks["extract"]["done"],
        sources_skipped=tasks["extract"]["skipped"],
        extractions=total(extractions),
        entities=total(entities),
        entity_sources=tasks["entities"]["done"],
        entity_sources_skipped=tasks["entities"]["skipped"],
        vectors=chunk.get("ready", none).number,
        dead_letters=total(dead_letters),
        bytes=sum(part.bytes for part in page.values()),
        records=total(records),
        records_skipped=tasks["records"]["skipped"],
        **spent,
    )
    has_failures = bool(counters.pages_failed or any(states["failed"] for states in tasks.values()))
    return JobCount(counters, has_failures, sum(changed.values()))


async def _count_rows(
    connection: AsyncConnection, job_id: uuid.UUID, progress: Callable[[], None]
) -> Mapping[str, dict[str, _Tally]]:
    """Counts the rows of each table by their state, "" where it has none: a small job's in one statement."""
    found: dict[str, dict[str, _Tally]] = defaultdict(dict)
    after = dict.fromkeys(_TABLES, 0)
    while after:
        values = {"job": job_id, "most": COUNT_PIECE} | {_after(name): seq for name, seq in after.items()}
        numbers: Counter[str] = Counter()
        for name, state, number, size, last in await connection.execute(_pieces(tuple(after)), values):
            before = found[name].get(state, _Tally())
            found[name][state] = _Tally(before.number + number, before.bytes + int(size))
            numbers[name] += number
            after[name] = max(after[name], last)
        after = {name: seq for name, seq in after.items() if numbers[name] >= COUNT_PIECE}
        progress()
    return found


@cache
def _pieces(names: tuple[str, ...]) -> sa.Executable:
    """Counts the next rows of these tables by their state, along the index on job and `seq`."""
    return sa.union_all(*(_piece(_TABLES[name]) for name in names))


def _piece(table: sa.Table) -> sa.Select[tuple[str, str, int, int, int]]:
    piece = (
        sa.select(
            table.c.seq,
            _state_of(table).label("state"),
            (table.c.bytes if table is pages else sa.literal_column("0", sa.Integer)).label("bytes"),
        )
        .where(table.c.job_id == sa.bindparam("job"), table.c.seq > sa.bindparam(_after(table.name)))
        .order_by(table.c.seq)
        .limit(sa.bindparam("most"))
        .subquery()
    )
    return sa.select(
        sa.literal_column(f"'{table.name}'", sa.Text),
        piece.c.state,
        sa.func.count(),
        sa.func.coalesce(sa.func.sum(piece.c.bytes), 0),
        sa.func.max(piece.c.seq),
    ).group_by(piece.c.state)


def _state_of(table: sa.Table) -> sa.ColumnElement[str]:
    if table is pages:
        has_changed = pages.c.state.in_(("fetched", "duplicate")) & pages.c.previous_source_id.is_not(None)
        return sa.case((has_changed, sa.literal_column(f"'{_CHANGED}'", sa.Text) + pages.c.state), else_=pages.c.state)
    return table.c.state if "state" in table.c else sa.literal_column("''", sa.Text)


def _after(name: str) -> str:
    return f"after_{name}"


async def _count_tasks(
    connection: AsyncConnection, job_id: uuid.UUID
) -> tuple[Mapping[str, Counter[str]], dict[str, int]]:
    """Counts the sources of each lane by their state, which an index has, and adds up what calls have cost.

    No row tells the latter, as failed calls cost too, so the lanes' own sums are taken.
    """
    tasks: dict[str, Counter[str]] = {lane: Counter() for lane in _TASKS}
    spent = dict.fromkeys(_SPENT, 0)
    for lane, what, number in await connection.execute(_STATES, {"job": job_id}):
        if lane is None:
            spent[what] = number
        else:
            tasks[lane][what or ""] = number
    return tasks, spent


def _states() -> sa.Executable:
    job: sa.BindParameter[uuid.UUID] = sa.bindparam("job")
    by_state = (
        sa.select(sa.literal_column(f"'{lane}'", sa.Text), state, sa.func.count())
        .where(state.table.c.job_id == job)
        .group_by(state)
        for lane, state in _TASKS.items()
    )
    sums = (
        sa.select(
            sa.literal_column("NULL", sa.Text),
            sa.literal_column(f"'{name}'", sa.Text),
            sa.cast(sa.func.coalesce(sa.func.sum(job_progress.c[name]), 0), sa.BigInteger),
        ).where(job_progress.c.job_id == job)
        for name in _SPENT
    )
    return sa.union_all(*by_state, *sums)


_STATES: Final = _states()
