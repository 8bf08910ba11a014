"""What a reconciliation finds in real stores and a real Temporal, what it repairs, and what stops it."""

import uuid
from pathlib import Path

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from activities.reconcile import RestoreActivities
from ke.contracts.jobs import JobStatus
from ke.contracts.naming import (
    job_workflow_id,
    project_cleanup_id,
    project_cleanup_workflow_id,
    retry_id,
    source_cleanup_id,
)
from ke.contracts.reconciling import FindingKind, ReconcileStatus, ReconcileStep
from ke.extraction.embed import embed
from ke.runtime.engine import Engine
from ke.runtime.pool import CpuPool
from ke.storage.vectors.edge import EdgeVectors
from tests.cleaning import job_column
from tests.closed_workflows import closed_workflow
from tests.integration.vectors_process import VectorsProcess
from tests.reconciling import execute, reconcile, scalar, until_artifacts
from tests.seeding import COLLECTION, Seeded, a_point, seed_crawl, seed_extract, seed_job, store_counts
from tests.stores import Stores

REAL = "wordllama-256"


async def seed_orphans(stores: Stores, job: Seeded, number: int) -> list[uuid.UUID]:
    """Points in a job's name that no row stands behind."""
    points = [a_point(uuid.uuid4(), job.id, job.id, job.sources[0]) for _ in range(number)]
    await stores.vectors.upsert(COLLECTION, points, epochs={job.id: 1})
    return [point.id for point in points]


async def test_points_without_rows_are_found_and_deleted(stores: Stores, client: Client) -> None:
    """A look tells of lone points and leaves them; a repair deletes them and nothing else; then there are none."""
    job = await seed_crawl(stores.database, stores.vectors)
    lone = await seed_orphans(stores, job, 2)
    record, found = await reconcile(client, repair=False)
    finding = found[FindingKind.POINTS_WITHOUT_ROWS]
    assert (record.status, finding.found, finding.repaired) == (ReconcileStatus.COMPLETED, 2, 0)
    assert set(finding.examples) == {str(key) for key in lone}
    assert await stores.vectors.count_ids(COLLECTION, lone) == 2
    _, found = await reconcile(client)
    assert found[FindingKind.POINTS_WITHOUT_ROWS].repaired == 2
    assert await stores.vectors.count_ids(COLLECTION, lone) == 0
    assert await store_counts(stores.database, stores.vectors, job.id) == job.counts
    _, found = await reconcile(client)
    assert found[FindingKind.POINTS_WITHOUT_ROWS].found == 0


async def test_rows_without_points_get_them_back(stores: Stores, client: Client) -> None:
    """Points that are gone are made again from the rows' texts, with the vectors that extraction makes."""
    job = await seed_crawl(stores.database, stores.vectors, collection="scratch")
    await stores.vectors.delete("scratch", list(job.extractions))
    await execute(
        stores,
        "UPDATE extractions SET embedder = 'wordllama', collection = :real WHERE job_id = :job",
        real=REAL,
        job=job.id,
    )
    _, found = await reconcile(client, repair=False)
    finding = found[FindingKind.ROWS_WITHOUT_POINTS]
    assert (finding.found, finding.repaired) == (len(job.extractions), 0)
    _, found = await reconcile(client, max_share=0)
    assert found[FindingKind.ROWS_WITHOUT_POINTS].repaired == len(job.extractions)
    assert await stores.vectors.count_job(REAL, job.id) == len(job.extractions)
    text = await scalar(stores, "SELECT text FROM extractions WHERE id = :id", id=job.extractions[0])
    best = await stores.vectors.search(REAL, embed("wordllama", [text])[0], limit=1, job_ids=[job.id])
    assert best[0].score == pytest.approx(1.0, abs=1e-5)
    _, found = await reconcile(client)
    assert found[FindingKind.ROWS_WITHOUT_POINTS].found == 0


