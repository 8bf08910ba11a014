"""Search by meaning: the vector store finds, Postgres says what may be shown."""

import asyncio
from typing import Final

from api.errors import ValidationFailed
from api.resources import Gateway
from api.schemas import SearchBody
from api.views import SearchHit
from ke.contracts.errors import InvalidInput
from ke.extraction.embed import collection_name, embed
from ke.storage.search import FoundChunk, visible_chunks
from ke.storage.vectors.base import Hit

OVERFETCH: Final = 3
MAX_FETCH: Final = 5000
"""Points that one search asks the vector store for, at most."""


async def search(gateway: Gateway, body: SearchBody) -> list[SearchHit]:
    """The chunks nearest to the query, best first.

    The store is asked for more points than are wanted, since some may not be shown: of a job in cleanup, left over
    from a crash, of another project. When too few remain it is asked for more again.

    Raises:
        ValidationFailed: The query has no meaning to the embedder.
        Unavailable: Postgres or the vector store does not answer.
    """
    collection = collection_name(body.embedder)
    if collection not in await gateway.vectors.collections():
        return []
    try:
        vector = (await asyncio.to_thread(embed, body.embedder, [body.query]))[0]
    except InvalidInput as error:
        errors = [{"pointer": "/query", "detail": error.message}]
        raise ValidationFailed("This query cannot be searched for.", errors=errors) from error
    wanted = body.limit * OVERFETCH
    while True:
        found = await gateway.vectors.search(collection, vector, limit=wanted, job_ids=body.job_ids)
        async with gateway.database.transaction() as connection:
            chunks = await visible_chunks(connection, [hit.id for hit in found], project=body.project)
        if len(chunks) >= body.limit or len(found) < wanted or wanted >= MAX_FETCH:
            shown = [(hit, chunks[hit.id]) for hit in found if hit.id in chunks]
            return [_view(hit, chunk) for hit, chunk in shown[: body.limit]]
        wanted = min(wanted * 4, MAX_FETCH)


def _view(hit: Hit, chunk: FoundChunk) -> SearchHit:
    return SearchHit(
        id=chunk.id,
        text=chunk.text,
        heading=chunk.heading,
        score=round(hit.score, 6),
        url=chunk.url,
        title=chunk.title,
        source_id=chunk.source_id,
        job_id=chunk.job_id,
    )
