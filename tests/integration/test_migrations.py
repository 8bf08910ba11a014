"""The schema that the migrations build is the one the code names."""

import asyncpg
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from ke.runtime.embedded.postgres import temporary_postgres
from ke.storage.database import _async_url, migrate
from ke.storage.tables import metadata


def _differences(connection: sa.Connection) -> list:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)


async def test_migrations_build_exactly_the_tables_of_the_code() -> None:
    """Alembic finds nothing to add or drop; a second migration changes nothing; each foreign key has an index."""
    async with temporary_postgres() as url:
        await migrate(url)
        await migrate(url)
        engine = create_async_engine(_async_url(url))
        try:
            async with engine.connect() as connection:
                assert await connection.run_sync(_differences) == []
        finally:
            await engine.dispose()
        assert await _foreign_keys_without_index(url) == []


async def _foreign_keys_without_index(url: str) -> list[str]:
    """Foreign keys whose first column leads no index: deleting what they point to would scan the whole table."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT c.conname FROM pg_constraint c WHERE c.contype = 'f' AND NOT EXISTS"
            " (SELECT 1 FROM pg_index i WHERE i.indrelid = c.conrelid AND i.indkey[0] = c.conkey[1])"
        )
    finally:
        await connection.close()
    return [row["conname"] for row in rows]
