"""The gateway's front door."""

from typing import Final

from fastapi import APIRouter, Request

from api.openapi import VERSION
from api.views import Index

_PATHS: Final = {"docs": "/docs", "openapi": "/openapi.json", "health": "/healthz", "ready": "/readyz"}

router = APIRouter(tags=["health"])


@router.get("/", operation_id="readIndex", summary="What is this, and where is its description?")
async def read_index(request: Request) -> Index:
    """Names the service and where to go on; asks nothing of what is behind the gateway."""
    root = request.scope.get("root_path", "")
    return Index(name="ke", version=VERSION, **{name: f"{root}{path}" for name, path in _PATHS.items()})
