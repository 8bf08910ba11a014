"""Bulk writes against bare COPY, and a cleanup against the bare cascade."""

import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, cast

import asyncpg

from activities.extract import COMMIT_CHUNKS
from ke.contracts.jobs import JobStatus, Lane
from ke.runtime.embedded.postgres import temporary_postgres
from ke.storage.database import Database, migrate
from ke.storage.extracting import (
    ClaimedSource,
    NewExtraction,
    StoredPiece,
    finish_pieces,
    new_extraction_id,
    write_extractions,
)
from ke.storage.jobs import take_lease
from ke.storage.vectors.base import Point, VectorStore
from ke.storage.vectors.edge import EdgeVectors
from tests.bench.figures import Figure, Goal
from tests.bench.lab import Lab, a_stack
from tests.faults.bulk import CHUNK, CONTENT_HASH, Size, seed
from tests.faults.measures import say
from tests.seeding import seed_crawl

CHUNKS = (25_600, 1_280)
CHUNK_COLUMNS = (
    *("id", "job_id", "owner_job_id", "source_id", "chunk_number", "text", "heading", "start", "end", "tokens"),
    *("embedder", "collection", "epoch", "state"),
)
CLEANED = (Size(sources=1_000, chunks_each=100), Size(sources=40, chunks_each=10))
CLEANUP_TIMEOUT_S = 600.0
EPOCH = 1
CLAIM = uuid.uuid4()
_RUNNING = JobStatus.RUNNING


class NoVectors:
    """Takes points and forgets them: for rows alone."""

    async def ensure_collection(self, collection: str, dimensions: int) -> None:
        """Nothing."""

    async def upsert(self, collection: str, points: Sequence[Point], *, epochs: Mapping[uuid.UUID, int]) -> None:
        """Nothing."""


NO_VECTORS = cast(VectorStore, NoVectors())


async def writes(lab: Lab) -> AsyncIterator[Figure]:
    """Chunks as the extract lane writes them, `pending` and then `ready`, repeatable, against bare COPY: rows/s."""
    ours: list[float] = []
    theirs: list[float] = []
    async with temporary_postgres() as url:
        await migrate(url)
        database = Database(url)
        connection = await asyncpg.connect(url)
        try:
            owner = await seed_crawl(database, NO_VECTORS, n_sources=1, chunks_each=0, status=_RUNNING)
            source = ClaimedSource(owner.sources[0], owner.id, EPOCH, "https://bulk.example/", None, "", CONTENT_HASH)
            async with database.transaction() as taking:
                await take_lease(taking, owner.id, Lane.EXTRACT, CLAIM)
            batches = _batches(owner.id, source, lab.options.size(*CHUNKS))
            rows = sum(map(len, batches))
            for number in range(lab.options.runs):
                ours.append(rows / await _written_s(database, owner.id, source, batches))
                await _check_repeatable(database, connection, owner.id, source, batches, rows)
                await connection.execute("TRUNCATE extractions CASCADE")
                theirs.append(rows / await _copied_s(connection, owner.id, batches))
                await connection.execute("TRUNCATE extractions CASCADE")
                say(f"  run {number + 1}: {ours[-1]:,.0f} rows/s, COPY {theirs[-1]:,.0f} rows/s")
        finally:
            await connection.close()
            await database.close()
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    note = f"{median(ours):,.0f} against {median(theirs):,.0f} rows/s, {COMMIT_CHUNKS} chunks in a transaction"
    yield Figure("writes", Goal.least(0.6), ratios, note)


def _batches(job: uuid.UUID, source: ClaimedSource, number: int) -> list[list[NewExtraction]]:
    made = [
        NewExtraction(
            id=new_extraction_id(job, source, chunk, "wordllama"),
            source=source,
            chunk_number=chunk,
            text=CHUNK,
            heading="",
            start=0,
            end=len(CHUNK),
            tokens=130,
        )
        for chunk in range(number)
    ]
    return [made[first : first + COMMIT_CHUNKS] for first in range(0, number, COMMIT_CHUNKS)]


