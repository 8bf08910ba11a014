"""The schema that the migrations build is the one the code names."""

import uuid

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from ke.contracts.ids import merged_entity_id
from ke.runtime.embedded.postgres import temporary_postgres
from ke.storage.database import _async_url, alembic_config, migrate
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


async def test_mentions_of_before_are_merged() -> None:
    """Mentions that were stored before they had a merge key get it, with the entity that later ones have."""
    async with temporary_postgres() as url:
        await _migrate_to(url, "0002")
        connection = await asyncpg.connect(url)
        try:
            job, source, chunk = (uuid.uuid4() for _ in range(3))
            await connection.execute(
                "INSERT INTO jobs (id, request_hash, kind, project, workflow_id, created_at)"
                " VALUES ($1, '', 'crawl', 'lights', 'w', now())",
                job,
            )
            await connection.execute(
                "INSERT INTO sources (id, job_id, url, text, content_type, content_hash, bytes, fetched_at)"
                " VALUES ($1, $2, 'u', 't', 'c', ''::bytea, 1, now())",
                source,
                job,
            )
            await connection.execute(
                'INSERT INTO extractions (id, job_id, owner_job_id, source_id, chunk_number, text, start, "end",'
                " tokens, embedder, collection, epoch) VALUES ($1, $2, $2, $3, 0, 't', 0, 1, 1, 'e', 'c', 1)",
                chunk,
                job,
                source,
            )
            for text in ("the Bell Rock", "Bell\nRock's"):
                await connection.execute(
                    'INSERT INTO entities (id, job_id, extraction_id, text, label, start, "end")'
                    " VALUES ($1, $2, $3, $4, 'GPE', 0, 1)",
                    uuid.uuid4(),
                    job,
                    chunk,
                    text,
                )
            await migrate(url)
            found = await connection.fetch("SELECT DISTINCT project, key, merged_id FROM entities")
        finally:
            await connection.close()
    assert [tuple(row) for row in found] == [("lights", "bell rock", merged_entity_id("lights", "GPE", "bell rock"))]


async def _migrate_to(url: str, revision: str) -> None:
    def upgrade(connection: sa.Connection) -> None:
        config = alembic_config(url)
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    engine = create_async_engine(_async_url(url))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(upgrade)
    finally:
        await engine.dispose()
