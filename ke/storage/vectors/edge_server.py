"""The embedded vector store as a process: `python -m ke.storage.vectors.edge_server --dir DIR --socket PATH`.

An HTTP API over a Unix socket, for `edge.py` alone. Bodies are JSON; vectors travel as base64 of little-endian
32-bit floats, a tenth of the work of decimal digits. The engine holds the interpreter while it works, which is why
it has this process to itself.

Exit status: 0 after SIGTERM or SIGINT, 1 when the last flush did not end in time, 2 when it cannot start, 3 when the
engine failed beyond a single call; what was answered for is on disk then, and a new process goes on with it.
"""

import argparse
import asyncio
import base64
import binascii
import logging
import os
import signal
import socket
import stat
import sys
import uuid
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import uvloop
from aiohttp import web

from ke.contracts.errors import Fenced, InvalidInput, KeError, NotFound
from ke.storage.vectors.checks import Matrix
from ke.storage.vectors.edge_engine import EdgeEngine, FolderInUse, Owner
from ke.storage.vectors.edge_files import FolderDamaged
from ke.storage.vectors.edge_optimise import Tuning
from ke.storage.vectors.edge_optimiser import Optimiser
from ke.storage.vectors.edge_searches import PATH as SEARCHES
from ke.storage.vectors.edge_searches import SearchServer
from ke.storage.vectors.edge_worker import EngineThread

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""1,000 vectors of 4,096 dimensions in base64, and room."""
DRAIN_S: Final = 4.0
"""For requests under way, on SIGTERM."""
CLOSE_S: Final = 5.0
"""For the last flush, after them."""
_LONGEST_SOCKET_PATH: Final = 107
_STATUS: Final[dict[type[KeError], int]] = {InvalidInput: 422, NotFound: 404, Fenced: 409}

_TUNING: Final = Tuning()

log = logging.getLogger("ke.vectors")
ENGINE: Final = web.AppKey("engine", EngineThread)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CannotStart(Exception):
    """The process cannot serve; the message says why."""


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into `{code, detail}`."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _answer({"code": InvalidInput.code, "detail": error.reason}, error.status)
    except Exception as error:  # noqa: BLE001  the edge of the process: the engine raises nothing narrower
        return _answer(*_problem(error, f"{request.method} {request.path}"))


def _problem(error: Exception, what: str) -> tuple[dict[str, Any], int]:
    """What is answered instead, and the status; what is nobody's fault but ours goes to the log."""
    if isinstance(error, KeError):
        return {"code": error.code, "detail": error.message}, _STATUS.get(type(error), 500)
    if isinstance(error, (KeyError, TypeError, ValueError, OverflowError)):
        detail = f"malformed request: {type(error).__name__}: {error}"
        return {"code": InvalidInput.code, "detail": detail}, 422
    log.error("%s failed", what, exc_info=error)
    return {"code": "internal", "detail": str(error)}, 500


async def health(request: web.Request) -> web.Response:
    """Whether calls are served; does not wait for the engine."""
    alive = request.app[ENGINE].alive
    return _answer({"status": "ok" if alive else "engine stopped", "pid": os.getpid()}, 200 if alive else 503)


async def list_collections(request: web.Request) -> web.Response:
    """The names of all collections."""
    return _answer({"collections": await request.app[ENGINE].read(lambda engine: engine.collections())})


async def put_collection(request: web.Request) -> web.Response:
    """Creates a collection when it is missing."""
    name, body = request.match_info["name"], await _body(request)
    dimensions = int(body["dimensions"])
    await request.app[ENGINE].read(lambda engine: engine.ensure_collection(name, dimensions))
    return _answer({})


async def put_fence(request: web.Request) -> web.Response:
    """Sets a job's fence."""
    job_id, body = uuid.UUID(request.match_info["job"]), await _body(request)
    epoch = int(body["epoch"])
    await request.app[ENGINE].read(lambda engine: engine.fence(job_id, epoch))
    return _answer({})


