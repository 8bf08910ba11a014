"""A retry of very many dead letters: what tells them from the rest looks each up, however many there are."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from ke.contracts.jobs import JobStatus
from ke.storage import dead_letters as letters
from ke.storage import requeueing
from ke.storage.tables import dead_letters, pages
from tests.seeding import seed_job
from tests.stores import Stores, open_stores

MANY = 4_000


@pytest.fixture(scope="module")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    folder: Path = tmp_path_factory.mktemp("vectors")
    async with open_stores(folder) as found:
        yield found


@pytest.fixture(scope="module")
async def job_id(stores: Stores) -> uuid.UUID:
    """A job with more letters, all of them taken up, than fit into the memory that a test leaves to a statement."""
    job = await seed_job(stores.database, status=JobStatus.COMPLETED_WITH_ERRORS)
    async with stores.database.transaction() as connection:
        await connection.execute(
            sa.text(
                "INSERT INTO pages (id, job_id, url, depth) SELECT md5('page' || n)::uuid, :job, 'u' || n, 1"
                f" FROM generate_series(1, {MANY}) n"
            ),
            {"job": job.id},
        )
        await connection.execute(
            sa.text(
                "INSERT INTO dead_letters (id, job_id, subject, subject_id, url, error_type, error_message, attempts,"
                " first_failed_at, last_failed_at) SELECT md5('letter' || n)::uuid, :job, 'page',"
                f" md5('page' || n)::uuid, 'u' || n, 'http-500', '', 4, now(), now() FROM generate_series(1, {MANY}) n"
            ),
            {"job": job.id},
        )
        await connection.execute(sa.text("ANALYZE pages, dead_letters"))
    return job.id


async def plan_of(stores: Stores, statement: sa.Select[tuple[uuid.UUID]]) -> str:
    """How Postgres would do it when a list of all ids does not fit into a statement's memory."""
    text = statement.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True})  # type: ignore[no-untyped-call]
    async with stores.database.transaction() as connection:
        await connection.execute(sa.text("SET LOCAL work_mem = '64kB'"))
        explained = await connection.exec_driver_sql(f"EXPLAIN {text}")
        return "\n".join(explained.scalars())


async def test_purge_reads_no_list_for_each_letter(stores: Stores, job_id: uuid.UUID) -> None:
    """Whether a retry has taken a letter up is asked of its page, not of a list of all pages that are open."""
    rest = sa.select(dead_letters.c.id).where(dead_letters.c.job_id == job_id, ~letters.taken_up(job_id))
    plan = await plan_of(stores, rest)
    assert "pk_pages" in plan
    assert "Materialize" not in plan


async def test_claim_reads_no_list_for_each_page(stores: Stores, job_id: uuid.UUID) -> None:
    """Whether a page was newly found is asked of its letter, not of a list of all letters."""
    fresh = sa.select(pages.c.id).where(
        pages.c.job_id == job_id, pages.c.state == "pending", ~requeueing.lettered(job_id)
    )
    plan = await plan_of(stores, fresh.order_by(pages.c.depth, pages.c.seq).limit(8))
    assert "Anti Join" in plan
    assert "SubPlan" not in plan
