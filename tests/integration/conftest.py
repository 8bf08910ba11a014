"""What the tests of the lanes have in common; a module that needs another database or pool makes its own."""

from collections.abc import AsyncIterator

import pytest

from ke.runtime.embedded.postgres import temporary_postgres
from ke.runtime.pool import CpuPool
from ke.storage.database import Database, migrate


@pytest.fixture(scope="module")
async def database() -> AsyncIterator[Database]:
    async with temporary_postgres() as url:
        await migrate(url)
        database = Database(url)
        yield database
        await database.close()


@pytest.fixture(scope="module")
async def pool() -> AsyncIterator[CpuPool]:
    pool = CpuPool(1)
    yield pool
    await pool.close()
