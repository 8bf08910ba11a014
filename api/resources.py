"""What the gateway's handlers work with: the clients, built once, none of which needs its server to be up."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import Depends, Request

from api.pagination import signing_key
from api.service.turns import Turns
from ke.runtime.endpoints import Connections
from ke.runtime.engine import Engine
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import TemporalConnection
from ke.storage.database import GATEWAY, Database
from ke.storage.vectors.base import VectorStore
from ke.web.egress import EgressPolicy

STATEMENT_TIMEOUT_S: Final = 10.0
"""Seconds for one statement of the gateway: someone waits for the answer."""
LOCK_TIMEOUT_S: Final = 4.0
"""Seconds for a row that a worker holds; its transactions are short, unless it froze in one."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The clients of a gateway."""

    database: Database
    engine: Engine
    vectors: VectorStore
    policy: EgressPolicy
    max_share: float
    """What a reconciliation may delete of a store when its caller does not say."""
    cursor_key: bytes = field(repr=False)
    """What the cursors of lists are signed with; see `api.pagination`."""
    has_language_model: bool = False
    """Whether records can be asked for: the workers that this gateway's jobs run on are set up alike."""
    names_model: bool = False
    """Whether there is a model for jobs that name none."""
    turns: Turns = field(default_factory=Turns)
    """Who cancels a job now."""
    reranking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Held by the search that is being reranked: there is a core's work in it."""

    @classmethod
    def build(cls, settings: Settings, connections: Connections, vectors: VectorStore) -> "Gateway":
        """Makes the clients; connects to nothing yet.

        Raises:
            InvalidInput: The database's URL is none.
        """
        return cls(
            database=Database(
                connections.database_url,
                application_name=GATEWAY,
                statement_timeout_s=STATEMENT_TIMEOUT_S,
                lock_timeout_s=LOCK_TIMEOUT_S,
            ),
            engine=Engine(TemporalConnection(connections.temporal_address, settings)),
            vectors=vectors,
            policy=EgressPolicy(settings.fetch_allow),
            max_share=settings.reconcile_max_share,
            cursor_key=signing_key(connections.database_url),
            has_language_model=settings.llm_url is not None,
            names_model=settings.llm_model is not None,
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self.vectors.close()
        await self.database.close()


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]
