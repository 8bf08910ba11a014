"""What a worker or a gateway holds open for its whole life, built from the settings and closed in order."""

from ke.contracts.errors import InvalidInput
from ke.extraction.chat import ChatClient, ChatEndpoint
from ke.runtime.endpoints import Connections
from ke.runtime.settings import Settings
from ke.storage.vectors.base import VectorStore
from ke.storage.vectors.edge import EdgeVectors
from ke.web.egress import EgressPolicy
from ke.web.fetch import Fetcher


def open_vectors(connections: Connections, settings: Settings) -> VectorStore:
    """The vector store of this shape: a Qdrant server where its URL is set, else the embedded engine.

    Raises:
        InvalidInput: Neither is known.
    """
    if connections.qdrant_url is not None:
        # Two seconds of imports, for who needs it.
        from ke.storage.vectors.server import ServerVectors  # noqa: PLC0415

        key = settings.qdrant_api_key.get_secret_value() if settings.qdrant_api_key else None
        return ServerVectors.connect(connections.qdrant_url, api_key=key)
    if connections.vectors_socket is None:
        raise InvalidInput("No vector store: set KE_QDRANT_URL, or KE_DATA_DIR to the folder of a running stack.")
    return EdgeVectors(connections.vectors_socket)


def open_fetcher(settings: Settings) -> Fetcher:
    """The fetcher, which refuses every address that is not public and not in `KE_FETCH_ALLOW`."""
    return Fetcher(
        user_agent=settings.user_agent,
        timeout_s=settings.fetch_timeout_s,
        max_bytes=settings.fetch_max_bytes,
        policy=EgressPolicy(settings.fetch_allow),
    )


def open_chat(settings: Settings) -> ChatClient | None:
    """The client of the endpoint in `KE_LLM_URL`; None where that is not set."""
    if settings.llm_url is None:
        return None
    endpoint = ChatEndpoint(
        url=settings.llm_url,
        key=settings.llm_api_key.get_secret_value() if settings.llm_api_key else None,
        model=settings.llm_model,
        concurrency=settings.llm_concurrency,
        timeout_s=settings.llm_timeout_s,
        max_output_tokens=settings.llm_max_output_tokens,
        max_chars=settings.llm_max_chars,
        price_in=settings.llm_price_in,
        price_out=settings.llm_price_out,
    )
    return ChatClient(endpoint)
