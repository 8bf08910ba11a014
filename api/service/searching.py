"""Search by meaning, by words, or by both: the stores find, Postgres says what may be shown."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from api.errors import ValidationFailed
from api.problems import pointer_of
from api.resources import Gateway
from api.search_body import SearchBody
from api.service.candidates import Half, Origin, Scope, add_cosines, by_meaning, by_words, find_scope, read_words
from api.service.reranking import RERANKED, rerank
from api.service.snippets import cut_snippet, find_marks, new_marks
from api.views import SearchHit, SearchResult, SnippetView
from ke.contracts.errors import InvalidInput, NotFound
from ke.extraction.embed import embed, embedder_names, find_embedder
from ke.storage.jobs import missing_jobs
from ke.storage.search import Document, FoundChunk, embedders_of, prefer_indexes, visible_chunks
from ke.storage.text_search import TextQuery, mark_words

DEPTH: Final = 100
"""Chunks that each half of a search ranks at first: fewer fuse worse."""
OVERFETCH: Final = 3
"""Chunks that are ranked for one hit, as several can be of one source."""
MAX_DEPTH: Final = 2000
_STEP: Final = 4
_NO_WORDS: Final = TextQuery((), 0.0)


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk with its scores."""

    id: uuid.UUID
    origin: Origin
    score: float
    """As the mode has it."""
    share: float
    """The same on a scale from 0 to 1."""
    cosine: float | None
    bm25: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """What a search asks the stores."""

    body: SearchBody
    scope: Scope
    collection: str | None
    """None: not asked, or there is none yet."""
    vector: Sequence[float]
    words: TextQuery

    @property
    def wanted(self) -> int:
        """Hits that are to be found."""
        return self.body.limit

    def pick(self, ranked: Sequence[Ranked]) -> list[Ranked]:
        """The best, or the best of each document: several jobs of a project may have stored copies of one."""
        if not self.body.distinct_sources:
            return list(ranked[: self.wanted])
        best: dict[Document, Ranked] = {}
        for one in ranked:
            best.setdefault(one.origin.document, one)
        return list(best.values())[: self.wanted]

    def without_copies(self, ranked: Sequence[Ranked]) -> list[Ranked]:
        """The ranking with one source of each document, that of its best chunk."""
        if not self.body.distinct_sources:
            return list(ranked)
        first: dict[Document, uuid.UUID] = {}
        return [
            one for one in ranked if first.setdefault(one.origin.document, one.origin.source_id) == one.origin.source_id
        ]

    def is_enough(self, half: Half) -> bool:
        """Whether a half alone has as much as is wanted."""
        documents = {origin.document for origin in half.origins.values()}
        number = len(documents) if self.body.distinct_sources else len(half.scores)
        return number >= self.wanted


async def search(gateway: Gateway, body: SearchBody) -> SearchResult:
    """What answers a query, best first.

    Raises:
        ValidationFailed: The query has no meaning to the embedder.
        NotFound: There never was a job that is named.
        Unavailable: Postgres, or the vector store where it is asked, does not answer.
    """
    await _check_jobs(gateway, body.job_ids or ())
    question = await _ask(gateway, body)
    depth = max(DEPTH, question.wanted * OVERFETCH)
    while True:
        ranked, more = await _rank(gateway, question, depth)
        picked = question.pick(ranked)
        if len(picked) >= question.wanted or not more or depth >= MAX_DEPTH:
            break
        depth = min(depth * _STEP, MAX_DEPTH)
    if body.rerank is not None:
        picked = question.pick(await _look_again(gateway, question, body.rerank, question.without_copies(ranked)))
    hits = await _tell(gateway, question, picked)
    embedders = None
    if body.mode != "text" and all(one.cosine is None for one in ranked):
        embedders = await _other_embedders(gateway, question)
    return SearchResult(data=hits, complete=len(hits) >= body.limit or not more, embedders=embedders)


async def _check_jobs(gateway: Gateway, job_ids: Sequence[uuid.UUID]) -> None:
    if not job_ids:
        return
    async with gateway.database.transaction() as connection:
        missing = await missing_jobs(connection, job_ids)
    if missing:
        errors = [
            {"pointer": pointer_of(("job_ids", number)), "detail": "There is no such job."}
            for number, job_id in enumerate(job_ids)
            if job_id in missing
        ]
        first = next(job_id for job_id in job_ids if job_id in missing)
        raise NotFound(f"There is no job {first}.", errors=errors)


async def _other_embedders(gateway: Gateway, question: Question) -> list[str]:
    """By what the chunks were embedded that are searched, where the embedder that is asked embedded none of them."""
    others = [name for name in embedder_names() if name != question.body.embedder]
    async with gateway.database.transaction() as connection:
        await prefer_indexes(connection)
        return await embedders_of(connection, others, question.scope.matching)


async def _ask(gateway: Gateway, body: SearchBody) -> Question:
    scope, words, (collection, vector) = await asyncio.gather(
        find_scope(gateway, body.to_filter()), _words(gateway, body), _vector(gateway, body)
    )
    return Question(body, scope, collection, vector, words)


async def _words(gateway: Gateway, body: SearchBody) -> TextQuery:
    return _NO_WORDS if body.mode == "dense" else await read_words(gateway, body.query)


