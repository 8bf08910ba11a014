"""What the gateway's handlers work with: the clients, built once, none of which needs its server to be up."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from api.service.engine import Engine
from ke.runtime.endpoints import Connections
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import TemporalConnection
from ke.storage.database import Database
from ke.storage.vectors.base import VectorStore
from ke.web.egress import EgressPolicy


@dataclass(frozen=True, slots=True)
class Gateway:
    """The clients of a gateway."""

    database: Database
    engine: Engine
    vectors: VectorStore
    policy: EgressPolicy

    @classmethod
    def build(cls, settings: Settings, connections: Connections, vectors: VectorStore) -> "Gateway":
        """Makes the clients; connects to nothing yet.

        Raises:
            InvalidInput: The database's URL is none.
        """
        return cls(
            database=Database(connections.database_url, application_name="ke-gateway"),
            engine=Engine(TemporalConnection(connections.temporal_address, settings)),
            vectors=vectors,
            policy=EgressPolicy(settings.fetch_allow),
        )

    async def close(self) -> None:
        """Ends the connections."""
        await self.vectors.close()
        await self.database.close()


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(_gateway)]
