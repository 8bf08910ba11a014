"""The schema that the migrations build is the one the code names."""

import asyncio
import json
import uuid

import asyncpg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from ke.contracts.errors import RowLocked
from ke.contracts.ids import merged_entity_id
from ke.runtime.embedded.postgres import temporary_postgres
from ke.storage import database
from ke.storage.database import _async_url, alembic_config, migrate
from ke.storage.tables import metadata
from ke.web.urls import host_key


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


async def test_migration_does_not_wait_long_for_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a table holds up all others that want it: it gives up, has changed nothing, and may be repeated."""
    async with temporary_postgres() as url:
        await _move(url, "upgrade", "0011")
        connection = await asyncpg.connect(url)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE pages IN ACCESS SHARE MODE")
                with monkeypatch.context() as patched:
                    patched.setattr(database, "MIGRATION_LOCK_TIMEOUT_S", 0.2)
                    async with asyncio.timeout(60):
                        with pytest.raises(RowLocked, match=r"Nothing was changed: run it again"):
                            await migrate(url)
            assert await connection.fetchval("SELECT version_num FROM alembic_version") == "0011"
        finally:
            await connection.close()
        await migrate(url)


async def test_migration_waits_longer_for_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits behind it; but it does not wait for ever either."""
    monkeypatch.setattr(database, "MIGRATION_LOCK_TIMEOUT_S", 0.2)
    async with temporary_postgres() as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", database.MIGRATION_LOCK)
            waiting = asyncio.create_task(migrate(url))
            done, _ = await asyncio.wait([waiting], timeout=1)
            assert not done
            await connection.execute("SELECT pg_advisory_unlock($1)", database.MIGRATION_LOCK)
            await waiting
            await connection.execute("SELECT pg_advisory_lock($1)", database.MIGRATION_LOCK)
            monkeypatch.setattr(database, "MIGRATION_QUEUE_TIMEOUT_S", 0.2)
            with pytest.raises(RowLocked, match="another migration is at work"):
                await migrate(url)
        finally:
            await connection.close()


async def test_checks_of_the_migrations_are_those_of_the_code() -> None:
    """Alembic does not compare CHECKs, which name lanes, states and subjects."""
    async with temporary_postgres() as migrated, temporary_postgres() as made:
        await migrate(migrated)
        engine = create_async_engine(_async_url(made))
        try:
            async with engine.begin() as connection:
                await connection.run_sync(metadata.create_all)
        finally:
            await engine.dispose()
        assert await _checks(migrated) == await _checks(made) != {}


async def _checks(url: str) -> dict[tuple[str, str], str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT conrelid::regclass::text AS name, conname, pg_get_constraintdef(oid) AS told FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        )
    finally:
        await connection.close()
    return {(row["name"], row["conname"]): row["told"] for row in rows}


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


async def test_pages_of_before_have_their_host_and_their_document() -> None:
    """The frontier of a job that an older release made can go on, and be crawled again; the way back is open."""
    urls = [
        "https://a.example/",
        "http://b.example/x:1?y",
        "http://c.example:8080/",
        "http://[::1]/",
        "https://[::1]:444/",
    ]
    async with temporary_postgres() as url:
        await _move(url, "upgrade", "0002")
        connection = await asyncpg.connect(url)
        try:
            job = await _old_job(connection, urls)
            await migrate(url)
            rows = await connection.fetch("SELECT url, host, state, source_id FROM pages WHERE job_id = $1", job)
            sources = dict(await connection.fetch("SELECT url, id FROM sources"))
        finally:
            await connection.close()
        assert {row["url"]: row["host"] for row in rows} == {page: host_key(page) for page in urls}
        told = {row["url"]: row["source_id"] for row in rows}
        assert told == {
            urls[0]: sources[urls[0]],  # at its own address
            urls[1]: sources["http://b.example/moved"],  # where it was led
            urls[2]: sources[urls[0]],  # with the content of the first
            urls[3]: None,
            urls[4]: None,
        }
        await _move(url, "downgrade", "0002")
        await migrate(url)


async def _move(url: str, where: str, revision: str) -> None:
    engine = create_async_engine(_async_url(url))

    def step(connection: sa.Connection) -> None:
        config = alembic_config(url)
        config.attributes["connection"] = connection
        getattr(command, where)(config, revision)

    try:
        async with engine.begin() as connection:
            await connection.run_sync(step)
    finally:
        await engine.dispose()