async def test_lost_vector_folder_is_built_anew(stores: Stores, tmp_path: Path) -> None:
    """With an empty vector store in place of the one that was, collection and points are made again from the rows."""
    job = await seed_crawl(stores.database, stores.vectors, collection="scratch")
    await execute(
        stores,
        "UPDATE extractions SET embedder = 'wordllama', collection = :real WHERE job_id = :job",
        real=REAL,
        job=job.id,
    )
    process = VectorsProcess(tmp_path / "data", tmp_path / "s")
    await process.start()
    empty, pool = EdgeVectors(process.socket), CpuPool(1)
    try:
        restore = RestoreActivities(stores.database, empty, pool)
        [finding] = await ActivityEnvironment().run(
            restore.restore_points, ReconcileStep("reconcile-test", repair=True)
        )
        assert finding.repaired >= len(job.extractions)
        assert await empty.count_ids(REAL, list(job.extractions)) == len(job.extractions)
    finally:
        await pool.close()
        await empty.close()
        await process.stop()
        await execute(stores, "DELETE FROM extractions WHERE job_id = :id", id=job.id)
        await stores.vectors.delete("scratch", list(job.extractions))


async def test_point_of_a_job_that_is_cleaned_is_not_made_again(stores: Stores, client: Client) -> None:
    """Rows of a job in cleanup have lost their points rightly."""
    job = await seed_crawl(stores.database, stores.vectors, without_points=3)
    await execute(stores, "UPDATE jobs SET artifacts = 'cleaning' WHERE id = :id", id=job.id)
    _, found = await reconcile(client, repair=False)
    assert found[FindingKind.ROWS_WITHOUT_POINTS].found == 0
    await execute(stores, "DELETE FROM extractions WHERE job_id = :id", id=job.id)
    await execute(stores, "UPDATE jobs SET artifacts = 'present' WHERE id = :id", id=job.id)
    await reconcile(client)


async def test_rows_that_an_ended_job_never_finished_are_deleted(stores: Stores, client: Client) -> None:
    """Pending rows of an ended job go with their points and entities, and the job's result without them is exact."""
    job = await seed_crawl(stores.database, stores.vectors)
    left = list(job.extractions[:2])
    await execute(stores, "UPDATE extractions SET state = 'pending' WHERE id = ANY(:ids)", ids=left)
    counted = f'{{"extractions": {job.counts.extractions}, "entities": {job.counts.entities}}}'
    await execute(
        stores, "UPDATE jobs SET result = result || (:counted)::jsonb WHERE id = :id", counted=counted, id=job.id
    )
    _, found = await reconcile(client, repair=False)
    assert (found[FindingKind.PENDING_ROWS].found, found[FindingKind.PENDING_ROWS].repaired) == (2, 0)
    _, found = await reconcile(client)
    assert found[FindingKind.PENDING_ROWS].repaired == 2
    assert await stores.vectors.count_ids(COLLECTION, left) == 0
    after = await store_counts(stores.database, stores.vectors, job.id)
    result = await job_column(stores, job.id, "result")
    assert (result["extractions"], result["entities"]) == (after.extractions, after.entities)
    assert after.extractions == job.counts.extractions - 2
    _, found = await reconcile(client)
    assert found[FindingKind.PENDING_ROWS].found == 0


async def test_pending_rows_of_a_job_at_work_are_its_own(stores: Stores, client: Client) -> None:
    """What a running job, or a retry, has begun is no finding."""
    job = await seed_crawl(stores.database, stores.vectors)
    await execute(stores, "UPDATE extractions SET state = 'pending' WHERE job_id = :id", id=job.id)
    await execute(stores, "UPDATE jobs SET retry_id = 'retry-x' WHERE id = :id", id=job.id)
    _, found = await reconcile(client, repair=False)
    assert found[FindingKind.PENDING_ROWS].found == 0
    await execute(stores, "UPDATE jobs SET retry_id = NULL WHERE id = :id", id=job.id)
    await execute(stores, "UPDATE extractions SET state = 'ready' WHERE job_id = :id", id=job.id)


