"""Part of the PostgreSQL 15 documentation, read and indexed by the real code, and questions with known answers.

`tests/data/postgresql-15-docs.tar.xz` has 316 pages as Debian's package `postgresql-doc-15` ships them, the legal
notice that allows it among them.
"""

import math
import tarfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ke.contracts.ids import extraction_id, source_id
from ke.contracts.jobs import ExtractSpec
from ke.extraction.pipeline import ExtractedSource, SourceText, extract_source
from ke.runtime.pool import CpuPool
from ke.storage.tables import extractions, sources
from ke.storage.vectors.base import Point
from ke.web.parse import parse_page
from tests.seeding import content_hash, seed_job
from tests.stores import Stores

PAGES = Path(__file__).parents[2] / "data" / "postgresql-15-docs.tar.xz"
SITE = "https://docs.example/15"
QUESTIONS: Sequence[tuple[str, str]] = (
    (
        "how can I make a column's value be computed automatically from other columns of the row",
        "ddl-generated-columns",
    ),
    ("password file so that psql does not ask me each time I connect", "libpq-pgpass"),
    ("build an index without blocking writes to the table", "sql-createindex"),
    ("an index over only some of the rows of a table", "indexes-partial"),
    ("index on the lower case form of a column", "indexes-expressional"),
    ("what happens when two transactions wait for each other's locks", "explicit-locking"),
    ("restrict which rows each user is allowed to see", "ddl-rowsecurity sql-createpolicy"),
    ("split a huge table into smaller pieces by date range", "ddl-partitioning"),
    ("which settings speed up loading a lot of data into an empty database", "populate"),
    ("how is the disk space of deleted rows given back", "routine-vacuuming sql-vacuum"),
    ("avoid transaction ID wraparound", "routine-vacuuming"),
    ("find the slowest statements of my server", "pgstatstatements"),
    ("recover the database as it was at a certain moment in the past", "continuous-archiving"),
    ("let a standby server answer read-only queries", "hot-standby"),
    ("do not wait for the disk at commit, at the risk of losing the last transactions", "wal-async-commit"),
    ("query a table that lives on another PostgreSQL server", "postgres-fdw ddl-foreign-data"),
    ("repeat a query over a tree of parent and child rows", "queries-with"),
    ("rank rows within groups without collapsing them", "tutorial-window functions-window"),
    ("insert a row, or update it when it is there already", "sql-insert sql-merge"),
    ("similarity of misspelled words", "pgtrgm"),
)
"""What people ask, in words of their own, and the pages that answer it."""


@dataclass(frozen=True)
class Quality:
    """How well the questions were answered."""

    at_1: int
    at_5: int
    ndcg: float
    """Normalised discounted cumulative gain at 10, one right page being all there is to gain."""

    @classmethod
    def of(cls, ranks: Sequence[int | None]) -> "Quality":
        """Of the place of the first right page for each question, from 1; None: not among the first ten."""
        found = [rank for rank in ranks if rank is not None]
        gain = sum(1 / math.log2(rank + 1) for rank in found)
        return cls(sum(rank == 1 for rank in found), sum(rank <= 5 for rank in found), gain / len(ranks))


async def index_documentation(stores: Stores, pool: CpuPool) -> uuid.UUID:
    """Reads, chunks, embeds and stores all pages; returns the job that they belong to."""
    job = (await seed_job(stores.database, project="documentation")).id
    spec = ExtractSpec(entities=None)
    with tarfile.open(PAGES, "r:xz") as archive:
        pages = [(entry.name, archive.extractfile(entry).read()) for entry in archive]
    for start in range(0, len(pages), 40):
        rows: list[dict[str, Any]] = []
        made: list[ExtractedSource] = []
        for name, body in pages[start : start + 40]:
            url = f"{SITE}/{name}"
            page = await pool.run(parse_page, body, "text/html", "utf-8", url)
            key = source_id(job, url)
            rows.append(_source(job, key, url, page))
            made.append(await extract_source(pool, SourceText(key, page.text), spec))
        await _store(stores, job, rows, made)
    async with stores.database.transaction() as connection:
        await connection.exec_driver_sql("ANALYZE extractions")
    return job


async def _store(
    stores: Stores, job: uuid.UUID, rows: Sequence[dict[str, Any]], made: Sequence[ExtractedSource]
) -> None:
    chunks: list[dict[str, Any]] = []
    points: list[Point] = []
    for source in made:
        for one in source.chunks:
            key = extraction_id(job, source.source_id, content_hash(job), one.chunk.number, "wordllama")
            chunks.append(_chunk(job, source, key, one.chunk))
            points.append(Point(key, one.vector, job, job, source.source_id))
    async with stores.database.transaction() as connection:
        await connection.execute(sa.insert(sources), list(rows))
        await connection.execute(sa.insert(extractions), chunks)
    await stores.vectors.ensure_collection(made[0].collection, 256)
    for start in range(0, len(points), 500):
        await stores.vectors.upsert(made[0].collection, points[start : start + 500], epochs={job: 1})


def _source(job: uuid.UUID, key: uuid.UUID, url: str, page: Any) -> dict[str, Any]:
    return {
        "id": key,
        "job_id": job,
        "url": url,
        "title": page.title,
        "text": page.text,
        "metadata": page.metadata,
        "content_type": "text/html",
        "content_hash": content_hash(job),
        "bytes": len(page.text),
        "fetched_at": datetime.now(UTC),
    }


def _chunk(job: uuid.UUID, source: ExtractedSource, key: uuid.UUID, chunk: Any) -> dict[str, Any]:
    return {
        "id": key,
        "job_id": job,
        "owner_job_id": job,
        "source_id": source.source_id,
        "chunk_number": chunk.number,
        "text": chunk.text,
        "heading": chunk.heading,
        "start": chunk.start,
        "end": chunk.end,
        "tokens": chunk.tokens,
        "embedder": "wordllama",
        "collection": source.collection,
        "epoch": 1,
        "state": "ready",
    }
