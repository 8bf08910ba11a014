"""Jobs with sources, chunks, entities and points, written fast and straight into the stores."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import StoreCounts
from ke.contracts.ids import dead_letter_id, entity_id, extraction_id, page_id, record_id, source_id
from ke.contracts.jobs import ACTIVE, COUNTER_NAMES, JobKind, JobStatus, Lane
from ke.contracts.naming import job_workflow_id
from ke.storage.database import Database
from ke.storage.tables import (
    dead_letters,
    entities,
    extraction_tasks,
    extractions,
    job_progress,
    jobs,
    pages,
    records,
    sources,
)
from ke.storage.vectors.base import MAX_BATCH, Point, VectorStore

DIMENSIONS = 4
COLLECTION = "seeded_4"
_NOW = sa.func.clock_timestamp()
_ROWS_A_STATEMENT = 5_000
RECORDS_EACH = 2
"""Records of each source that was extracted."""


@dataclass(frozen=True)
class Seeded:
    """A job that was written, and what it has."""

    id: uuid.UUID
    sources: Sequence[uuid.UUID] = ()
    extractions: Sequence[uuid.UUID] = ()
    counts: StoreCounts = StoreCounts()  # noqa: RUF009  (frozen)

    @property
    def cleanup_id(self) -> str:
        return f"cleanup-{self.id}"


def content_hash(job: uuid.UUID) -> bytes:
    """That of all sources of a job that was written: another than any other job's, so that none is a copy."""
    return job.bytes * 2


async def seed_job(
    database: Database,
    *,
    kind: JobKind = JobKind.CRAWL,
    status: JobStatus = JobStatus.COMPLETED,
    params: dict[str, Any] | None = None,
    idempotency_key: str | None = None,
    project: str = "default",
) -> Seeded:
    """A job and nothing that it made; with a result when its state is a last one."""
    job = uuid.uuid4()
    ended = status not in ACTIVE
    result = {**dict.fromkeys(COUNTER_NAMES, 1), "elapsed_s": 1.0, "cancellation": {"reason": "https://site.example"}}
    async with database.transaction() as connection:
        await connection.execute(
            sa.insert(jobs).values(
                id=job,
                idempotency_key=idempotency_key,
                request_hash="hash",
                kind=kind.value,
                status=status.value,
                project=project,
                labels={"site": "https://site.example/"},
                params=params or {"seeds": ["https://site.example/"]},
                result=result if ended else sa.null(),
                completed_at=_NOW if ended else None,
                workflow_id=job_workflow_id(str(job)),
                created_at=_NOW,
            )
        )
        await connection.execute(sa.insert(job_progress).values(job_id=job, lane=Lane.COLLECT.value, note="done"))
    return Seeded(job)


async def seed_crawl(
    database: Database,
    vectors: VectorStore,
    *,
    n_sources: int = 3,
    chunks_each: int = 4,
    entities_each: int = 2,
    n_dead_letters: int = 2,
    n_pages: int | None = None,
    without_points: int = 0,
    collection: str = COLLECTION,
    **job_values: Any,
) -> Seeded:
    """A crawl that ended, with extraction.

    Args:
        database: Where the rows go.
        vectors: Where the points go.
        n_sources: Sources it owns.
        chunks_each: Extractions of each source, a point each.
        entities_each: Entities of each extraction.
        n_dead_letters: Dead letters.
        n_pages: Entries of the frontier; as many as sources by default.
        without_points: How many of the extractions have no point.
        collection: Of the points.
        **job_values: For `seed_job`.
    """
    job = await seed_job(database, **job_values)
    n_pages = n_sources if n_pages is None else n_pages
    owned = [source_id(job.id, f"https://site.example/{number}") for number in range(n_sources)]
    async with database.transaction() as connection:
        await _insert(connection, sources, [_source(job.id, key, number) for number, key in enumerate(owned)])
        await _insert(connection, pages, [_page(job.id, number) for number in range(n_pages)])
        await _insert(connection, dead_letters, [_letter(job.id, number) for number in range(n_dead_letters)])
    made = await _extract(
        database,
        vectors,
        Seeded(job.id, owned),
        job.id,
        (chunks_each, entities_each, without_points, collection),
    )
    counts = StoreCounts(
        vectors=len(made) - without_points,
        sources=n_sources,
        extractions=len(made),
        entities=len(made) * entities_each,
        dead_letters=n_dead_letters,
        pages=n_pages,
        records=n_sources * RECORDS_EACH if chunks_each else 0,
    )
    return Seeded(job.id, owned, made, counts)


async def seed_extract(
    database: Database,
    vectors: VectorStore,
    owner: Seeded,
    *,
    chunks_each: int = 2,
    entities_each: int = 1,
    collection: str = COLLECTION,
    status: JobStatus = JobStatus.COMPLETED,
    project: str = "default",
) -> Seeded:
    """An extract job over all sources of another job."""
    params = {"source_job_id": None, "source_ids": [str(key) for key in owner.sources]}
    job = await seed_job(database, kind=JobKind.EXTRACT, status=status, params=params, project=project)
    made = await _extract(database, vectors, owner, job.id, (chunks_each, entities_each, 0, collection))
    counts = StoreCounts(
        vectors=len(made),
        extractions=len(made),
        entities=len(made) * entities_each,
        records=len(owner.sources) * RECORDS_EACH if chunks_each else 0,
    )
    return Seeded(job.id, (), made, counts)


