"""A gateway and the whole real worker in front of a small site whose pages can be broken, held and mended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from temporalio.client import Client

from ke.runtime.settings import Settings
from tests.integration.api.stack import ApiStack, open_gateway
from tests.integration.web_site import Site
from tests.stores import Stores
from worker import running_workers

PATIENCE_S = 120.0
"""Seconds a test waits for anything: the pool's models are loaded meanwhile, on however busy a machine."""
ENDS = ("completed", "completed_with_errors", "cancelled", "failed")


@dataclass
class RetryStage:
    """The stack, and the site."""

    api: ApiStack
    site: Site
    gates: list[asyncio.Event] = field(default_factory=list)

    def page(self, path: str, *links: str) -> None:
        """A good page, with links."""
        anchors = "".join(f'<a href="{link}">{link}</a> ' for link in links)
        text = f"<p>This is {path}. Robert Stevenson built the lighthouse on the Bell Rock in 1810.</p>{anchors}"
        self.site.serve(path, f"<html><title>{path}</title><body>{text}</body></html>", Content_Type="text/html")

    def broken(self, path: str, status: int = 404) -> None:
        """A page that fails: for good with 404, after some attempts with 500."""
        self.site.serve(path, "no", status)

    def held(self, path: str) -> asyncio.Event:
        """A page that answers only after the event, which is set in the end at the latest."""
        gate = asyncio.Event()
        self.gates.append(gate)

        async def handler(_: web.Request) -> web.StreamResponse:
            await gate.wait()
            return web.Response(text=f"<p>Late: {path}</p>", content_type="text/html")

        self.site.pages[path] = handler
        return gate

    async def until_asked(self, path: str, times: int) -> None:
        """Waits until a page was asked for so often."""
        async with asyncio.timeout(PATIENCE_S):
            while self.site.asked[path] < times:  # noqa: ASYNC110  the site counts
                await asyncio.sleep(0.02)

    async def crawl(self, path: str, **members: Any) -> dict[str, Any]:
        """A crawl from this page that has ended."""
        body = {"kind": "crawl", "seeds": [self.site.url + path], "scope": {"sitemaps": False}, **members}
        answer = await self.api.http.post("/jobs", json=body)
        assert answer.status_code == 202, answer.text
        async with asyncio.timeout(PATIENCE_S):
            while True:
                job = await self.job(answer.json()["id"])
                if job["status"] in ENDS:
                    return job
                await asyncio.sleep(0.05)

    async def retry(self, job_id: str, **body: Any) -> dict[str, Any]:
        """A retry that was accepted."""
        answer = await self.api.http.post(f"/jobs/{job_id}/dead-letters/retry", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"] == f"/retries/{answer.json()['id']}"
        return answer.json()

    async def until_over(self, retry_id: str) -> dict[str, Any]:
        """The retry as soon as it has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                retry = (await self.api.http.get(f"/retries/{retry_id}")).json()
                if retry["status"] != "running":
                    return retry
                await asyncio.sleep(0.05)

    async def job(self, job_id: str) -> dict[str, Any]:
        """The job as it reads."""
        return (await self.api.http.get(f"/jobs/{job_id}")).json()

    async def letters(self, job_id: str, **filters: str) -> list[dict[str, Any]]:
        """The job's dead letters."""
        return (await self.api.http.get(f"/jobs/{job_id}/dead-letters", params=filters)).json()["data"]


@asynccontextmanager
async def open_retry_stage(
    settings: Settings, stores: Stores, temporal: Client, site: Site
) -> AsyncIterator[RetryStage]:
    """All of it, in this process but for the pool."""
    async with open_gateway(settings, stores, temporal) as api, running_workers(settings, temporal):
        stage = RetryStage(api, site)
        yield stage
        for gate in stage.gates:
            gate.set()
