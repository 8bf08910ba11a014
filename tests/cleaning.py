"""Runs the steps of a cleanup without Temporal, one by one or all, whole or up to a crash."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from temporalio.testing import ActivityEnvironment

from activities.cleanup import CleanupActivities
from ke.contracts.cleanup import CleanupInput, CleanupReceipt
from ke.contracts.naming import source_cleanup_id
from ke.storage.cleanups import get_receipt
from tests.seeding import Seeded
from tests.stores import Stores

STEPS = ("begin_cleanup", "delete_sources", "purge_dead_letters", "verify_cleanup")
SOURCE_STEPS = ("begin_cleanup", "purge_dead_letters", "delete_sources", "verify_cleanup")
"""Of a source: what names it in the frontier is found by its row, and goes before it."""


class Crash(Exception):
    """The worker is dead from here on."""


@dataclass
class Tripwire:
    """Crashes at the n-th boundary that is passed; at none with 0."""

    at: int = 0
    passed: list[str] = field(default_factory=list)

    def tick(self, boundary: str) -> None:
        self.passed.append(boundary)
        if len(self.passed) == self.at:
            raise Crash(boundary)


class BrittleVectors:
    """A vector store after each of whose writes the worker may crash."""

    def __init__(self, stores: Stores, wire: Tripwire) -> None:
        self._vectors = stores.vectors
        self._wire = wire

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._vectors, name)
        if name not in {"fence", "delete"}:
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await method(*args, **kwargs)
            self._wire.tick(f"after {name}")
            return result

        return call


class BrittleDatabase:
    """A database at each of whose commits of a write the worker may crash, before it or after it."""

    def __init__(self, stores: Stores, wire: Tripwire) -> None:
        self._database = stores.database
        self._wire = wire

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Any]:
        async with self._database.transaction() as connection:
            yield connection
            wrote = (await connection.execute(sa.text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL"))).scalar()
            if wrote:
                self._wire.tick("before a commit")
        if wrote:
            self._wire.tick("after a commit")


async def run_step(
    stores: Stores,
    job: Seeded,
    step: str,
    *,
    run_id: str = "run-1",
    delete_record: bool = False,
    activities: Any = None,
    source: uuid.UUID | None = None,
    replaced_by: uuid.UUID | None = None,
) -> Any:
    """One activity of the cleanup of a job, or of one source of it, in a run of that name."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id=run_id)
    activities = activities or CleanupActivities(stores.database, stores.vectors)
    target = CleanupInput(
        str(job.id),
        delete_record,
        str(source) if source is not None else None,
        replaced_by=str(replaced_by) if replaced_by is not None else None,
    )
    return await environment.run(getattr(activities, step), target)


async def clean(stores: Stores, job: Seeded, **options: Any) -> CleanupReceipt:
    """All steps, once each."""
    for step in STEPS:
        await run_step(stores, job, step, **options)
    return await receipt_of(stores, job)


async def forget(stores: Stores, job: Seeded, source: uuid.UUID, **options: Any) -> CleanupReceipt:
    """All steps of the cleanup of a source, once each."""
    for step in SOURCE_STEPS:
        await run_step(stores, job, step, source=source, **options)
    return await source_receipt(stores, source)


async def source_receipt(stores: Stores, source: uuid.UUID) -> CleanupReceipt:
    """The receipt of a source's cleanup."""
    async with stores.database.transaction() as connection:
        return await get_receipt(connection, source_cleanup_id(str(source)))


async def receipt_of(stores: Stores, job: Seeded) -> CleanupReceipt:
    """The receipt as the gateway reads it."""
    async with stores.database.transaction() as connection:
        return await get_receipt(connection, job.cleanup_id)


async def job_column(stores: Stores, job_id: uuid.UUID, name: str) -> Any:
    """A column of the job's row."""
    async with stores.database.transaction() as connection:
        return (await connection.execute(sa.text(f"SELECT {name} FROM jobs WHERE id = :id"), {"id": job_id})).scalar()