async def store_counts(database: Database, vectors: VectorStore, job: uuid.UUID) -> StoreCounts:
    """What there is of a job, by SQL and by the vector store; independent of the code that is tested with it."""
    sql = sa.text(
        "SELECT (SELECT count(*) FROM sources WHERE job_id = :job),"
        " (SELECT count(*) FROM extractions WHERE job_id = :job OR owner_job_id = :job),"
        " (SELECT count(*) FROM entities e JOIN extractions x ON x.id = e.extraction_id"
        "  WHERE x.job_id = :job OR x.owner_job_id = :job),"
        " (SELECT count(*) FROM dead_letters WHERE job_id = :job),"
        " (SELECT count(*) FROM pages WHERE job_id = :job),"
        " (SELECT count(*) FROM records WHERE job_id = :job OR owner_job_id = :job)"
    )
    async with database.transaction() as connection:
        numbers = (await connection.execute(sql, {"job": job})).one()
    points = [await vectors.count_job(name, job) for name in await vectors.collections()]
    return StoreCounts(sum(points), *numbers)


async def _insert(connection: AsyncConnection, table: sa.Table, values: Sequence[dict[str, Any]]) -> None:
    for start in range(0, len(values), _ROWS_A_STATEMENT):
        await connection.execute(sa.insert(table), values[start : start + _ROWS_A_STATEMENT])


async def _extract(
    database: Database, vectors: VectorStore, owner: Seeded, job: uuid.UUID, sizes: tuple[int, int, int, str]
) -> list[uuid.UUID]:
    chunks_each, entities_each, without_points, collection = sizes
    pairs = [(key, number) for key in owner.sources for number in range(chunks_each)]
    rows = [_extraction(job, owner.id, key, number, collection) for key, number in pairs]
    async with database.transaction() as connection:
        tasks = [{"job_id": job, "source_id": key, "state": "done"} for key in owner.sources]
        await _insert(connection, extraction_tasks, tasks)
        await _insert(connection, extractions, rows)
        mentions = [_entity(job, row["id"], number) for row in rows for number in range(entities_each)]
        await _insert(connection, entities, mentions)
        found = [(key, number) for key in owner.sources for number in range(RECORDS_EACH if chunks_each else 0)]
        await _insert(connection, records, [_record(job, owner.id, key, number) for key, number in found])
    await vectors.ensure_collection(collection, DIMENSIONS)
    points = [a_point(row["id"], job, owner.id, row["source_id"]) for row in rows[without_points:]]
    for start in range(0, len(points), MAX_BATCH):
        await vectors.upsert(collection, points[start : start + MAX_BATCH], epochs={job: 1, owner.id: 1})
    return [row["id"] for row in rows]


def a_point(key: uuid.UUID, job: uuid.UUID, owner: uuid.UUID, source: uuid.UUID) -> Point:
    """A point whose vector is made of its id."""
    vector = [1.0, *(byte / 255 for byte in key.bytes[: DIMENSIONS - 1])]
    return Point(id=key, vector=vector, job_id=job, owner_job_id=owner, source_id=source)


def sources_of(job: uuid.UUID, texts: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a job's sources that have these texts."""
    return [
        {
            "id": source_id(job, f"https://site.example/{n}"),
            "job_id": job,
            "url": f"https://site.example/{n}",
            "text": text,
            "content_type": "text/html",
            "content_hash": n.to_bytes(32, "big"),
            "bytes": len(text),
            "fetched_at": datetime.now(UTC),
        }
        for n, text in enumerate(texts)
    ]


def _source(job: uuid.UUID, key: uuid.UUID, number: int) -> dict[str, Any]:
    return {
        "id": key,
        "job_id": job,
        "url": f"https://site.example/{number}",
        "text": f"Text {number}",
        "content_type": "text/html",
        "content_hash": content_hash(job),
        "bytes": 10,
        "fetched_at": datetime.now(UTC),
    }


def _page(job: uuid.UUID, number: int) -> dict[str, Any]:
    url = f"https://site.example/{number}"
    return {"id": page_id(job, url), "job_id": job, "url": url, "depth": 0, "state": "fetched"}


def _letter(job: uuid.UUID, number: int) -> dict[str, Any]:
    subject = page_id(job, f"https://site.example/broken/{number}")
    return {
        "id": dead_letter_id(job, "page", subject),
        "job_id": job,
        "subject": "page",
        "subject_id": subject,
        "url": f"https://site.example/broken/{number}",
        "error_type": "http-500",
        "error_message": "The server failed.",
        "attempts": 3,
        "first_failed_at": datetime.now(UTC),
        "last_failed_at": datetime.now(UTC),
    }


def _extraction(job: uuid.UUID, owner: uuid.UUID, source: uuid.UUID, number: int, collection: str) -> dict[str, Any]:
    return {
        "id": extraction_id(job, source, content_hash(owner), number, collection),
        "job_id": job,
        "owner_job_id": owner,
        "source_id": source,
        "chunk_number": number,
        "text": f"Chunk {number}",
        "start": 0,
        "end": 7,
        "tokens": 2,
        "embedder": "seeded",
        "collection": collection,
        "epoch": 1,
        "state": "ready",
    }


def _record(job: uuid.UUID, owner: uuid.UUID, source: uuid.UUID, number: int) -> dict[str, Any]:
    return {
        "id": record_id(job, source, content_hash(owner), number),
        "job_id": job,
        "owner_job_id": owner,
        "source_id": source,
        "number": number,
        "data": {"number": number},
        "truncated": False,
        "model": "seeded",
        "tokens_in": 3,
        "tokens_out": 2,
        "epoch": 1,
    }


def _entity(job: uuid.UUID, extraction: uuid.UUID, number: int) -> dict[str, Any]:
    key = entity_id(extraction, number, number + 1, "ORG")
    return {
        "id": key,
        "job_id": job,
        "extraction_id": extraction,
        "text": "A",
        "label": "ORG",
        "start": number,
        "end": number + 1,
    }