async def _old_job(connection: asyncpg.Connection, urls: list[str]) -> uuid.UUID:
    """A running crawl of before: a page that is stored, one that was led on, a copy, a failure, an open one."""
    job = uuid.uuid4()
    await connection.execute(
        "INSERT INTO jobs (id, request_hash, kind, status, project, workflow_id, created_at)"
        " VALUES ($1, '', 'crawl', 'running', 'default', 'job', now())",
        job,
    )
    pages = (
        ("fetched", None, b"1"),
        ("fetched", "http://b.example/moved", b"2"),
        ("duplicate", None, b"1"),
        ("failed", None, None),
        ("pending", None, None),
    )
    for page, (state, final_url, content_hash) in zip(urls, pages, strict=True):
        await connection.execute(
            "INSERT INTO pages (id, job_id, url, depth, state, final_url, content_hash)"
            " VALUES ($1, $2, $3, 0, $4, $5, $6)",
            *(uuid.uuid4(), job, page, state, final_url, content_hash),
        )
    for source, content_hash in ((urls[0], b"1"), ("http://b.example/moved", b"2")):
        await connection.execute(
            "INSERT INTO sources (id, job_id, url, text, content_type, content_hash, bytes, fetched_at)"
            " VALUES ($1, $2, $3, '', 'text/html', $4, 1, now())",
            *(uuid.uuid4(), job, source, content_hash),
        )
    return job


async def test_mentions_of_before_are_merged() -> None:
    """Mentions that were stored before they had a merge key get it, with the entity that later ones have."""
    async with temporary_postgres() as url:
        await _move(url, "upgrade", "0002")
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


async def test_words_of_before_are_the_same_in_both_ways() -> None:
    """Chunks that were stored before are found by the same stems afterwards; the way back is open."""
    texts = ["a<b>c Vec<String> naïve > Ärger <", "", "Lighthouses << of >> the <i>rock</i>"]
    async with temporary_postgres() as url:
        await _move(url, "upgrade", "0010")
        connection = await asyncpg.connect(url)
        try:
            job = await _old_job(connection, [f"https://a.example/{number}" for number in range(5)])
            for number, text in enumerate(texts):
                await connection.execute(
                    "INSERT INTO extractions (id, job_id, owner_job_id, source_id, chunk_number, text, heading, start,"
                    " \"end\", tokens, embedder, collection, epoch, state) SELECT $1, $2, $2, id, $3, $4, '<Towers>',"
                    " 0, 1, 1, 'e', 'c', 1, 'ready' FROM sources LIMIT 1",
                    *(uuid.uuid4(), job, number, text),
                )
            stems = "SELECT words::text FROM extractions ORDER BY chunk_number"
            before = [row["words"] for row in await connection.fetch(stems)]
            assert "'lighthous'" in before[2]
            for step in ("head", "0010", "head"):
                await _move(url, "downgrade" if step == "0010" else "upgrade", step)
                assert [row["words"] for row in await connection.fetch(stems)] == before
        finally:
            await connection.close()


async def test_parameters_and_records_of_before_are_kept() -> None:
    """What was stored as jsonb reads as before, also for a job that is under way; the way back is open."""
    params = {"urls": ["u"], "extract": {"schema": {"type": "object", "properties": {"b": {}, "a": {}}}}}
    data = {"name": "Bell Rock\n\u2028", "height": 35.5, "none": None, "long": 12345678901234567890}
    async with temporary_postgres() as url:
        await _move(url, "upgrade", "0007")
        connection = await asyncpg.connect(url)
        try:
            job = await _old_job(connection, [f"https://a.example/{number}" for number in range(5)])
            await connection.execute("UPDATE jobs SET params = $1 WHERE id = $2", json.dumps(params), job)
            await connection.execute(
                "INSERT INTO records (id, job_id, owner_job_id, source_id, number, data, truncated, model, tokens_in,"
                " tokens_out, epoch) SELECT $1, $2, $2, id, 0, $3, false, 'm', 1, 1, 1 FROM sources LIMIT 1",
                uuid.uuid4(),
                job,
                json.dumps(data),
            )
            for step in ("head", "0007", "head"):
                await _move(url, "downgrade" if step == "0007" else "upgrade", step)
                assert json.loads(await connection.fetchval("SELECT params FROM jobs")) == params
                assert json.loads(await connection.fetchval("SELECT data FROM records")) == data
            ordered = json.dumps({"b": 1, "a": 2})
            await connection.execute("UPDATE jobs SET params = $1", ordered)
            assert await connection.fetchval("SELECT params::text FROM jobs") == ordered
            await connection.execute("UPDATE jobs SET params = DEFAULT")
            assert await connection.fetchval("SELECT params::text FROM jobs") == "{}"
        finally:
            await connection.close()
