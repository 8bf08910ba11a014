"""The gateway: `uvicorn api.app:create_app --factory`."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from fastapi import Depends, FastAPI
from pydantic import ValidationError

from api import openapi, problems
from api.middleware import BodyGuard, HeadAsGet, HostGuard, RequestLog
from api.resources import Gateway
from api.routes import (
    cleanups,
    dead_letters,
    docs,
    entities,
    health,
    index,
    jobs,
    projects,
    reconciliations,
    retries,
    search,
    sources,
)
from api.routes.params import check_members, check_names
from api.schemas import MAX_BODY_BYTES
from ke.contracts.errors import KeError, Unavailable
from ke.extraction.embed import DEFAULT_EMBEDDER, embed
from ke.runtime import logs
from ke.runtime.endpoints import resolve
from ke.runtime.heap import freeze_heap
from ke.runtime.loop_watch import watched_loop
from ke.runtime.resources import open_vectors
from ke.runtime.settings import Settings, describe_invalid_settings

ROUTERS: Final = (
    jobs.router,
    sources.router,
    entities.router,
    dead_letters.router,
    retries.router,
    cleanups.router,
    projects.router,
    search.router,
    reconciliations.router,
    health.router,
    index.router,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Makes the gateway; it connects to nothing before it is asked something.

    Args:
        settings: None: those of the environment, and this process's logs are set up by them.

    Raises:
        Unavailable: It is not said where Temporal, Postgres and the vector store are.
        InvalidInput: One of them cannot be where the settings say.
        SystemExit: The same, or a value that does not fit, in the environment; one line on standard error names it.
    """
    try:
        chosen = settings or _own_settings()
        connections = resolve(chosen)
        gateway = Gateway.build(chosen, connections, open_vectors(connections, chosen))
    except (ValidationError, KeError) as error:
        if settings is not None:
            raise
        # Called by uvicorn: whoever started it has settings to put right, and no use for a traceback.
        wrong = describe_invalid_settings(error) if isinstance(error, ValidationError) else error.message
        sys.stderr.write(f"error: {wrong}\n")
        raise SystemExit(1 if isinstance(error, Unavailable) else 2) from error

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.gateway = gateway
        # The first search would hold up all other calls while the model is read.
        await asyncio.to_thread(embed, DEFAULT_EMBEDDER, ["ready"])
        freeze_heap()
        async with watched_loop():
            yield
        await gateway.close()

    return assemble(lifespan, hosts=chosen.api_hosts)


def _own_settings() -> Settings:
    settings = Settings()
    logs.configure("gateway", settings.log_level)
    return settings


def assemble(lifespan: openapi.Lifespan | None = None, *, hosts: frozenset[str] = frozenset({"*"})) -> FastAPI:
    """Puts routes, problems and middleware together; without a lifespan there is only the description of the API."""
    app = FastAPI(
        title="ke",
        summary="Durable knowledge-extraction jobs: crawl, extract, search, cancel and clean without a trace",
        description=openapi.DESCRIPTION,
        version=openapi.VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_tags=openapi.TAGS,
    )
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(check_names), Depends(check_members)])
    docs.install(app)
    problems.install(app, [route for router in ROUTERS for route in router.routes])
    openapi.install(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(BodyGuard, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(HostGuard, hosts=hosts)
    app.add_middleware(RequestLog)
    return app
