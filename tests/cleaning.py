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
from ke.storage.cleanups import get_receipt
from tests.seeding import Seeded
from tests.stores import Stores

STEPS = ("begin_cleanup", "delete_vectors", "delete_sources", "purge_dead_letters", "verify_cleanup")


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
) -> Any:
    """One activity of the cleanup, in a run of that name."""
    environment = ActivityEnvironment()
    environment.info = replace(environment.info, workflow_run_id=run_id)
    activities = activities or CleanupActivities(stores.database, stores.vectors)
    return await environment.run(getattr(activities, step), CleanupInput(str(job.id), delete_record))


async def clean(stores: Stores, job: Seeded, **options: Any) -> CleanupReceipt:
    """All steps, once each."""
    for step in STEPS:
        await run_step(stores, job, step, **options)
    return await receipt_of(stores, job)


async def receipt_of(stores: Stores, job: Seeded) -> CleanupReceipt:
    """The receipt as the gateway reads it."""
    async with stores.database.transaction() as connection:
        return await get_receipt(connection, job.cleanup_id)


async def job_column(stores: Stores, job_id: uuid.UUID, name: str) -> Any:
    """A column of the job's row."""
    async with stores.database.transaction() as connection:
        return (await connection.execute(sa.text(f"SELECT {name} FROM jobs WHERE id = :id"), {"id": job_id})).scalar()