async def test_open_row_of_a_terminated_workflow_is_ended(stores: Stores, client: Client) -> None:
    """A job whose workflow was terminated and that nobody has read is ended as it would be when read."""
    job = await seed_job(stores.database, status=JobStatus.RUNNING)
    await closed_workflow(client, job_workflow_id(str(job.id)))
    _, found = await reconcile(client, repair=False)
    assert (found[FindingKind.OPEN_JOBS].found, found[FindingKind.OPEN_JOBS].repaired) == (1, 0)
    assert await job_column(stores, job.id, "status") == "running"
    _, found = await reconcile(client, max_share=0)
    assert found[FindingKind.OPEN_JOBS].repaired == 1
    assert await job_column(stores, job.id, "error->>'type'") == "terminated"
    _, found = await reconcile(client)
    assert found[FindingKind.OPEN_JOBS].found == 0


async def test_lost_workflow_ends_its_row_in_its_own_namespace_only(stores: Stores, client: Client) -> None:
    """A workflow that this Temporal never had leaves its row alone, until anything goes; one that is gone ends it."""
    ours, others = [await seed_job(stores.database, status=JobStatus.RUNNING) for _ in range(2)]
    namespace = await Engine.of(client).namespace_id()
    await execute(stores, "UPDATE jobs SET namespace_id = :name WHERE id = :id", name=namespace, id=ours.id)
    await execute(stores, "UPDATE jobs SET namespace_id = 'another' WHERE id = :id", id=others.id)
    _, found = await reconcile(client, max_share=0.5)
    finding = found[FindingKind.OPEN_JOBS]
    assert (finding.found, finding.repaired) == (2, 1)
    assert "another Temporal" in finding.note
    assert await job_column(stores, ours.id, "error->>'type'") == "workflow-lost"
    assert await job_column(stores, others.id, "status") == "running"
    _, found = await reconcile(client, max_share=1)
    assert found[FindingKind.OPEN_JOBS].repaired == 1
    assert await job_column(stores, others.id, "status") == "failed"


@pytest.mark.parametrize("artifacts", ["cleaning", "cleanup_failed"])
async def test_cleanup_that_nobody_works_on_is_started_again(stores: Stores, client: Client, artifacts: str) -> None:
    """A job that reads as being cleaned, or as left half cleaned, without a workflow at it gets one, and is cleaned."""
    job = await seed_crawl(stores.database, stores.vectors)
    await execute(stores, "UPDATE jobs SET artifacts = :name WHERE id = :id", name=artifacts, id=job.id)
    _, found = await reconcile(client, repair=False)
    assert (found[FindingKind.CLEANUPS].found, found[FindingKind.CLEANUPS].examples) == (1, (job.cleanup_id,))
    _, found = await reconcile(client, max_share=0)
    assert found[FindingKind.CLEANUPS].repaired == 1
    await until_artifacts(stores, job.id, "cleaned")
    _, found = await reconcile(client)
    assert found[FindingKind.CLEANUPS].found == 0


async def test_cleanup_that_active_jobs_block_is_only_reported(stores: Stores, client: Client) -> None:
    """A cleanup that would be refused is a finding that says for whom it waits, and is started when they have ended."""
    owner = await seed_crawl(stores.database, stores.vectors)
    reader = await seed_extract(stores.database, stores.vectors, owner, status=JobStatus.RUNNING)
    await client.start_workflow("nothing", id=job_workflow_id(str(reader.id)), task_queue="nobody-polls")
    await execute(stores, "UPDATE jobs SET artifacts = 'cleanup_failed' WHERE id = :id", id=owner.id)
    _, found = await reconcile(client)
    finding = found[FindingKind.CLEANUPS]
    assert (finding.found, finding.repaired) == (1, 0)
    assert str(reader.id) in finding.note
    await client.get_workflow_handle(job_workflow_id(str(reader.id))).terminate()
    _, found = await reconcile(client)
    assert found[FindingKind.CLEANUPS].repaired == 1
    await until_artifacts(stores, owner.id, "cleaned")