async def upsert(request: web.Request) -> web.Response:
    """Writes points."""
    name, body = request.match_info["name"], await _body(request)
    read = cache(uuid.UUID)  # most points have their source's ids in common
    owners = [Owner(*map(read, ids)) for ids in body["points"]]
    vectors = _matrix(body["vectors"], int(body["dimensions"]))
    epochs = {uuid.UUID(job): int(epoch) for job, epoch in body["epochs"].items()}
    await request.app[ENGINE].write(name, lambda engine: engine.upsert(name, owners, vectors, epochs))
    return _answer({})


async def delete(request: web.Request) -> web.Response:
    """Deletes points by id; answers how many of them are left."""
    name, body = request.match_info["name"], await _body(request)
    ids = _ids(body["ids"])
    left = await request.app[ENGINE].write(name, lambda engine: engine.delete(name, ids))
    return _answer({"left": left})


async def count(request: web.Request) -> web.Response:
    """Counts the points of a job or a source, those of some ids that are there, or all."""
    name, body = request.match_info["name"], await _body(request)
    if "ids" in body:
        ids = _ids(body["ids"])
        number = await request.app[ENGINE].read(lambda engine: engine.count_ids(name, ids))
    elif "job_id" in body:
        job_id = uuid.UUID(body["job_id"])
        number = await request.app[ENGINE].read(lambda engine: engine.count_job(name, job_id))
    elif "source_id" in body:
        source_id = uuid.UUID(body["source_id"])
        number = await request.app[ENGINE].read(lambda engine: engine.count_source(name, source_id))
    else:
        number = await request.app[ENGINE].read(lambda engine: engine.count_all(name))
    return _answer({"count": number})


async def present(request: web.Request) -> web.Response:
    """Which of some ids are there."""
    name, body = request.match_info["name"], await _body(request)
    ids = _ids(body["ids"])
    return _answer({"ids": await request.app[ENGINE].read(lambda engine: engine.present(name, ids))})


def searching(engine: EngineThread) -> SearchServer:
    """What answers searches, which come over connections of their own."""

    async def answer(body: dict[str, Any], vector: bytes) -> tuple[int, bytes]:
        try:
            return 200, orjson.dumps({"hits": await search(engine, body, vector)})
        except Exception as error:  # noqa: BLE001  the edge of the process: the engine raises nothing narrower
            content, status = _problem(error, "a search")
            return status, orjson.dumps(content)

    return SearchServer(answer)


async def search(engine: EngineThread, body: dict[str, Any], vector: bytes) -> list[tuple[uuid.UUID, float]]:
    """The nearest points."""
    name, limit = str(body["collection"]), int(body["limit"])
    row = np.frombuffer(vector, dtype="<f4").reshape(1, -1)
    job_ids = None if body.get("job_ids") is None else _ids(body["job_ids"])
    ids = None if body.get("ids") is None else _ids(body["ids"])
    hits = await engine.read(lambda engine: engine.search(name, row, limit=limit, job_ids=job_ids, ids=ids))
    return [(hit.id, hit.score) for hit in hits]


async def scroll(request: web.Request) -> web.Response:
    """A page of the ids of the points of a job or a source, or of all."""
    name, body = request.match_info["name"], await _body(request)
    after = uuid.UUID(body["after"]) if body.get("after") else None
    limit = int(body["limit"])
    engine = request.app[ENGINE]
    if "job_id" in body:
        job_id = uuid.UUID(body["job_id"])
        ids = await engine.read(lambda engine: engine.scroll_job(name, job_id, limit=limit, after=after))
    elif "source_id" in body:
        source_id = uuid.UUID(body["source_id"])
        ids = await engine.read(lambda engine: engine.scroll_source(name, source_id, limit=limit, after=after))
    else:
        ids = await engine.read(lambda engine: engine.scroll_all(name, limit=limit, after=after))
    return _answer({"ids": ids})


