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


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives Temporal and a worker time where the gateway answers without them: a busy machine changes no outcome."""
    for module in ("ke.runtime.settling", "ke.runtime.engine", "api.service.lists", "api.service.reading"):
        monkeypatch.setattr(f"{module}.GLANCE_S", 20.0)
    monkeypatch.setattr("api.service.control.SEEN_WITHIN_S", 20.0)
    for module in ("projects", "reconciling"):
        monkeypatch.setattr(f"api.service.{module}.CLOSING_S", 20.0)
