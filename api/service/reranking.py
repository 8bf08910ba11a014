"""A second look at the best hits of a search, by a model that is too slow for all of them."""

import asyncio
from collections.abc import Sequence
from typing import Final

from api.resources import Gateway
from ke.contracts.errors import Unavailable
from ke.extraction.rerank import judge

RERANKED: Final = 20
"""Chunks that are looked at: more find no better, measured (docs/adr/0018)."""
WAIT_S: Final = 5.0
"""Seconds that a search waits for its turn: one is reranked after the other, each for about half a second of a core."""

_WEIGHT: Final = 0.6
"""Of the reranker's judgement; the first score has the rest."""
_MAX_CHARS: Final = 2000
"""Of a chunk, from its beginning."""


async def rerank(gateway: Gateway, name: str, query: str, texts: Sequence[str], shares: Sequence[float]) -> list[float]:
    """New scores for some chunks, 0 to 1.

    Args:
        gateway: Whose turn it is.
        name: The reranker.
        query: What was asked.
        texts: The chunks', at most `RERANKED`.
        shares: Their scores from 0 to 1.

    Raises:
        Unavailable: Others are before this one, and not done in time.
    """
    if not texts:
        return []
    try:
        async with asyncio.timeout(WAIT_S):
            await gateway.reranking.acquire()
    except TimeoutError:
        raise Unavailable("Others are being reranked: try again, or without.") from None
    try:
        judged = await asyncio.to_thread(judge, name, query, [text[:_MAX_CHARS] for text in texts])
    finally:
        gateway.reranking.release()
    return [_WEIGHT * new + (1 - _WEIGHT) * first for new, first in zip(judged, shares, strict=True)]
