"""What stands around every request."""

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from api.app import assemble


@pytest.fixture
def entered() -> asyncio.Event:
    """Set when `/forever` is being answered."""
    return asyncio.Event()


@pytest.fixture
def app(entered: asyncio.Event) -> FastAPI:
    app = assemble()

    @app.get("/crash")
    async def crash() -> None:
        raise ZeroDivisionError("a secret of the inside")

    @app.get("/forever")
    async def forever() -> None:
        entered.set()
        await asyncio.sleep(60)

    return app


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway")


async def test_crash_is_a_problem_without_its_inside(app: FastAPI) -> None:
    """What nobody expected is a 500 problem that shows nothing, and is in the log with the request's id."""
    with capture_logs() as entries:
        async with _client(app) as http:
            answer = await http.get("/crash", headers={"X-Request-ID": "crash-1"})
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:ke:problem:internal")
    assert answer.headers["X-Request-ID"] == "crash-1"
    assert "secret" not in answer.text
    assert [entry["event"] for entry in entries] == ["unexpected error", "request"]
    assert entries[1]["status"] == 500


async def test_request_that_the_server_cancels_is_a_503(app: FastAPI, entered: asyncio.Event) -> None:
    """A gateway that stops while it answers says so, and when to ask again."""
    async with _client(app) as http:
        asking = asyncio.create_task(http.get("/forever"))
        await asyncio.wait_for(entered.wait(), 30)
        asking.cancel()
        answer = await asking
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:ke:problem:shutting-down")
    assert answer.headers["Retry-After"]


async def test_each_request_has_an_id_and_a_line(app: FastAPI) -> None:
    """A request without an id, or with one that is none, gets one; its line has method, path, status and time."""
    with capture_logs() as entries:
        async with _client(app) as http:
            answers = [await http.get("/nowhere?token=secret", headers=h) for h in ({}, {"X-Request-ID": "a\tb c"})]
    ids = {answer.headers["X-Request-ID"] for answer in answers}
    assert len(ids) == 2
    assert all(len(found) == 32 for found in ids)
    assert {"method", "path", "status", "duration_ms"} <= entries[0].keys()
    assert "secret" not in str(entries)


async def test_docs_need_nothing_from_elsewhere(app: FastAPI) -> None:
    """Everything that /docs loads is served by the gateway itself."""
    async with _client(app) as http:
        page = await http.get("/docs")
        assert page.status_code == 200
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            assert link.startswith("/docs/assets/")
            assert (await http.get(link)).status_code == 200
        assert "/openapi.json" in page.text
        assert "://" not in page.text
        assert (await http.get("/openapi.json")).json()["info"]["title"] == "ke"
