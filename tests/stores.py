"""A real Postgres with our schema, and the embedded vector store in a process of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ke.runtime.embedded.postgres import temporary_postgres
from ke.storage.database import Database, migrate
from ke.storage.vectors.base import VectorStore
from ke.storage.vectors.edge import EdgeVectors
from tests.integration.vectors_process import VectorsProcess


@dataclass(frozen=True)
class Stores:
    """Both stores of a stack."""

    database: Database
    vectors: VectorStore


@asynccontextmanager
async def open_stores(folder: Path) -> AsyncIterator[Stores]:
    """Empty stores, gone in the end; the folder holds the vectors and their socket."""
    process = VectorsProcess(folder / "data", folder / "s")
    async with temporary_postgres() as url:
        await migrate(url)
        database = Database(url)
        await process.start()
        vectors = EdgeVectors(process.socket)
        try:
            yield Stores(database, vectors)
        finally:
            await vectors.close()
            await process.stop()
            await database.close()
