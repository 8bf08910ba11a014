"""The gateway while what it needs is not there."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from api.app import create_app
from ke.runtime.settings import Settings
from tests.integration.api.stack import QUICK, ApiStack, open_gateway

NOWHERE = "127.0.0.1:9"
"""The discard port: nothing listens there."""


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway with nothing behind it."""
    settings = Settings(
        data_dir=tmp_path,
        database_url=SecretStr(f"postgresql://ke@{NOWHERE}/ke"),
        temporal_address=NOWHERE,
        vectors_socket=tmp_path / "none.sock",
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http,
    ):
        yield http


async def test_gateway_stays_up_alone(alone: httpx.AsyncClient) -> None:
    """It is alive, says what is down, and answers 503 with Retry-After, quickly, to what needs it."""
    assert (await alone.get("/healthz")).json() == {"status": "ok"}
    index = (await alone.get("/")).json()
    for name in ("docs", "openapi", "health"):
        assert (await alone.get(index[name])).status_code == 200
    assert (index["name"], index["ready"]) == ("ke", "/readyz")
    ready = await alone.get("/readyz")
    assert (ready.status_code, ready.json()["type"]) == (503, "urn:ke:problem:not-ready")
    assert ready.json()["detail"] == "Down: database, temporal, vectors."
    assert ready.json()["checks"] == {"database": False, "temporal": False, "vectors": False}
    for answer in (
        await alone.post("/jobs", json={"kind": "scrape", "urls": [QUICK]}),
        await alone.get("/jobs"),
        await alone.post("/search", json={"query": "cats"}),
    ):
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["type"].endswith("-unavailable")


async def test_all_is_ready_when_all_is_up(api: ApiStack) -> None:
    """With everything there the gateway is ready."""
    # It gives each of them a second, which may pass while the machine stands still.
    seen = [await api.http.get("/readyz") for _ in range(10)]
    assert (200, {True}) in [(ready.status_code, set(ready.json()["checks"].values())) for ready in seen]


async def test_without_temporal_nothing_is_accepted_and_reading_works(api: ApiStack) -> None:
    """A submit or cancel without Temporal changes nothing and says 503; what is in Postgres still reads."""
    settings = api.settings.model_copy(update={"temporal_address": NOWHERE})
    running = await api.running()
    async with open_gateway(settings, api.stores, api.temporal) as cut_off:
        before = (await cut_off.http.get("/jobs", params={"project": "cut-off"})).json()["data"]
        body = {"kind": "scrape", "urls": [QUICK], "project": "cut-off"}
        submit = await cut_off.http.post("/jobs", json=body)
        assert (submit.status_code, submit.json()["type"]) == (503, "urn:ke:problem:temporal-unavailable")
        assert (await cut_off.http.get("/jobs", params={"project": "cut-off"})).json()["data"] == before == []
        cancel = await cut_off.http.post(f"/jobs/{running}/cancel")
        assert cancel.status_code == 503
        assert (await cut_off.http.get(f"/jobs/{running}")).json()["status"] == "running"
    await api.http.post(f"/jobs/{running}/cancel")
    await api.until(running, "cancelled")
