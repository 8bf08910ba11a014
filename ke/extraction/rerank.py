"""Rerankers, chosen by name: how well each of a few texts answers a query, by a model too slow for all of them."""

from typing import Final

import numpy as np

from ke.contracts.errors import InvalidInput
from ke.extraction.embed import embed, find_embedder

_RERANKERS: Final = {"minilm": "minilm"}
"""By name, the embedder whose cosine judges."""


def check_reranker(name: str) -> None:
    """Raises `InvalidInput` when there is no reranker of this name, or what it needs is not installed."""
    if name not in _RERANKERS:
        raise InvalidInput(f"there is no reranker {name[:100]!r}; known: {', '.join(sorted(_RERANKERS))}")
    find_embedder(_RERANKERS[name])


def judge(name: str, query: str, texts: list[str]) -> list[float]:
    """How well each text answers the query, 0 to 1; some 30 ms of a core for a text of 256 tokens.

    Raises:
        InvalidInput: There is no such reranker, or a text or the query is empty.
    """
    check_reranker(name)
    vectors = np.asarray(embed(_RERANKERS[name], [query, *texts]), dtype=np.float32)
    return [max(float(cosine), 0.0) for cosine in vectors[1:] @ vectors[0]]
