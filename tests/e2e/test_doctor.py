"""`ke doctor` against a whole stack: well, hurt, and mended."""

import uuid
from pathlib import Path

from examples.serve import SiteServer
from ke.storage.vectors.edge import EdgeVectors
from tests.e2e.stack import Stack
from tests.e2e.test_stopping import ended


async def test_doctor_finds_what_is_missing_and_mends_it(stack: Stack, example_site: SiteServer) -> None:
    """Points that are lost make it say 1 and which, `--repair` brings them back from the texts, and all is well."""
    async with stack.client() as client:
        job = await client.submit_scrape([f"{example_site.url}/"], extract={})
    job = await ended(stack, job["id"])
    [row] = await stack.sql(
        "SELECT array_agg(id) AS ids, min(collection) AS name FROM extractions WHERE job_id = $1", uuid.UUID(job["id"])
    )
    ids = [uuid.UUID(str(key)) for key in row["ids"]]
    vectors = EdgeVectors(Path(stack.endpoints["vectors"]))
    try:
        await vectors.delete(row["name"], ids)
        hurt = await stack.ke("doctor", "--json")
        lost = {f["kind"]: f for f in hurt.document["findings"]}["rows-without-points"]
        assert (hurt.code, lost["found"], lost["repaired"]) == (1, len(ids), 0)
        mended = await stack.ke("doctor", "--repair")
        assert mended.code == 0, mended.out + mended.err
        assert await vectors.count_ids(row["name"], ids) == len(ids)
    finally:
        await vectors.close()
    well = await stack.ke("doctor")
    assert well.code == 0, well.out
    assert "All consistent." in well.out


async def test_stack_reconciles_by_itself(stack: Stack) -> None:
    """The start has set the schedule up, for everybody to see."""
    shown = await stack.ke("temporal", "schedule", "describe", "--schedule-id", "ke-reconcile")
    assert shown.code == 0, shown.err
    assert "ScheduledReconcile" in shown.out
