"""The main job on a whole stack: crawl, extract, search, clean up, delete."""

import json
import uuid
from pathlib import Path

import pytest

from examples.serve import SiteServer
from ke.client import ApiError
from tests.e2e.stack import Stack, eventually

MANIFEST = json.loads((Path(__file__).parents[2] / "examples" / "site.json").read_text())


@pytest.fixture(scope="module")
async def crawl(stack: Stack, example_site: SiteServer) -> dict:
    """A finished crawl of the demo's site, with extraction."""
    async with stack.client() as client:
        job = await client.submit_crawl([f"{example_site.url}/"], extract={})
        while job["completed_at"] is None:
            job = await client.get_job(job["id"], wait_s=30)
    return job


async def test_crawl_finds_exactly_what_an_independent_walk_finds(stack: Stack, crawl: dict) -> None:
    """The counts are those of the site's manifest, which a walk over the files computed."""
    result = crawl["result"]
    assert crawl["status"] == "completed_with_errors"
    assert result["pages_fetched"] == result["sources"] == MANIFEST["sources"]
    assert result["pages_duplicate"] == MANIFEST["duplicates"] + MANIFEST["redirects"]
    assert result["pages_failed"] == result["dead_letters"] == MANIFEST["broken"]
    assert result["pages_skipped"] == MANIFEST["disallowed"]


async def test_robots_keep_the_crawl_out(example_site: SiteServer, crawl: dict) -> None:
    """A disallowed page was linked and never asked for."""
    assert crawl["result"]
    assert not [r for r in example_site.requests if r.path.startswith("/private/")]


async def test_extractions_are_paired_with_their_sources(stack: Stack, crawl: dict) -> None:
    """Each chunk is the very slice of its own source's text, each entity of its own chunk's."""
    rows = await stack.sql(
        'SELECT substr(s.text, e.start + 1, e."end" - e.start) = e.text AS same FROM extractions e'
        " JOIN sources s ON s.id = e.source_id WHERE e.job_id = $1",
        uuid.UUID(crawl["id"]),
    )
    assert len(rows) == crawl["result"]["extractions"] > MANIFEST["sources"]
    assert all(row["same"] for row in rows)
    names = await stack.sql(
        'SELECT substr(x.text, n.start + 1, n."end" - n.start) = n.text AS same FROM entities n'
        " JOIN extractions x ON x.id = n.extraction_id WHERE n.job_id = $1",
        uuid.UUID(crawl["id"]),
    )
    assert len(names) == crawl["result"]["entities"] > 0
    assert all(row["same"] for row in names)


async def test_search_finds_the_page_that_answers(stack: Stack, crawl: dict) -> None:
    """Each question of the manifest has the page that answers it among the first five hits."""
    async with stack.client() as client:
        for question in MANIFEST["questions"]:
            hits = await client.search(question["question"], job_ids=[crawl["id"]], limit=5)
            assert any(hit["url"].endswith(question["page"]) for hit in hits), question


async def test_recrawl_stores_and_extracts_nothing_anew(stack: Stack, example_site: SiteServer, crawl: dict) -> None:
    """The site is as it was: every page is unchanged, points to the document that there is, and no chunk is made."""
    async with stack.client() as client:
        job = await client.submit_crawl([f"{example_site.url}/"], extract={}, recrawl_of=crawl["id"])
        while job["completed_at"] is None:
            job = await client.get_job(job["id"], wait_s=30)
    then, now = crawl["result"], job["result"]
    assert now["pages_unchanged"] == then["pages_fetched"] + then["pages_duplicate"]
    assert (now["pages_failed"], now["pages_skipped"]) == (then["pages_failed"], then["pages_skipped"])
    assert {now[name] for name in ("pages_fetched", "pages_gone", "sources", "extractions", "vectors")} == {0}
    lost = await stack.sql(
        "SELECT p.url FROM pages p LEFT JOIN sources s ON s.id = p.source_id AND s.job_id = $2"
        " WHERE p.job_id = $1 AND p.state = 'unchanged' AND s.id IS NULL",
        *(uuid.UUID(job["id"]), uuid.UUID(crawl["id"])),
    )
    assert lost == []


