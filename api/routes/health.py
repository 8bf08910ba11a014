"""Whether the gateway is alive, and whether it is of use."""

import asyncio

from fastapi import APIRouter

from api.errors import NotReady
from api.resources import GatewayDep
from api.views import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", operation_id="isAlive", summary="Is the gateway alive?")
async def is_alive() -> Health:
    """Answers as long as the process does, whatever else is down."""
    return Health()


@router.get("/readyz", operation_id="isReady", summary="Is all that the gateway needs up?")
async def is_ready(gateway: GatewayDep) -> Readiness:
    """Asks the database, Temporal and the vector store, a second each and all at once."""
    names = ("database", "temporal", "vectors")
    answers = await asyncio.gather(gateway.database.is_up(), gateway.engine.is_up(), gateway.vectors.healthy())
    checks = dict(zip(names, answers, strict=True))
    down = [name for name, is_up in checks.items() if not is_up]
    if down:
        raise NotReady(f"Down: {', '.join(down)}.", checks=checks)
    return Readiness(checks=checks)
