"""The two halves of a search: by meaning from the vector store, by words from Postgres, under the same filter."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from api.resources import Gateway
from ke.storage.search import (
    ChunkFilter,
    Document,
    fitting_chunks,
    prefer_indexes,
    project_jobs,
)
from ke.storage.text_search import TextHit, TextQuery, best_by_words, read_query, score_by_words
from ke.storage.vectors.base import MAX_SEARCH_IDS

MAX_FETCH: Final = 5000
"""Points that one call asks the vector store for, at most."""
MAX_WALK: Final = 20
"""Times `MAX_SEARCH_IDS` chunks that fit a filter are ranked one and all, when the nearest points do not fit it."""
_STEP: Final = 4
_NO_UUID: Final = uuid.UUID(int=0)


class Origin(NamedTuple):
    """What a chunk is from."""

    source_id: uuid.UUID
    document: Document
    """What that source is a copy of."""


@dataclass(frozen=True, slots=True)
class Half:
    """What one half of a search found."""

    scores: Mapping[uuid.UUID, float] = field(default_factory=dict)
    """Of chunks, best first."""
    origins: Mapping[uuid.UUID, Origin] = field(default_factory=dict)
    """What they are from."""
    by_words: Mapping[uuid.UUID, float] = field(default_factory=dict)
    """Of the half by meaning: what the words make of the same chunks."""
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
    query: TextQuery,
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
        query: Its words, by which what is found is scored too.
        scope: What is looked among.
        depth: Chunks, at most.
        is_enough: Whether what was found will do, or is to be looked for among all that fit.
    """
    asked = depth
    while True:
        hits = await gateway.vectors.search(collection, vector, limit=asked, job_ids=scope.job_ids, ids=scope.ids)
        shown = await _shown(gateway, [hit.id for hit in hits], query, scope)
        scores = {hit.id: hit.score for hit in hits if hit.id in shown}
        more = len(hits) == asked
        if len(scores) >= depth or not more or asked >= MAX_FETCH:
            break
        asked = min(asked * _STEP, MAX_FETCH)
    found = _half(dict(list(scores.items())[:depth]), shown, more=more or len(scores) > depth)
    if more and not scope.held and not is_enough(found):
        return await _walk(gateway, collection, vector, query, scope, depth)
    return found


async def _shown(
    gateway: Gateway, ids: Sequence[uuid.UUID], query: TextQuery, scope: Scope
) -> dict[uuid.UUID, TextHit]:
    """Those of the points that may be shown and fit, scored by words on the way."""
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        hits = await score_by_words(connection, query, ids, scope.matching, limit=max(len(ids), 1))
    return {hit.id: hit for hit in hits}


def _half(scores: Mapping[uuid.UUID, float], shown: Mapping[uuid.UUID, TextHit], *, more: bool) -> Half:
    return Half(
        scores,
        {key: _origin(shown[key]) for key in scores},
        {key: shown[key].score for key in scores if shown[key].score},
        more=more,
    )


async def _walk(
    gateway: Gateway, collection: str, vector: Sequence[float], query: TextQuery, scope: Scope, depth: int
) -> Half:
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
    shown = await _shown(gateway, list(best), query, scope)
    return _half({key: score for key, score in best.items() if key in shown}, shown, more=len(ids) == batch)


async def by_words(gateway: Gateway, query: TextQuery, scope: Scope, *, depth: int) -> Half:
    """The chunks that have the query's words, by BM25."""
    if not query.terms:
        return Half()
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        if scope.ids is not None:
            hits = await score_by_words(connection, query, scope.ids, scope.matching, limit=depth)
            hits = [hit for hit in hits if hit.score]
            more = len(hits) == depth
        else:
            hits, more = await best_by_words(connection, query, scope.matching, limit=depth)
    return Half({hit.id: hit.score for hit in hits}, {hit.id: _origin(hit) for hit in hits}, more=more)


def _origin(hit: TextHit) -> Origin:
    return Origin(hit.source_id, hit.document)


async def read_words(gateway: Gateway, query: str) -> TextQuery:
    """The query's stems, and how common they are."""
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        return await read_query(connection, query)


async def add_cosines(
    gateway: Gateway, collection: str | None, vector: Sequence[float], meaning: Half, words: Half
) -> dict[uuid.UUID, float]:
    """The cosines of all that either half found: what lay too deep to see for one half has its score all the same."""
    missing = [key for key in words.scores if key not in meaning.scores]
    if collection is None or not missing:
        return dict(meaning.scores)
    hits = await gateway.vectors.search(collection, vector, limit=len(missing), ids=missing)
    return {**meaning.scores, **{hit.id: hit.score for hit in hits}}