async def test_cleanup_that_was_refused_ends_no_retry(stores: Stores, client: Client) -> None:
    """A job whose cleanup was refused, and that somebody retries since, is left alone as long as that is at work."""
    job = await seed_crawl(stores.database, stores.vectors)
    retry = retry_id(str(job.id), 1)
    await execute(
        stores,
        "INSERT INTO cleanups (id, job_id, status, planned, error, started_at, completed_at)"
        " VALUES (:id, :job, 'failed', '{}', 'refused', now(), now())",
        id=job.cleanup_id,
        job=job.id,
    )
    await execute(stores, "UPDATE jobs SET retry_id = :retry, retries = 1 WHERE id = :id", retry=retry, id=job.id)
    await client.start_workflow("nothing", id=retry, task_queue="nobody-polls")
    _, found = await reconcile(client)
    finding = found[FindingKind.CLEANUPS]
    assert (finding.found, finding.repaired) == (1, 0)
    assert f"{job.cleanup_id} waits for active jobs: {job.id}" in finding.note
    assert await job_column(stores, job.id, "retry_id") == retry
    await client.get_workflow_handle(retry).terminate()
    await reconcile(client)
    await until_artifacts(stores, job.id, "cleaned")


async def test_forgetting_a_source_that_was_left_is_started_again(stores: Stores, client: Client) -> None:
    """The receipt of a source that nobody works on is a finding; its cleanup goes on, and nothing is restored to it."""
    job = await seed_crawl(stores.database, stores.vectors)
    source = job.sources[0]
    receipt = source_cleanup_id(str(source))
    await execute(
        stores,
        "INSERT INTO cleanups (id, scope, job_id, source_id, status, planned, run_id, started_at)"
        " VALUES (:id, 'source', :job, :source, 'running', '{}', 'gone', now())",
        id=receipt,
        job=job.id,
        source=source,
    )
    await stores.vectors.delete(COLLECTION, list(job.extractions[:4]))
    _, found = await reconcile(client, repair=False)
    assert (found[FindingKind.CLEANUPS].found, found[FindingKind.CLEANUPS].examples) == (1, (receipt,))
    assert found[FindingKind.ROWS_WITHOUT_POINTS].found == 0
    await reconcile(client)
    await client.get_workflow_handle(receipt).result()
    assert await scalar(stores, "SELECT status FROM cleanups WHERE id = :id", id=receipt) == "cleaned"
    assert await scalar(stores, "SELECT count(*) FROM sources WHERE id = :id", id=source) == 0


async def test_cleanup_of_a_project_is_started_again_by_its_newest_receipt(stores: Stores, client: Client) -> None:
    """A project's cleanup that failed is a finding until a newer one is cleaned; older receipts are history."""
    job = await seed_crawl(stores.database, stores.vectors)
    await execute(stores, "UPDATE jobs SET project = 'left', completed_at = '2025-12-31' WHERE id = :id", id=job.id)
    old, newest = (project_cleanup_id("left", run) for run in ("old", "newest"))
    for key, started_at in ((old, "2026-01-01"), (newest, "2026-01-02")):
        await execute(
            stores,
            "INSERT INTO cleanups (id, scope, project, status, planned, error, started_at, completed_at)"
            f" VALUES (:id, 'project', 'left', 'failed', '{{}}', 'x', '{started_at}', now())",
            id=key,
        )
    _, found = await reconcile(client, repair=False)
    assert found[FindingKind.CLEANUPS].examples == (newest,)
    _, found = await reconcile(client)
    assert (found[FindingKind.CLEANUPS].found, found[FindingKind.CLEANUPS].repaired) == (1, 1)
    await until_artifacts(stores, job.id, "cleaned")
    await client.get_workflow_handle(project_cleanup_workflow_id("left")).result()
    _, found = await reconcile(client)
    assert found[FindingKind.CLEANUPS].found == 0