async def test_a_chunk_of_a_pdf_names_its_page(stack: Stack, crawl: dict) -> None:
    """What only the PDF says is found in it, under the heading of the page that says it."""
    document = MANIFEST["document"]
    async with stack.client() as client:
        hits = await client.search(document["question"], job_ids=[crawl["id"]], limit=5)
        found = [hit for hit in hits if hit["url"].endswith(document["page"])]
        assert any(hit["heading"].endswith(document["heading"]) for hit in found)
        source = await client.get_source(found[0]["source_id"])
    assert source["content_type"] == "application/pdf"
    assert source["metadata"]["pages"] == "3"


async def test_same_key_gives_the_same_job(stack: Stack, example_site: SiteServer) -> None:
    """A repeated submit is one job; another body under its key is refused."""
    key = str(uuid.uuid4())
    async with stack.client() as client:
        first = await client.submit_scrape([f"{example_site.url}/bell-rock.html"], idempotency_key=key)
        again = await client.submit_scrape([f"{example_site.url}/bell-rock.html"], idempotency_key=key)
        assert first["id"] == again["id"]
        with pytest.raises(ApiError) as refused:
            await client.submit_scrape([f"{example_site.url}/"], idempotency_key=key)
        assert refused.value.status == 422


async def test_extract_job_makes_batches_of_the_sources_of_another(stack: Stack, crawl: dict) -> None:
    """An extract job with `chunk_size` extracts every source of a crawl, and removes only its own on cleanup."""
    async with stack.client() as client:
        job = await client.submit_extract(source_job_id=crawl["id"], chunk_size=10, chunk_tokens=64, entities=None)
        while job["completed_at"] is None:
            job = await client.get_job(job["id"], wait_s=30)
        assert job["status"] == "completed"
        assert job["result"]["sources_extracted"] == MANIFEST["sources"]
        assert job["result"]["extractions"] == job["result"]["vectors"] > crawl["result"]["extractions"]
        receipt = await client.cleanup_job(job["id"], wait_s=60)
        assert receipt["deleted"]["vectors"] == job["result"]["vectors"]
        assert receipt["deleted"]["sources"] == 0
        untouched = await stack.sql("SELECT count(*) n FROM extractions WHERE job_id = $1", uuid.UUID(crawl["id"]))
        assert untouched[0]["n"] == crawl["result"]["extractions"]


async def test_cleanup_deletes_all_with_an_exact_receipt(stack: Stack, crawl: dict) -> None:
    """The receipt's numbers are those counted before, nothing is found after, and the record can go."""
    job_id, result = crawl["id"], crawl["result"]
    async with stack.client() as client:
        planned = await client.cleanup_job(job_id, dry_run=True)
        receipt = await client.cleanup_job(job_id, wait_s=60)
        assert receipt["status"] == "cleaned"
        for store in ("vectors", "sources", "extractions", "entities", "dead_letters"):
            assert receipt["deleted"][store] == planned["planned"][store] == result[store], store
            assert receipt["remaining"][store] == 0
        assert await client.cleanup_job(job_id) == receipt
        assert await client.search("Who built the Bell Rock?", job_ids=[job_id]) == []
        assert (await client.list_sources(job_id))["data"] == []
        assert await client.delete_job_record(job_id) is None
        with pytest.raises(ApiError) as gone:
            await client.get_job(job_id)
        assert gone.value.status == 404
        assert (await client.get_cleanup(receipt["id"])) == receipt
    describe = ("temporal", "workflow", "describe", "--workflow-id", f"job-{job_id}")
    # Temporal deletes the history, which has the URLs, in the background.
    await eventually(lambda: stack.ke(*describe), lambda described: described.code != 0, timeout_s=240)
