"""A job whose records lane runs slice by slice, without Temporal, on a real Postgres and a real process pool."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from temporalio.testing import ActivityEnvironment

from activities.records import StructuredActivities
from ke.contracts.activities import CloseJob, StructuredSlice
from ke.contracts.jobs import CollectSpec, Counters, ExtractSpec, JobInput, JobKind, Lane
from ke.extraction.chat import ChatClient
from ke.runtime.pool import CpuPool
from ke.storage import extract_queue
from ke.storage.closing import end_job
from ke.storage.database import Database
from ke.storage.jobs import add_progress, lane_progress, open_job
from ke.storage.tables import extraction_tasks, records, sources
from tests.llm_server import LlmServer, Reply
from tests.seeding import sources_of

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["name"],
    "additionalProperties": False,
}
GOOD = Reply('{"name": "Bell Rock", "year": 1810}')
WRONG = Reply('{"name": 7}')


class Lanes:
    """An extract job of some sources, and slices of its records lane."""

    def __init__(self, database: Database, pool: CpuPool, piece: StructuredSlice, keys: list[uuid.UUID]) -> None:
        self.database = database
        self.pool = pool
        self.piece = piece
        self.sources = keys
        self.id = uuid.UUID(piece.job_id)

    @asynccontextmanager
    async def at(self, llm: LlmServer, **options: Any) -> AsyncIterator[Callable[..., Any]]:
        """A worker that knows this endpoint; gives what runs a slice on it."""
        async with ChatClient(llm.endpoint(**options)) as client:
            lane = StructuredActivities(self.database, self.pool, client)

            async def run(environment: ActivityEnvironment | None = None, **changes: Any) -> Any:
                piece = replace(self.piece, **changes)
                return await (environment or ActivityEnvironment()).run(lane.extract_records, piece)

            yield run

    async def run(self, llm: LlmServer, **options: Any) -> Any:
        """One slice."""
        async with self.at(llm, **options) as run:
            return await run()

    async def data(self) -> list[Any]:
        return [row.data for row in await self.rows(records)]

    async def rows(self, table: sa.Table) -> list[Any]:
        async with self.database.transaction() as connection:
            found = await connection.execute(sa.select(table).where(table.c.job_id == self.id).order_by(table.c.seq))
            return list(found)

    async def states(self) -> list[str]:
        return [row.record_state for row in await self.rows(extraction_tasks)]

    async def progress(self) -> Any:
        async with self.database.transaction() as connection:
            return await lane_progress(connection, self.id, Lane.RECORDS)


async def a_job(database: Database, pool: CpuPool, texts: list[str], **options: Any) -> Lanes:
    """An ended crawl that owns these texts, and an open job that is to make records of them."""
    spec = CollectSpec(("https://site.example/",), follow=True)
    crawl = JobInput(str(uuid.uuid4()), JobKind.CRAWL, datetime.now(UTC).isoformat(), collect=spec)
    owner = uuid.UUID(crawl.job_id)
    values = sources_of(owner, texts)
    extract = ExtractSpec(source_job_id=crawl.job_id, **{"schema": SCHEMA, **options})
    job = JobInput(str(uuid.uuid4()), JobKind.EXTRACT, datetime.now(UTC).isoformat(), extract=extract)
    async with database.transaction() as connection:
        await open_job(connection, crawl, "run")
        await connection.execute(insert(sources), values)
    await end_job(database, CloseJob(crawl.job_id))
    async with database.transaction() as connection:
        row = await open_job(connection, job, "run")
        await extract_queue.select_sources(connection, row.id, extract)
        await add_progress(connection, row.id, Lane.EXTRACT, Counters(), seeded=True)
    keys = [value["id"] for value in values]
    return Lanes(database, pool, StructuredSlice(job.job_id, row.write_epoch, collecting=False), keys)
