"""A very large finished job, written straight into the stores of a running stack."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import numpy as np
import orjson

from ke.contracts.ids import dead_letter_id, entity_id, extraction_id, page_id, source_id
from ke.contracts.jobs import COUNTER_NAMES
from ke.contracts.naming import job_workflow_id
from ke.extraction.embed import find_embedder
from ke.storage.vectors.base import MAX_BATCH, Point, VectorStore

CONTENT_HASH = b"\x02" * 32
TEXT = "The tower was lit for the first time in the autumn, and the keepers wrote down what they saw. " * 20
CHUNK = TEXT[:600]


@dataclass(frozen=True)
class Size:
    """How much the job has."""

    sources: int = 10_000
    chunks_each: int = 10
    entities_each: int = 3
    dead_letters: int = 100

    @property
    def counts(self) -> dict[str, int]:
        """What a receipt must say was deleted."""
        extractions = self.sources * self.chunks_each
        return {
            "vectors": extractions,
            "sources": self.sources,
            "extractions": extractions,
            "entities": extractions * self.entities_each,
            "dead_letters": self.dead_letters,
            "pages": self.sources,
            "records": 0,
        }


async def seed(database_url: str, vectors: VectorStore, size: Size) -> uuid.UUID:
    """Writes a completed crawl of this size; returns its id."""
    job = uuid.uuid4()
    embedder = find_embedder("wordllama")
    owned = [source_id(job, url) for url in _urls(size)]
    made = [
        (extraction_id(job, source, CONTENT_HASH, chunk, embedder.name), source, chunk)
        for source in owned
        for chunk in range(size.chunks_each)
    ]
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await _write_job(connection, job, size)
            await _copy(connection, "sources", _sources(job, owned))
            await _copy(connection, "pages", _pages(job, size))
            await _copy(connection, "dead_letters", _letters(job, size))
            await _copy(
                connection, "extraction_tasks", ({"job_id": job, "source_id": key, "state": "done"} for key in owned)
            )
            await _copy(connection, "extractions", _extractions(job, made, embedder.name, embedder.collection))
            await _copy(connection, "entities", _entities(job, made, size))
        await connection.execute("ANALYZE")
    finally:
        await connection.close()
    await vectors.ensure_collection(embedder.collection, embedder.dimensions)
    random = np.random.default_rng(1)
    for first in range(0, len(made), MAX_BATCH):
        batch = made[first : first + MAX_BATCH]
        rows = random.standard_normal((len(batch), embedder.dimensions)).astype(np.float32)
        points = [Point(key, row.tolist(), job, job, source) for (key, source, _), row in zip(batch, rows, strict=True)]
        await vectors.upsert(embedder.collection, points, epochs={job: 1})
    return job


def _urls(size: Size) -> Iterator[str]:
    return (f"https://bulk.example/{number}" for number in range(size.sources))


async def _copy(connection: asyncpg.Connection, table: str, rows: Iterable[dict[str, Any]]) -> None:
    values = iter(rows)
    first = next(values, None)
    if first is None:
        return

    def records() -> Iterator[tuple[Any, ...]]:
        yield tuple(first.values())
        for row in values:
            yield tuple(row.values())

    await connection.copy_records_to_table(table, records=records(), columns=list(first))


async def _write_job(connection: asyncpg.Connection, job: uuid.UUID, size: Size) -> None:
    now = datetime.now(UTC)
    result = {**dict.fromkeys(COUNTER_NAMES, 0), "elapsed_s": 1.0, "sources": size.sources}
    await connection.execute(
        "INSERT INTO jobs (id, request_hash, kind, status, project, params, result, workflow_id, created_at,"
        " started_at, completed_at) VALUES ($1, 'bulk', 'crawl', 'completed', 'default', $2, $3, $4, $5, $5, $5)",
        job,
        orjson.dumps({"seeds": ["https://bulk.example/"]}).decode(),
        orjson.dumps(result).decode(),
        job_workflow_id(str(job)),
        now,
    )
    await connection.execute(
        "INSERT INTO job_progress (job_id, lane, seeded, done)"
        " VALUES ($1, 'collect', true, true), ($1, 'extract', true, true)",
        job,
    )


def _sources(job: uuid.UUID, owned: Sequence[uuid.UUID]) -> Iterator[dict[str, Any]]:
    for number, key in enumerate(owned):
        yield {
            "id": key,
            "job_id": job,
            "url": f"https://bulk.example/{number}",
            "title": f"Page {number}",
            "text": TEXT,
            "content_type": "text/html",
            "content_hash": CONTENT_HASH,
            "bytes": len(TEXT),
            "fetched_at": datetime.now(UTC),
        }


def _pages(job: uuid.UUID, size: Size) -> Iterator[dict[str, Any]]:
    for url in _urls(size):
        yield {"id": page_id(job, url), "job_id": job, "url": url, "depth": 1, "state": "fetched"}


def _letters(job: uuid.UUID, size: Size) -> Iterator[dict[str, Any]]:
    for number in range(size.dead_letters):
        url = f"https://bulk.example/broken/{number}"
        subject = page_id(job, url)
        yield {
            "id": dead_letter_id(job, "page", subject),
            "job_id": job,
            "subject": "page",
            "subject_id": subject,
            "url": url,
            "error_type": "http-500",
            "error_message": "The server failed.",
            "attempts": 4,
            "first_failed_at": datetime.now(UTC),
            "last_failed_at": datetime.now(UTC),
        }


def _extractions(
    job: uuid.UUID, made: Sequence[tuple[uuid.UUID, uuid.UUID, int]], embedder: str, collection: str
) -> Iterator[dict[str, Any]]:
    for key, source, chunk in made:
        yield {
            "id": key,
            "job_id": job,
            "owner_job_id": job,
            "source_id": source,
            "chunk_number": chunk,
            "text": CHUNK,
            "start": 0,
            "end": len(CHUNK),
            "tokens": 130,
            "embedder": embedder,
            "collection": collection,
            "epoch": 1,
            "state": "ready",
        }


def _entities(job: uuid.UUID, made: Sequence[tuple[uuid.UUID, uuid.UUID, int]], size: Size) -> Iterator[dict[str, Any]]:
    for key, _, _ in made:
        for number in range(size.entities_each):
            start = number * 10
            yield {
                "id": entity_id(key, start, start + 5, "DATE"),
                "job_id": job,
                "extraction_id": key,
                "text": "tower",
                "label": "DATE",
                "start": start,
                "end": start + 5,
            }
