"""What a re-crawl has replaced is found no more, on a whole stack."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples.serve import SiteServer
from ke.client import KnowledgeExtractionClient
from ke.client_types import PageItem
from tests.e2e.stack import Stack, eventually

CHANGED, GONE, KEPT = 12, 4, 4
NAMES = [f"{number:02}" for number in range(CHANGED + GONE + KEPT)]


def write_page(folder: Path, name: str, word: str) -> None:
    text = f"Report {name}: the {word} of the northern lighthouse was painted again in the spring."
    (folder / f"{name}.html").write_text(
        f"<html><head><title>{name}</title></head><body><main><p>{text}</p></main></body></html>", encoding="utf-8"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a site whose pages each say something of their own."""
    folder = tmp_path / "site"
    folder.mkdir()
    links = "".join(f'<a href="{name}.html">{name}</a>' for name in NAMES)
    (folder / "index.html").write_text(f"<html><body><p>Reports</p>{links}</body></html>", encoding="utf-8")
    for name in NAMES:
        write_page(folder, name, "gallery")
    return folder


@pytest.fixture
async def site(folder: Path) -> AsyncIterator[SiteServer]:
    async with SiteServer(folder) as server:
        yield server


async def earlier(client: KnowledgeExtractionClient, job_id: str, state: str) -> list[PageItem]:
    return [page async for page in client.iterate_pages(job_id, state=state)]


async def test_replaced_documents_are_forgotten_also_when_workers_are_killed(
    tmp_path: Path, folder: Path, site: SiteServer
) -> None:
    """Each has a receipt; what is unchanged stays, and so does what the pages say now."""
    stack = Stack(tmp_path / "data", fetch_allow=site.host_port)
    try:
        await asyncio.to_thread(stack.start)
        await _forget_and_kill(stack, folder, site)
    finally:
        await asyncio.to_thread(stack.stop)


async def _forget_and_kill(stack: Stack, folder: Path, site: SiteServer) -> None:
    seed = f"{site.url}/index.html"
    first = (await stack.ke("crawl", seed, "--no-entities", "--wait", "--json")).document
    assert first["result"]["sources"] == len(NAMES) + 1
    for name in NAMES[:CHANGED]:
        write_page(folder, name, "lantern")
    for name in NAMES[CHANGED : CHANGED + GONE]:
        (folder / f"{name}.html").unlink()
    again = ("crawl", seed, "--no-entities", "--recrawl-of", first["id"], "--forget-replaced", "--json")
    second = (await stack.ke(*again)).document
    await eventually(lambda: stack.sql("SELECT id FROM cleanups"), lambda begun: len(begun) > 0, every_s=0.02)
    stack.kill_worker()
    async with stack.client() as client:
        changed = await earlier(client, second["id"], "changed")
        assert len(changed) == CHANGED
        assert all(page["previous_source_id"] for page in changed)

        async def left() -> int:
            pages = await earlier(client, second["id"], "changed") + await earlier(client, second["id"], "gone")
            return sum(page["previous_is_stored"] is True for page in pages)

        await eventually(left, lambda number: number == 0)
        gone = await earlier(client, second["id"], "gone")
        assert len(gone) == GONE
        for page in changed + gone:
            receipt = await eventually(
                lambda page=page: client.get_cleanup(f"cleanup-source-{page['previous_source_id']}"),
                lambda receipt: receipt["status"] != "running",
            )
            assert (receipt["status"], receipt["job_id"]) == ("cleaned", first["id"])
            assert receipt["deleted"]["sources"] == 1
            assert receipt["deleted"]["vectors"] >= 1
        found = await client.search("gallery of the northern lighthouse", limit=100)
        urls = [hit["url"].removeprefix(f"{site.url}/") for hit in found if "gallery" in hit["text"]]
        assert sorted(urls) == [f"{name}.html" for name in NAMES[CHANGED + GONE :]]
        found = await client.search("lantern of the northern lighthouse", job_ids=[second["id"]], limit=100)
        assert len({hit["url"] for hit in found if "lantern" in hit["text"]}) == CHANGED
        rows = await stack.sql("SELECT count(*) AS n FROM cleanups WHERE status = 'cleaned'")
        assert rows[0]["n"] == CHANGED + GONE
