"""A small working twin of the gateway: a real HTTP server on loopback that keeps its jobs in memory.

It stands at the network's edge of the CLI's and the MCP tools' tests, so that what they do is checked against real
requests and answers. The whole system is tested against the real gateway elsewhere.
"""

import asyncio
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

TERMINAL = {"cancelled", "completed", "completed_with_errors", "failed"}
COUNTERS = {
    "pages_fetched": 12,
    "pages_failed": 1,
    "pages_skipped": 2,
    "pages_duplicate": 1,
    "pages_unchanged": 0,
    "pages_gone": 0,
    "sources": 11,
    "sources_extracted": 11,
    "sources_skipped": 0,
    "extractions": 40,
    "entities": 90,
    "vectors": 40,
    "dead_letters": 1,
    "bytes": 123456,
    "elapsed_s": 3.25,
}
COUNTS = {"vectors": 40, "sources": 11, "extractions": 40, "entities": 90, "dead_letters": 1}
ZEROS = dict.fromkeys(COUNTS, 0)


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Call:
    """One request as the twin saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


ENTITY: Final = {
    "project": "default",
    "name": "Bell Rock",
    "label": "GPE",
    "aliases": ["the Bell Rock", "\x1b[31mBELL ROCK"],
    "mentions": 1234,
    "sources": 2,
}


@dataclass
class ApiTwin:
    """The gateway's answers; `calls` is what was asked."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    script: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """For a job, the changes that its next reads see, one a read."""
    relying: dict[str, Any] = field(default_factory=dict)
    """What receipts tell of pages and extractions of other jobs."""
    other_pages: dict[str, Any] | None = None
    is_uncounted: bool = False
    """Whether what would go cannot be counted, as when the vector store is down."""
    """What a dry run for a source tells of pages that have it too."""
    ends: dict[str, Any] = field(default_factory=dict)
    """How jobs that are submitted end, where that is not the usual way."""
    hits: list[dict[str, Any]] = field(default_factory=list)
    entity: dict[str, Any] = field(default_factory=lambda: {"id": str(uuid.uuid4()), **ENTITY})
    complete: bool = True
    embedders: list[str] | None = None
    projects: list[str] = field(default_factory=lambda: ["default", "docs"])
    has_entities: bool = True
    sources: list[dict[str, Any]] = field(default_factory=list)
    letters: list[dict[str, Any]] = field(default_factory=list)
    errors_left_out: int = 0
    """Errors that a summary of dead letters counts and does not tell."""
    records: list[dict[str, Any]] = field(default_factory=list)
    pages: list[dict[str, Any]] = field(default_factory=list)
    retry: dict[str, Any] = field(default_factory=dict)
    retry_end: dict[str, Any] = field(default_factory=lambda: {"status": "completed"})
    finish_at_cancel: dict[str, Any] | None = None
    """What a job becomes that completes before its cancel takes effect."""
    refusal: str = ""
    """What the refusal of a cancel says, where that is not the twin's own."""
    broken: bool = False
    """Whether every call is answered 503, as when the database is down."""
    calls: list[Call] = field(default_factory=list)
    url: str = ""

    def add_job(self, status: str = "running", **members: Any) -> str:
        """Put a job there; returns its id."""
        job_id = str(uuid.uuid4())
        ended = status in TERMINAL
        self.jobs[job_id] = {
            "id": job_id,
            "kind": "crawl",
            "status": status,
            "artifacts": "present",
            "project": "default",
            "labels": {},
            "params": {},
            "progress": dict(COUNTERS),
            "result": dict(COUNTERS) if ended else None,
            "error": {"type": "internal", "message": "it broke"} if status == "failed" else None,
            "workflow_id": f"job-{job_id}",
            "run_id": str(uuid.uuid4()),
            "created_at": now(),
            "started_at": now(),
            "cancel_requested_at": None,
            "completed_at": now() if ended else None,
        } | members
        return job_id

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._edge])
        app.add_routes(
            [
                web.post("/jobs", self._submit),
                web.get("/jobs", self._list),
                web.get("/jobs/{id}", self._get),
                web.delete("/jobs/{id}", self._delete),
                web.post("/jobs/{id}/cancel", self._cancel),
                web.post("/jobs/{id}/pause", self._pause),
                web.post("/jobs/{id}/resume", self._resume),
                web.post("/jobs/{id}/cleanup", self._cleanup),
                web.get("/jobs/{id}/sources", self._sources),
                web.get("/jobs/{id}/pages", self._pages),
                web.get("/sources", self._found_sources),
                web.get("/sources/{id}", self._source),
                web.get("/jobs/{id}/records", self._records),
                web.get("/jobs/{id}/dead-letters", self._letters),
                web.get("/jobs/{id}/dead-letters/summary", self._summary),
                web.delete("/jobs/{id}/dead-letters", self._purge),
                web.post("/jobs/{id}/dead-letters/retry", self._retry),
                web.get("/retries/{id}", self._read_retry),
                web.delete("/sources/{id}", self._forget),
                web.get("/projects", self._projects),
                web.post("/projects/{name}/cleanup", self._clean_project),
                web.get("/cleanups/{id}", self._receipt),
                web.post("/search", self._search),
                web.get("/entities", self._entities),
                web.get("/entities/{id}", self._entity),
                web.get("/entities/{id}/sources", self._mentioning),
                web.get("/entities/{id}/neighbours", self._neighbours),
            ]
        )
        return app

    @web.middleware
    async def _edge(self, request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        raw = await request.read()
        body = json.loads(raw) if raw else None
        self.calls.append(Call(request.method, request.path, dict(request.query), dict(request.headers), body))
        if self.broken:
            return problem(503, "database-unavailable", "The database did not answer in time.", retry_after=1)
        try:
            answer: web.StreamResponse = await handler(request)
        except web.HTTPNotFound:
            return problem(404, "not-found", f"There is no {request.path}.")
        return answer

    def _job(self, request: web.Request) -> dict[str, Any]:
        job_id = request.match_info["id"]
        if job_id not in self.jobs:
            raise web.HTTPNotFound
        return self.jobs[job_id]

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        if any(url.startswith("ftp:") for url in body.get("seeds", body.get("urls", []))):
            errors = [{"pointer": "/seeds/0", "detail": "Only http and https URLs are fetched."}]
            return problem(422, "validation-failed", "/seeds/0: Only http and https URLs are fetched.", errors=errors)
        job_id = self.add_job("queued", kind=body["kind"], params=body, progress={}, started_at=None)
        self.script[job_id] = [
            {"status": "running", "progress": {**COUNTERS, "pages_fetched": 5}},
            {"status": "completed", "progress": COUNTERS, "result": COUNTERS, "completed_at": now()} | self.ends,
        ]
        return web.json_response(self.jobs[job_id], status=202, headers={"Location": f"/jobs/{job_id}"})

    async def _list(self, request: web.Request) -> web.Response:
        wanted = request.query.get("status")
        jobs = [job for job in reversed(self.jobs.values()) if wanted in {None, job["status"]}]
        return web.json_response({"data": jobs, "next_cursor": None})

    async def _get(self, request: web.Request) -> web.Response:
        if request.match_info["id"] in self.deleted:
            return problem(404, "not-found", "This job was deleted.")
        job = self._job(request)
        if self.script.get(job["id"]):
            job.update(self.script[job["id"]].pop(0))
        return web.json_response(job)

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.get("retry_id"):
            body = (await request.json()) if await request.read() else {}
            cleaned = {"artifacts": "cleaned"} if body.get("cleanup") else {}
            self.script[job["id"]] = [{}, {"retry_id": None, **cleaned}]
            return web.json_response(job, status=202)
        if job["status"] in TERMINAL | {"cancelling"}:
            detail = self.refusal or f"The job is {job['status']}: it cannot be cancelled."
            return refusal(job, "not-cancellable", detail, ["cleanup", "delete"])
        body = (await request.json()) if await request.read() else {}
        stamp = now()
        job.update(status="cancelling", cancel_requested_at=stamp)
        receipt = {
            "requested_at": stamp,
            "quiescent_at": stamp,
            "latency_s": 0.21,
            "activities_drained": 2,
            "reason": body.get("reason") or "",
        }
        ended = {"status": "cancelled", "result": {**COUNTERS, "cancellation": receipt}, "completed_at": stamp}
        if body.get("cleanup"):
            ended["artifacts"] = "cleaned"
            self._clean(job)
        self.script[job["id"]] = [{}, self.finish_at_cancel or ended]
        return web.json_response(job, status=202)

    async def _pause(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job["status"] != "running":
            return refusal(job, "not-pausable", f"The job is {job['status']}: only a running job can be paused.", [])
        job["status"] = "paused"
        return web.json_response(job, status=202)

    async def _resume(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job["status"] != "paused":
            detail = f"The job is {job['status']}: only a paused job can be resumed."
            return refusal(job, "not-resumable", detail, ["pause", "cancel"])
        job["status"] = "running"
        return web.json_response(job, status=202)

    def _clean(self, job: dict[str, Any]) -> dict[str, Any]:
        receipt = {
            "id": f"cleanup-{job['id']}",
            "job_id": job["id"],
            "status": "cleaned",
            "relying": self.relying,
            "planned": COUNTS,
            "deleted": COUNTS,
            "remaining": ZEROS,
            "started_at": now(),
            "completed_at": now(),
            "error": None,
        }
        return self.receipts.setdefault(receipt["id"], receipt)

    def _accepted(self, receipt: dict[str, Any], *, dry_run: bool) -> web.Response:
        """A dry run's answer; or that of a cleanup which has ended before anybody asks for its receipt."""
        counts = {"planned": COUNTS, "deleted": ZEROS, "remaining": COUNTS, "relying": self.relying}
        counts |= {"started_at": now(), "completed_at": None}
        if dry_run:
            return web.json_response({**receipt, **counts, "status": "planned"})
        done = {**receipt, **counts, "status": "cleaned", "deleted": COUNTS, "remaining": ZEROS, "error": None}
        self.receipts.setdefault(receipt["id"], done)
        return web.json_response({**receipt, **counts, "status": "running", "error": None}, status=202)

    async def _forget(self, request: web.Request) -> web.Response:
        source = request.match_info["id"]
        about = {"id": f"cleanup-source-{source}", "scope": "source", "source_id": source, "job_id": str(uuid.uuid4())}
        is_dry = request.query.get("dry_run") == "true"
        if is_dry and self.is_uncounted:
            return problem(503, "vector-store-unavailable", "The vector store did not answer.", retry_after=1)
        return self._accepted(about | ({"other_pages": self.other_pages} if is_dry else {}), dry_run=is_dry)

    async def _clean_project(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == "busy":
            return problem(409, "job-active", "The project has active jobs: 1.", blocked_by=["1"])
        body = await request.json()
        about = {"id": f"cleanup-project-{name}-1", "scope": "project", "project": name, "job_id": None, "jobs": 2}
        return self._accepted({**about, "delete_record": body["delete_record"]}, dry_run=body["dry_run"])

    async def _cleanup(self, request: web.Request) -> web.Response:
        job = self._job(request)
        body = (await request.json()) if await request.read() else {}
        if job["status"] not in TERMINAL:
            return refusal(job, "job-active", f"The job is {job['status']}: cancel it before cleaning up.", ["cancel"])
        if body.get("dry_run"):
            dry = {"job_id": job["id"], "status": "planned", "planned": COUNTS, "deleted": ZEROS, "remaining": COUNTS}
            dry |= {"relying": self.relying, "started_at": now(), "completed_at": None}
            return web.json_response(dry | {"id": f"cleanup-{job['id']}"})
        receipt = self._clean(job)
        job["artifacts"] = "cleaned"
        if body.get("delete_record"):
            self.deleted.add(job["id"])
        waits = "wait=" in request.headers.get("Prefer", "")
        answer = receipt if waits else {**receipt, "status": "running", "completed_at": None, "deleted": ZEROS}
        return web.json_response(answer, status=200 if waits else 202)

    async def _delete(self, request: web.Request) -> web.Response:
        job = self._job(request)
        choice = request.query.get("cleanup")
        if job["status"] not in TERMINAL:
            return refusal(job, "job-active", f"The job is {job['status']}: cancel it before deleting it.", ["cancel"])
        if job["artifacts"] != "cleaned" and choice is None:
            detail = "The job still has artifacts: delete with ?cleanup=true, or keep them with ?cleanup=false."
            return refusal(job, "artifacts-present", detail, ["cleanup", "delete?cleanup=true", "delete?cleanup=false"])
        self.deleted.add(job["id"])
        if choice == "true":
            return web.json_response(self._clean(job), status=202)
        return web.Response(status=204)

    async def _receipt(self, request: web.Request) -> web.Response:
        receipt = self.receipts.get(request.match_info["id"])
        if receipt is None:
            raise web.HTTPNotFound
        return web.json_response(receipt)

    async def _sources(self, request: web.Request) -> web.Response:
        self._job(request)
        url = request.query.get("url")
        found = [source for source in self.sources if url in {None, source["url"]}]
        return web.json_response({"data": found, "next_cursor": None})

    async def _found_sources(self, request: web.Request) -> web.Response:
        url, prefix = request.query.get("url"), request.query.get("url_prefix", "")
        found = [source for source in self.sources if source["url"].startswith(prefix) and url in {None, source["url"]}]
        return web.json_response({"data": found[: int(request.query["limit"])], "next_cursor": None})

    async def _source(self, request: web.Request) -> web.Response:
        found = [source for source in self.sources if source["id"] == request.match_info["id"]]
        return web.json_response(found[0]) if found else problem(404, "not-found", "There is no such source.")

    async def _pages(self, request: web.Request) -> web.Response:
        self._job(request)
        wanted, url = request.query.get("state"), request.query.get("url")
        pages = [page for page in self.pages if wanted in {None, page["state"]} and url in {None, page["url"]}]
        return web.json_response({"data": pages, "next_cursor": None})

    async def _records(self, request: web.Request) -> web.Response:
        self._job(request)
        return web.json_response({"data": self.records, "next_cursor": None})

    async def _letters(self, request: web.Request) -> web.Response:
        self._job(request)
        return web.json_response({"data": self.letters, "next_cursor": None})

    async def _summary(self, request: web.Request) -> web.Response:
        self._job(request)
        groups: dict[str, dict[str, Any]] = {}
        for letter in self.letters:
            group = {name: letter.get(name, "") for name in ("subject", "error_type", "error_message", "url")}
            groups.setdefault(letter["error_type"], {**group, "letters": 0})["letters"] += 1
        errors = len(groups) + self.errors_left_out
        return web.json_response({"letters": len(self.letters), "errors": errors, "data": list(groups.values())})

    async def _purge(self, request: web.Request) -> web.Response:
        self._job(request)
        purged, self.letters = len(self.letters), []
        return web.json_response({"purged": purged})

    async def _retry(self, request: web.Request) -> web.Response:
        job = self._job(request)
        retry = {"id": f"retry-{job['id']}-1", "job_id": job["id"], "status": "running", "error": None}
        self.retry = retry | {"letters": len(self.letters), "succeeded": 0, "failed": 0}
        return web.json_response(self.retry, status=202)

    async def _read_retry(self, _: web.Request) -> web.Response:
        self.retry |= self.retry_end
        return web.json_response(self.retry)

    async def _search(self, _: web.Request) -> web.Response:
        return web.json_response({"data": self.hits, "complete": self.complete, "embedders": self.embedders})

    async def _projects(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"name": name, "jobs": 1} for name in self.projects], "next_cursor": None})

    async def _entities(self, _: web.Request) -> web.Response:
        if not self.has_entities:
            return web.json_response({"data": [], "next_cursor": None})
        return web.json_response({"data": [self.entity], "next_cursor": "more"})

    async def _entity(self, _: web.Request) -> web.Response:
        return web.json_response(self.entity)

    async def _mentioning(self, _: web.Request) -> web.Response:
        source = {"id": str(uuid.uuid4()), "job_id": str(uuid.uuid4()), "title": None, "mentions": 3}
        return web.json_response({"data": [{**source, "url": "https://e.com/light"}], "next_cursor": None})

    async def _neighbours(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{**self.entity, "name": "Robert Stevenson", "together": 2}]})


def problem(status: int, code: str, detail: str, *, retry_after: int | None = None, **members: Any) -> web.Response:
    """An RFC 9457 answer."""
    document = {"type": f"urn:ke:problem:{code}", "title": code, "status": status, "detail": detail, **members}
    headers = {"Retry-After": str(retry_after)} if retry_after else None
    return web.json_response(document, status=status, content_type="application/problem+json", headers=headers)


def refusal(job: dict[str, Any], code: str, detail: str, allowed: list[str]) -> web.Response:
    """A 409 that says in which state the job is."""
    return problem(409, code, detail, current_status=job["status"], allowed_actions=allowed)


@contextmanager
def serving(twin: ApiTwin) -> Iterator[ApiTwin]:
    """Serve a twin from a thread of its own, so that a test may block on a child process."""
    with _ServerThread(twin):
        yield twin


class _ServerThread:
    def __init__(self, twin: ApiTwin) -> None:
        self._twin = twin
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="api-twin", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _start(self) -> None:
        self._runner = web.AppRunner(self._twin.app(), access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self._twin.url = f"http://{host}:{port}"
