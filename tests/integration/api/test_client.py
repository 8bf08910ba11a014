"""The Python client, over the real gateway and over broken networks."""

import asyncio
import socket

import httpx
import pytest

from ke.client import ApiError, GatewayUnreachable, KnowledgeExtractionClient
from tests.integration.api.stack import QUICK, SLOW, ApiStack
from tests.seeding import seed_crawl


async def test_submit_wait_and_list(api: ApiStack) -> None:
    """A job is submitted, waited for and found in the list; the same key gives the same job."""
    job = await api.ke.submit_scrape([QUICK], project="client", idempotency_key="client-1")
    again = await api.ke.submit_scrape([QUICK], project="client", idempotency_key="client-1")
    assert again["id"] == job["id"]
    ended = await api.ke.get_job(job["id"], wait_s=30)
    assert (ended["status"], ended["error"]) == ("completed", None)
    assert [found["id"] async for found in api.ke.iterate_jobs(project="client")] == [job["id"]]
    listed = await api.ke.list_jobs(project="client", status=["completed", "failed"], kind="scrape")
    assert listed["data"][0]["id"] == job["id"]


async def test_crawl_and_extract_bodies_fit(api: ApiStack) -> None:
    """What the client sends for a crawl and an extract is what the gateway takes."""
    crawl = await api.ke.submit_crawl(
        [QUICK], limits={"max_pages": 3}, scope={"sitemaps": False}, rate={"concurrency": 2}, extract={"chunk_size": 5}
    )
    assert crawl["params"]["limits"]["max_pages"] == 3
    assert crawl["params"]["extract"]["chunk_size"] == 5
    owner = await seed_crawl(api.stores.database, api.stores.vectors)
    extract = await api.ke.submit_extract(source_job_id=str(owner.id), chunk_tokens=64, entities=None)
    assert (extract["params"]["source_job_id"], extract["params"]["entities"]) == (str(owner.id), None)


async def test_cancel_refusal_comes_through_untouched(api: ApiStack) -> None:
    """A 409 surfaces with the server's own type, detail and members."""
    job_id = (await api.ke.submit_scrape([SLOW]))["id"]
    await api.until(job_id, "running")
    paused = await api.ke.pause_job(job_id)
    assert paused["status"] == "paused"
    await api.ke.resume_job(job_id)
    await api.ke.cancel_job(job_id, reason="enough")
    await api.until(job_id, "cancelled")
    with pytest.raises(ApiError) as caught:
        await api.ke.cancel_job(job_id)
    error = caught.value
    assert (error.status, error.type) == (409, "urn:ke:problem:not-cancellable")
    assert error.detail.startswith("The job is cancelled already, since 20")
    assert error.problem["current_status"] == "cancelled"


async def test_cleanup_receipt_and_delete(api: ApiStack) -> None:
    """Dry run, cleanup with a wait, receipt, delete."""
    job = await seed_crawl(api.stores.database, api.stores.vectors)
    planned = await api.ke.cleanup_job(str(job.id), dry_run=True)
    assert (planned["status"], planned["planned"]["sources"]) == ("planned", 3)
    assert len([entry async for entry in api.ke.iterate_sources(str(job.id))]) == 3
    assert (await api.ke.get_source(str(job.sources[0])))["text"] == "Text 0"
    assert await api.ke.purge_dead_letters(str(job.id)) == 2
    receipt = await api.ke.cleanup_job(str(job.id), wait_s=30)
    assert (receipt["status"], receipt["deleted"]["sources"]) == ("cleaned", 3)
    assert await api.ke.get_cleanup(receipt["id"]) == receipt
    assert await api.ke.delete_job_record(str(job.id)) is None
    with pytest.raises(ApiError) as caught:
        await api.ke.get_job(str(job.id))
    assert caught.value.status == 404


async def test_search_and_readiness(api: ApiStack) -> None:
    """A search gives hits; a ready gateway says so."""
    assert isinstance(await api.ke.search("anything at all", limit=1), list)
    # It gives each store a second, which may pass while the machine stands still.
    assert any([await api.ke.is_ready() for _ in range(10)])


async def test_ids_lead_nowhere_else(api: ApiStack) -> None:
    """An id is one segment of the path, whatever is in it."""
    for name in ("../readyz", "x/../../healthz", "a?b=c", "#"):
        with pytest.raises(ApiError) as caught:
            await api.ke.get_job(name)
        assert caught.value.status == 404


async def test_nobody_listens() -> None:
    """A port at which nobody listens is an unreachable gateway, told with its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        async with KnowledgeExtractionClient(url, timeout_s=30) as client:
            with pytest.raises(GatewayUnreachable, match=url):
                await client.list_jobs()
            assert await client.is_ready() is False


async def test_gateway_that_never_answers() -> None:
    """A gateway that takes the request and is silent is unreachable when the time is up."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client gives up
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, KnowledgeExtractionClient(_url(server), timeout_s=0.2) as client:
        with pytest.raises(GatewayUnreachable, match="in time"):
            await client.list_jobs()
        server.close()


async def test_broken_connection_is_tried_once_more_where_that_is_safe() -> None:
    """A submit has its key, so a connection that breaks is no reason to fail; a cancel is not repeated."""
    keys: list[str] = []

    async def brittle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        keys.extend(line for line in head.splitlines() if line.lower().startswith("idempotency-key"))
        if len(keys) == 2:
            writer.write(
                b'HTTP/1.1 202 Accepted\r\nContent-Length: 11\r\nContent-Type: application/json\r\n\r\n{"id": "x"}'
            )
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(brittle, "127.0.0.1", 0)
    async with server, KnowledgeExtractionClient(_url(server), timeout_s=30) as client:
        job = await client.submit_scrape(["https://site.example/"])
        assert job["id"] == "x"
        assert len(keys) == 2
        assert keys[0] == keys[1]
        keys.clear()
        with pytest.raises(GatewayUnreachable, match="broke"):
            await client.cancel_job("x")


async def test_answer_that_is_not_ours_is_an_api_error() -> None:
    """A server that is something else answers with an error that says what was asked."""
    transport = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>Bad Gateway</html>"))
    async with KnowledgeExtractionClient("http://elsewhere", transport=transport) as client:
        with pytest.raises(ApiError, match="http://elsewhere/jobs") as caught:
            await client.list_jobs()
    assert caught.value.status == 502


def _url(server: asyncio.Server) -> str:
    return "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