async def _vector(gateway: Gateway, body: SearchBody) -> tuple[str | None, Sequence[float]]:
    if body.mode == "text":
        return None, ()
    collection = find_embedder(body.embedder).collection
    if collection not in await gateway.vectors.collections():
        return None, ()
    try:
        return collection, (await asyncio.to_thread(embed, body.embedder, [body.query]))[0]
    except InvalidInput as error:
        errors = [{"pointer": "/query", "detail": error.message}]
        raise ValidationFailed("This query cannot be searched for.", errors=errors) from error


async def _rank(gateway: Gateway, question: Question, depth: int) -> tuple[list[Ranked], bool]:
    """The best chunks, and whether there may be more."""

    async def meaning() -> Half:
        if question.collection is None:
            return Half()
        return await by_meaning(
            gateway,
            question.collection,
            question.vector,
            question.words,
            question.scope,
            depth=depth,
            is_enough=question.is_enough,
        )

    near, wordy = await asyncio.gather(meaning(), by_words(gateway, question.words, question.scope, depth=depth))
    cosines = await add_cosines(gateway, question.collection, question.vector, near, wordy)
    scores = {**near.by_words, **wordy.scores}
    origins = {**near.origins, **wordy.origins}
    keys = cosines.keys() | scores.keys()
    ranked = [_judge(question, key, origins[key], cosines, scores) for key in keys if key in origins]
    ranked.sort(key=lambda one: (-one.score, one.id))
    return ranked, near.more or wordy.more


def _judge(
    question: Question,
    key: uuid.UUID,
    origin: Origin,
    cosines: Mapping[uuid.UUID, float],
    scores: Mapping[uuid.UUID, float],
) -> Ranked:
    """The score of a chunk.

    Both halves are brought to a scale from 0 to 1 that does not depend on what else was found: the cosine as it is,
    BM25 by the bound that no chunk reaches for these words. So a query whose words are nowhere together leaves its
    weight to the meaning, and one whose words are all in one chunk finds that (docs/adr/0018).
    """
    cosine, bm25 = cosines.get(key), scores.get(key)
    near = max(cosine or 0.0, 0.0)
    wordy = (bm25 or 0.0) / (question.words.bound or 1.0)
    if question.body.mode == "dense":
        return Ranked(key, origin, cosine or 0.0, near, cosine, bm25)
    if question.body.mode == "text":
        return Ranked(key, origin, bm25 or 0.0, wordy, cosine, bm25)
    weight = find_embedder(question.body.embedder).weight
    score = weight * near + (1 - weight) * wordy
    return Ranked(key, origin, score, score, cosine, bm25)


async def _look_again(gateway: Gateway, question: Question, name: str, ranked: Sequence[Ranked]) -> list[Ranked]:
    """The ranking with the best chunks ordered anew by a reranker; the others follow them in the order they have.

    Chunks, not sources: the chunk that the first look liked best is not always the one that answers.
    """
    first = ranked[:RERANKED]
    async with gateway.database.transaction() as connection:
        chunks = await visible_chunks(connection, [one.id for one in first], question.scope.matching)
    first = [one for one in first if one.id in chunks]
    texts = [chunks[one.id].text for one in first]
    scores = await rerank(gateway, name, question.body.query, texts, [one.share for one in first])
    again = [replace(one, score=score) for one, score in zip(first, scores, strict=True)]
    again.sort(key=lambda one: (-one.score, one.id))
    lowest = again[-1].score if again else 0.0
    top = max((one.share for one in ranked[RERANKED:]), default=0.0) or 1.0
    return again + [replace(one, score=lowest * one.share / top) for one in ranked[RERANKED:]]


async def _tell(gateway: Gateway, question: Question, picked: Sequence[Ranked]) -> list[SearchHit]:
    """The hits with what is shown of them; what was deleted in between is left out."""
    marks = new_marks()
    keys = [one.id for one in picked]
    async with gateway.database.transaction() as connection:
        chunks = await visible_chunks(connection, keys, question.scope.matching)
        marked = await mark_words(connection, question.body.query, list(chunks), marks)
    shown = [(one, chunks[one.id]) for one in picked if one.id in chunks]
    hits = []
    for one, chunk in shown:
        hits.append(_view(one, chunk, find_marks(chunk.text, marked.get(chunk.id, ""), marks)))
        # A chunk of nothing but marks takes up to 20 ms, and there may be a hundred: others have their turn in between.
        await asyncio.sleep(0)
    return hits


def _view(one: Ranked, chunk: FoundChunk, words: Sequence[tuple[int, int]]) -> SearchHit:
    snippet = cut_snippet(chunk.text, words)
    return SearchHit(
        id=chunk.id,
        text=chunk.text,
        heading=chunk.heading,
        snippet=SnippetView(text=snippet.text, start=snippet.start, marks=list(snippet.marks)),
        score=round(one.score, 6),
        dense_score=None if one.cosine is None else round(one.cosine, 6),
        text_score=None if one.bm25 is None else round(one.bm25, 6),
        url=chunk.url,
        title=chunk.title,
        date=chunk.date,
        language=chunk.language,
        fetched_at=chunk.fetched_at,
        source_id=chunk.source_id,
        job_id=chunk.job_id,
        project=chunk.project,
    )
