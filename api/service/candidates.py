"""The two halves of a search: by meaning from the vector store, by words from Postgres, under the same filter."""

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from api.resources import Gateway
from ke.storage.search import (
    ChunkFilter,
    fitting_chunks,
    prefer_indexes,
    project_jobs,
    visible_sources,
)
from ke.storage.text_search import TextQuery, best_by_words, read_query, score_by_words
from ke.storage.vectors.base import MAX_SEARCH_IDS

MAX_FETCH: Final = 5000
"""Points that one call asks the vector store for, at most."""
MAX_WALK: Final = 20
"""Times `MAX_SEARCH_IDS` chunks that fit a filter are ranked one and all, when the nearest points do not fit it."""
_STEP: Final = 4
_NO_UUID: Final = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class Half:
    """What one half of a search found."""

    scores: Mapping[uuid.UUID, float] = field(default_factory=dict)
    """Of chunks, best first."""
    sources: Mapping[uuid.UUID, uuid.UUID] = field(default_factory=dict)
    """What they are from."""
    more: bool = False
    """Whether there may be more that were not looked at."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A filter, and how the stores are asked to hold it."""

    matching: ChunkFilter
    job_ids: list[uuid.UUID] | None = None
    """The vector store looks among the points of these jobs; None: among all."""
    ids: list[uuid.UUID] | None = None
    """All chunks that fit, when they are few: both halves rank these and no others."""

    held: bool = True
    """Whether that is all of the filter; if not, Postgres takes out what does not fit."""


async def find_scope(gateway: Gateway, matching: ChunkFilter) -> Scope:
    """Decides how a filter is held.

    Jobs and projects are what the vector store knows. What Postgres alone knows (address, language, day, entity) is
    turned into the list of the chunks that fit, when there are at most `MAX_SEARCH_IDS`.
    """
    job_ids = None if matching.job_ids is None else list(matching.job_ids)
    if matching == ChunkFilter(job_ids=matching.job_ids):
        return Scope(matching, job_ids)
    async with gateway.database.transaction() as connection:
        of_project = None
        if matching.project is not None:
            of_project = await project_jobs(connection, matching.project)
        if of_project is not None:
            job_ids = [job for job in of_project if job_ids is None or job in job_ids]
        if matching.is_of_jobs and of_project is not None:
            return Scope(matching, job_ids)  # all of the filter
        await prefer_indexes(connection)
        ids = await fitting_chunks(connection, matching, limit=MAX_SEARCH_IDS + 1)
    few = len(ids) <= MAX_SEARCH_IDS
    return Scope(matching, job_ids, ids if few else None, held=few)


async def by_meaning(
    gateway: Gateway,
    collection: str,
    vector: Sequence[float],
    scope: Scope,
    *,
    depth: int,
    is_enough: Callable[[Half], bool],
) -> Half:
    """The chunks nearest to a vector.

    The store is asked for more points than are wanted, in growing steps, since some may not be shown: of a job in
    cleanup, left over from a crash, outside of the filter. When the nearest `MAX_FETCH` do not hold enough that fit,
    those that fit are ranked one and all.

    Args:
        gateway: The clients.
        collection: An existing collection.
        vector: The query's.
        scope: What is looked among.
        depth: Chunks, at most.
        is_enough: Whether what was found will do, or is to be looked for among all that fit.
    """
    asked = depth
    while True:
        hits = await gateway.vectors.search(collection, vector, limit=asked, job_ids=scope.job_ids, ids=scope.ids)
        async with gateway.database.transaction() as connection:
            sources = await visible_sources(connection, [hit.id for hit in hits], scope.matching)
        scores = {hit.id: hit.score for hit in hits if hit.id in sources}
        more = len(hits) == asked
        if len(scores) >= depth or not more or asked >= MAX_FETCH:
            break
        asked = min(asked * _STEP, MAX_FETCH)
    found = Half(dict(list(scores.items())[:depth]), sources, more or len(scores) > depth)
    if more and not scope.held and not is_enough(found):
        return await _walk(gateway, collection, vector, scope, depth)
    return found


async def _walk(gateway: Gateway, collection: str, vector: Sequence[float], scope: Scope, depth: int) -> Half:
    """Ranks all chunks that fit a filter, a batch at a time."""
    best: dict[uuid.UUID, float] = {}
    after, batch = _NO_UUID, MAX_SEARCH_IDS
    for _ in range(MAX_WALK):
        async with gateway.database.transaction() as connection:
            ids = await fitting_chunks(connection, scope.matching, limit=batch, after=after)
        hits = await gateway.vectors.search(collection, vector, limit=depth, ids=ids) if ids else []
        best |= {hit.id: hit.score for hit in hits}
        best = dict(sorted(best.items(), key=lambda item: (-item[1], item[0]))[:depth])
        if len(ids) < batch:
            break
        after = ids[-1]
    async with gateway.database.transaction() as connection:
        sources = await visible_sources(connection, list(best), scope.matching)
    return Half({key: score for key, score in best.items() if key in sources}, sources, len(ids) == batch)


async def by_words(gateway: Gateway, query: TextQuery, scope: Scope, *, depth: int) -> Half:
    """The chunks that have the query's words, by BM25."""
    if not query.terms:
        return Half()
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        if scope.ids is not None:
            hits = await score_by_words(connection, query, scope.ids, scope.matching, limit=depth)
            more = len(hits) == depth
        else:
            hits, more = await best_by_words(connection, query, scope.matching, limit=depth)
    return Half({hit.id: hit.score for hit in hits}, {hit.id: hit.source_id for hit in hits}, more)


async def read_words(gateway: Gateway, query: str) -> TextQuery:
    """The query's stems, and how common they are."""
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        return await read_query(connection, query)


async def complete_halves(
    gateway: Gateway,
    collection: str | None,
    vector: Sequence[float],
    query: TextQuery,
    scope: Scope,
    halves: tuple[Half, Half],
) -> tuple[dict[uuid.UUID, float], dict[uuid.UUID, float]]:
    """Both scores of every chunk that either half found: one that a half had too deep to see is not one without score.

    Returns:
        Cosines and BM25 scores; of a chunk that has none of the words, or no point in the collection, none.
    """
    meaning, words = halves
    without_cosine = [key for key in words.scores if key not in meaning.scores]
    without_words = [key for key in meaning.scores if key not in words.scores]

    async def cosines() -> dict[uuid.UUID, float]:
        if collection is None or not without_cosine:
            return {}
        count = len(without_cosine)
        hits = await gateway.vectors.search(collection, vector, limit=count, ids=without_cosine)
        return {hit.id: hit.score for hit in hits}

    async def scores() -> dict[uuid.UUID, float]:
        async with gateway.database.transaction() as connection:
            hits = await score_by_words(
                connection, query, without_words, scope.matching, limit=max(1, len(without_words))
            )
        return {hit.id: hit.score for hit in hits}

    more_cosines, more_scores = await asyncio.gather(cosines(), scores())
    return {**meaning.scores, **more_cosines}, {**words.scores, **more_scores}