def create_app(engine: EngineThread) -> web.Application:
    """The API over an engine."""
    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY_BYTES)
    app[ENGINE] = engine
    searches = searching(engine)
    app.on_shutdown.append(searches.close)
    app.add_routes(
        [
            web.get("/healthz", health),
            web.get("/collections", list_collections),
            web.put("/collections/{name}", put_collection),
            web.post("/collections/{name}/upsert", upsert),
            web.post("/collections/{name}/delete", delete),
            web.post("/collections/{name}/count", count),
            web.post("/collections/{name}/present", present),
            web.get(SEARCHES, searches.serve),
            web.post("/collections/{name}/scroll", scroll),
            web.put("/fences/{job}", put_fence),
        ]
    )
    return app


async def serve(engine: EngineThread, path: Path, optimiser: Optimiser) -> None:
    """Serves until SIGTERM or SIGINT, then lets the requests under way finish."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(create_app(engine), access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    await web.UnixSite(runner, path).start()
    log.info("vectors ready on %s", path)
    optimising = asyncio.create_task(optimiser.run())
    await stop.wait()
    optimising.cancel()
    await asyncio.gather(runner.cleanup(), optimising, return_exceptions=True)


def main(arguments: list[str] | None = None) -> int:
    """Runs the process; returns its exit status."""
    parser = argparse.ArgumentParser(prog="ke.storage.vectors.edge_server", description="The embedded vector store.")
    parser.add_argument("--dir", type=Path, required=True, help="the folder with the collections")
    parser.add_argument("--socket", type=Path, required=True, help="the Unix socket to serve on")
    parser.add_argument(
        "--optimise-rows", type=int, default=_TUNING.growing_rows, help="points without a graph that a search may meet"
    )
    parser.add_argument(
        "--optimise-quiet-s", type=float, default=_TUNING.quiet_s, help="seconds without a write before it is optimised"
    )
    parser.add_argument(
        "--full-scan-kb",
        type=int,
        default=_TUNING.full_scan_kb,
        help="vectors below this size are searched without a graph",
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)
    try:
        _check_length(given.socket)
        engine = EngineThread(EdgeEngine.open(given.dir))
        _free(given.socket)
        uvloop.run(serve(engine, given.socket, Optimiser(engine, given.dir, _tuning(given))))
        given.socket.unlink(missing_ok=True)
    except (FolderInUse, FolderDamaged, CannotStart, OSError) as error:
        sys.stderr.write(f"vectors: cannot start: {error}\n")
        return 2
    if not engine.close(CLOSE_S):
        log.error("the last flush did not end within %.0f s", CLOSE_S)
        return 1
    return 0


def _tuning(given: argparse.Namespace) -> Tuning:
    return Tuning(
        growing_rows=given.optimise_rows,
        removed_rows=min(given.optimise_rows, _TUNING.removed_rows),
        quiet_s=given.optimise_quiet_s,
        check_s=min(given.optimise_quiet_s, _TUNING.check_s),
        full_scan_kb=given.full_scan_kb,
    )


def _check_length(path: Path) -> None:
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise CannotStart(f"{path} is longer than the {_LONGEST_SOCKET_PATH} bytes that a Unix socket's path may have")


def _free(path: Path) -> None:
    """Removes the socket that a killed process left; one that answers is somebody's."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotStart(f"{path} exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise CannotStart(f"{path} is served by another process")


async def _body(request: web.Request) -> dict[str, Any]:
    body = orjson.loads(await request.read())
    if not isinstance(body, dict):
        raise InvalidInput("the body is not an object")
    return body


def _ids(values: list[str]) -> list[uuid.UUID]:
    return [uuid.UUID(value) for value in values]


def _matrix(encoded: str, dimensions: int) -> Matrix:
    try:
        return np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4").reshape(-1, dimensions)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"the vectors are not rows of {dimensions} 32-bit floats") from error


def _answer(content: dict[str, Any], status: int = 200) -> web.Response:
    kind = "application/json" if status < 400 else "application/problem+json"  # noqa: PLR2004
    return web.Response(body=orjson.dumps(content), status=status, content_type=kind)


if __name__ == "__main__":
    sys.exit(main())