async def test_cleanup_of_a_project_takes_no_jobs_that_came_later(stores: Stores, client: Client) -> None:
    """A project to which jobs were submitted since its cleanup failed is left alone: those nobody asked to delete."""
    old, new = [await seed_crawl(stores.database, stores.vectors) for _ in range(2)]
    await execute(stores, "UPDATE jobs SET project = 'reused' WHERE id IN (:old, :new)", old=old.id, new=new.id)
    await execute(stores, "UPDATE jobs SET completed_at = now() - interval '2 hours' WHERE id = :id", id=old.id)
    receipt = project_cleanup_id("reused", "earlier")
    await execute(
        stores,
        "INSERT INTO cleanups (id, scope, project, status, planned, error, started_at, completed_at)"
        " VALUES (:id, 'project', 'reused', 'failed', '{}', 'x', now() - interval '1 hour', now())",
        id=receipt,
    )
    _, found = await reconcile(client)
    finding = found[FindingKind.CLEANUPS]
    assert (finding.found, finding.repaired) == (1, 0)
    assert f"{receipt} is left alone" in finding.note
    assert await job_column(stores, new.id, "artifacts") == "present"
    await execute(stores, "UPDATE cleanups SET status = 'cleaned' WHERE id = :id", id=receipt)


async def test_retry_whose_workflow_is_closed_is_ended(stores: Stores, client: Client) -> None:
    """A retry that was terminated no longer holds its job."""
    job = await seed_crawl(stores.database, stores.vectors)
    retry = retry_id(str(job.id), 1)
    await execute(
        stores,
        "INSERT INTO retries (id, job_id, number, status, created_at) VALUES (:id, :job, 1, 'running', now())",
        id=retry,
        job=job.id,
    )
    taken = "UPDATE jobs SET retry_id = :retry, retries = 1, result = result - 'cancellation' WHERE id = :id"
    await execute(stores, taken, retry=retry, id=job.id)
    await closed_workflow(client, retry)
    _, found = await reconcile(client, repair=False)
    assert (found[FindingKind.RETRIES].found, found[FindingKind.RETRIES].examples) == (1, (retry,))
    _, found = await reconcile(client)
    assert found[FindingKind.RETRIES].repaired == 1
    assert await job_column(stores, job.id, "retry_id") is None
    assert await scalar(stores, "SELECT status FROM retries WHERE id = :id", id=retry) == "failed"
    _, found = await reconcile(client)
    assert found[FindingKind.RETRIES].found == 0


async def test_too_much_to_delete_stops_it(stores: Stores, client: Client) -> None:
    """More lone points than the share: nothing at all is repaired, the record says why, and how to go on."""
    job = await seed_crawl(stores.database, stores.vectors)
    total = await stores.vectors.count_all(COLLECTION)
    lone = await seed_orphans(stores, job, total)
    closed = await seed_job(stores.database, status=JobStatus.RUNNING)
    await closed_workflow(client, job_workflow_id(str(closed.id)))
    record, found = await reconcile(client, max_share=0.1)
    assert record.status is ReconcileStatus.STOPPED
    assert f"{total} of " in (record.error or "")
    assert "max_share" in (record.error or "")
    assert [finding.repaired for finding in found.values()] == [0] * len(FindingKind)
    assert await stores.vectors.count_ids(COLLECTION, lone) == len(lone)
    assert await job_column(stores, closed.id, "status") == "running"
    record, found = await reconcile(client, max_share=1)
    assert record.status is ReconcileStatus.COMPLETED
    assert found[FindingKind.POINTS_WITHOUT_ROWS].repaired == len(lone)
    assert await stores.vectors.count_ids(COLLECTION, lone) == 0
