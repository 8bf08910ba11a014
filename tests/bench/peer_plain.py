"""The pipeline as a plain script, in a process of its own: `python -m tests.bench.peer_plain URL DATABASE [SOCKET]`.

The same fetcher, robots.txt, host gate, reader, pool, chunks, embeddings and rows as a job has, but nothing that makes
a job durable: the frontier is in memory, nothing is claimed, fenced, leased or counted as it goes, and nobody is told
how it stands. With the socket of a vector process it also chunks, embeds and indexes. Prints pages and seconds as JSON.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
import uvloop
from sqlalchemy.dialects.postgresql import insert

from activities.pages import PageReader
from activities.reach import Reach
from activities.warmup import load_models, warm
from ke.contracts.ids import extraction_id, page_id, source_id
from ke.contracts.jobs import CollectSpec, CrawlLimits, CrawlScope, ExtractSpec, FetchRate, JobInput, JobKind
from ke.extraction.chunk import Chunk
from ke.extraction.embed import find_embedder
from ke.extraction.pipeline import ExtractedSource, SourceText, extract_source
from ke.runtime.pool import CpuPool
from ke.storage.collecting import Document, PageOutcome, PageState
from ke.storage.database import Database
from ke.storage.frontier import FrontierEntry
from ke.storage.jobs import open_job
from ke.storage.tables import extractions, pages, sources
from ke.storage.vectors.base import MAX_BATCH, Point
from ke.storage.vectors.edge import EdgeVectors
from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher
from ke.web.politeness import HostGate
from ke.web.robots import Robots
from ke.web.urls import canonicalize
from tests.bench.lab import CONCURRENCY, MAX_PAGES

BATCH = 32
"""Pages in a transaction, as a job has."""
AT_ONCE = 4
"""Sources under way in the pool; a job has as many tasks, of several short sources each."""
SPEC = ExtractSpec(entities=None)


class Script:
    """One crawl."""

    def __init__(self, fetcher: Fetcher, pool: CpuPool, database: Database, vectors: EdgeVectors | None) -> None:
        self._fetcher = fetcher
        self._pool = pool
        self._database = database
        self._vectors = vectors
        self._job = uuid.uuid4()
        self._hashes: set[bytes] = set()

    async def run(self, url: str) -> int:
        """Crawls the site; returns the number of pages."""
        reader, first = await self._begin(url)
        due, seen = deque([(first, 0)]), {first}
        tasks: set[asyncio.Task[PageOutcome]] = set()
        batch: list[PageOutcome] = []
        extracting: set[asyncio.Task[None]] = set()
        room = asyncio.Semaphore(AT_ONCE)
        fetched = 0
        while due or tasks:
            while due and len(tasks) < 2 * CONCURRENCY:
                address, depth = due.popleft()
                entry = FrontierEntry(page_id(self._job, address), address, depth, 0)
                tasks.add(asyncio.create_task(reader.read(entry, max_bytes=None)))
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                outcome = task.result()
                batch.append(outcome)
                fetched += outcome.state is PageState.FETCHED
                fresh = [link for link in outcome.links if link not in seen]
                seen.update(fresh)
                due.extend((link, outcome.entry.depth + 1) for link in fresh)
            if len(batch) >= BATCH or not (due or tasks):
                written, batch = batch, []
                kept = await self._write(written)
                if self._vectors is not None:
                    extracting.add(asyncio.create_task(self._extract(kept, room)))
        await asyncio.gather(*extracting)
        return fetched

    async def _begin(self, url: str) -> tuple[PageReader, str]:
        """Writes the row that the others refer to; returns what reads pages, and the first one's URL."""
        spec = CollectSpec(
            (canonicalize(url),),
            follow=True,
            limits=CrawlLimits(max_pages=MAX_PAGES, max_depth=50),
            scope=CrawlScope(sitemaps=False),
            rate=FetchRate(concurrency=CONCURRENCY),
        )
        job = JobInput(str(self._job), JobKind.CRAWL, datetime.now(UTC).isoformat(), collect=spec)
        async with self._database.transaction() as connection:
            await open_job(connection, job, "run")
        gate, reach = HostGate(CONCURRENCY), Reach.of(spec, self._pool)
        return PageReader(self._fetcher, self._pool, Robots(self._fetcher), gate, reach), spec.urls[0]

    async def _write(self, batch: list[PageOutcome]) -> list[PageOutcome]:
        """Writes a batch's rows in one transaction; returns the pages that were stored."""
        kept = []
        for outcome in batch:
            if outcome.document and outcome.document.content_hash not in self._hashes:
                self._hashes.add(outcome.document.content_hash)
                kept.append(outcome)
        async with self._database.transaction() as connection:
            await connection.execute(insert(sources).on_conflict_do_nothing(), [self._source(o) for o in kept])
            await connection.execute(insert(pages).on_conflict_do_nothing(), [self._page(o) for o in batch])
        return kept

    def _source(self, outcome: PageOutcome) -> dict[str, object]:
        document = outcome.document
        assert document is not None
        return {
            "id": source_id(self._job, document.url),
            "job_id": self._job,
            "url": document.url,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
            "content_type": document.content_type,
            "content_hash": document.content_hash,
            "bytes": outcome.bytes,
            "fetched_at": outcome.fetched_at,
        }

    def _page(self, outcome: PageOutcome) -> dict[str, object]:
        return {
            "id": outcome.entry.id,
            "job_id": self._job,
            "url": outcome.entry.url,
            "depth": outcome.entry.depth,
            "state": "failed" if outcome.state is PageState.RETRY else outcome.state.value,
            "http_status": outcome.http_status,
            "bytes": outcome.bytes,
            "fetched_at": outcome.fetched_at,
        }

    async def _extract(self, kept: list[PageOutcome], room: asyncio.Semaphore) -> None:
        """Chunks, embeds and indexes a batch while the next one is fetched."""
        assert self._vectors is not None
        made = await asyncio.gather(*(self._one(outcome.document, room) for outcome in kept if outcome.document))
        embedder = find_embedder(SPEC.embedder)
        rows: list[dict[str, object]] = []
        points: list[Point] = []
        for document, extracted in made:
            for item in extracted.chunks:
                row = self._chunk(document, extracted.source_id, item.chunk)
                rows.append({**row, "embedder": embedder.name, "collection": embedder.collection})
                points.append(Point(row["id"], item.vector, self._job, self._job, extracted.source_id))
        if not rows:
            return
        async with self._database.transaction() as connection:
            await connection.execute(sa.insert(extractions), rows)
        for first in range(0, len(points), MAX_BATCH):
            await self._vectors.upsert(embedder.collection, points[first : first + MAX_BATCH], epochs={self._job: 1})

    async def _one(self, document: Document, room: asyncio.Semaphore) -> tuple[Document, ExtractedSource]:
        async with room:
            source = SourceText(source_id(self._job, document.url), document.text)
            return document, await extract_source(self._pool, source, SPEC)

    def _chunk(self, document: Document, source: uuid.UUID, chunk: Chunk) -> dict[str, Any]:
        return {
            "id": extraction_id(self._job, source, document.content_hash, chunk.number, SPEC.embedder),
            "job_id": self._job,
            "owner_job_id": self._job,
            "source_id": source,
            "chunk_number": chunk.number,
            "text": chunk.text,
            "heading": chunk.heading,
            "start": chunk.start,
            "end": chunk.end,
            "tokens": chunk.tokens,
            "epoch": 1,
            "state": "ready",
        }


async def main(url: str, database_url: str, socket: str | None) -> None:
    """Runs it, its pool warm as a worker's is."""
    database = Database(database_url)
    vectors = EdgeVectors(Path(socket)) if socket else None
    processes = os.cpu_count() or 1
    pool = CpuPool(processes)
    policy = EgressPolicy(frozenset({urlsplit(url).netloc}))
    try:
        await warm(pool, load_models)
        if vectors is not None:
            embedder = find_embedder(SPEC.embedder)
            await vectors.ensure_collection(embedder.collection, embedder.dimensions)
        async with Fetcher(user_agent="ke-bench/1", timeout_s=30, max_bytes=10_000_000, policy=policy) as fetcher:
            began = time.monotonic()
            fetched = await Script(fetcher, pool, database, vectors).run(url)
            print(json.dumps({"pages": fetched, "seconds": time.monotonic() - began}))
    finally:
        await pool.close()
        await database.close()
        if vectors is not None:
            await vectors.close()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None))