async def _written_s(
    database: Database, job: uuid.UUID, source: ClaimedSource, batches: Sequence[Sequence[NewExtraction]]
) -> float:
    began = time.monotonic()
    for batch in batches:
        async with database.transaction() as connection:
            await write_extractions(
                connection, job, EPOCH, [source], batch, embedder="wordllama", collection="wordllama-256"
            )
        piece = StoredPiece(source, batch, is_last=False)
        async with database.transaction() as connection:
            await finish_pieces(connection, job, EPOCH, CLAIM, [piece], find_entities=False)
    return time.monotonic() - began


async def _check_repeatable(
    database: Database,
    connection: asyncpg.Connection,
    job: uuid.UUID,
    source: ClaimedSource,
    batches: Sequence[Sequence[NewExtraction]],
    rows: int,
) -> None:
    """A bulk write that is repeated changes nothing: a COPY would fail."""
    await _written_s(database, job, source, batches[:3])
    found = await connection.fetchval("SELECT count(*) FROM extractions WHERE state = 'ready'")
    assert found == rows, f"{found} rows after a repeated write, not {rows}"


async def _copied_s(
    connection: asyncpg.Connection, job: uuid.UUID, batches: Sequence[Sequence[NewExtraction]]
) -> float:
    """Seconds of the same rows by COPY, `ready` at once, from tuples that are there, in a transaction a batch."""
    ready = [[_chunk_values(job, chunk) for chunk in batch] for batch in batches]
    began = time.monotonic()
    for chunks in ready:
        async with connection.transaction():
            await connection.copy_records_to_table("extractions", records=chunks, columns=CHUNK_COLUMNS)
    return time.monotonic() - began


def _chunk_values(job: uuid.UUID, made: NewExtraction) -> tuple[Any, ...]:
    place = (made.id, job, job, made.source.id, made.chunk_number)
    return (
        *place,
        made.text,
        made.heading,
        made.start,
        made.end,
        made.tokens,
        "wordllama",
        "wordllama-256",
        EPOCH,
        "ready",
    )


async def cleanup(lab: Lab) -> AsyncIterator[Figure]:
    """A job's cleanup, its points included, against the bare indexed cascade of its rows: seconds."""
    size = CLEANED[lab.options.quick]
    ours: list[float] = []
    theirs: list[float] = []
    async with a_stack() as stack, stack.client() as client:
        url = stack.endpoints["database"]
        vectors = EdgeVectors(Path(stack.endpoints["vectors"]))
        connection = await asyncpg.connect(url)
        try:
            for number in range(lab.options.runs):
                bare = await seed(url, NO_VECTORS, size)
                say(f"  run {number + 1}: seeded the rows for the cascade; seeding the job")
                job = await seed(url, vectors, size)
                await _settle(connection)
                began = time.monotonic()
                await connection.execute("DELETE FROM sources WHERE job_id = $1", bare)
                theirs.append(time.monotonic() - began)
                await _settle(connection)
                started = time.time()
                receipt = await client.cleanup_job(str(job))
                while receipt["status"] == "running" and time.time() < started + CLEANUP_TIMEOUT_S:
                    receipt = await client.cleanup_job(str(job), wait_s=30)
                assert receipt["status"] == "cleaned", receipt
                assert receipt["deleted"] == size.counts, receipt
                assert receipt["completed_at"] is not None
                ours.append(datetime.fromisoformat(receipt["completed_at"]).timestamp() - started)
                say(f"  run {number + 1}: cleanup {ours[-1]:.2f} s, cascade {theirs[-1]:.2f} s")
        finally:
            await connection.close()
            await vectors.close()
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    yield Figure("cleanup", Goal.most(2.0), ratios, f"{median(ours):.2f} against {median(theirs):.2f} s")


async def _settle(connection: asyncpg.Connection) -> None:
    """Brings the tables into the state in which autovacuum would leave them: what was just written is read slowly."""
    await connection.execute("VACUUM (ANALYZE)")
    await connection.execute("CHECKPOINT")
