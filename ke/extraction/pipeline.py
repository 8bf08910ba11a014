"""A source into chunks and vectors, in tasks short enough for a pool that must stay responsive.

Every task carries what it belongs to, and results are put back by chunk number: pairing is never by order of arrival.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, ParamSpec, Protocol, TypeVar
from uuid import UUID

from ke.contracts.jobs import ExtractSpec
from ke.extraction.chunk import Chunk, Outline, chunk_piece, cut
from ke.extraction.embed import Embedder, Vector, embed, find_embedder
from ke.extraction.entities import check_entities

P = ParamSpec("P")
T = TypeVar("T")

PIECE_CHARACTERS: Final = 65_536
"""Of a source's text in one chunking task: 40 ms of English, 130 ms of the worst that is known."""
_AT_ONCE: Final = 8
"""Tasks of one source in the pool's queue, so that a long source leaves room for others and is soon cancelled."""


class Pool(Protocol):
    """Runs functions elsewhere; `ke.runtime.pool.CpuPool` is one."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result."""
        ...


@dataclass(frozen=True, slots=True)
class SourceText:
    """What is extracted."""

    source_id: UUID
    text: str


@dataclass(frozen=True, slots=True)
class ExtractedChunk:
    """A chunk with what was made of it."""

    chunk: Chunk
    vector: Vector


@dataclass(frozen=True, slots=True)
class ExtractedSource:
    """A source's chunks, in order; none when its text is empty."""

    source_id: UUID
    collection: str
    """The vector store's collection that the vectors belong in."""
    chunks: tuple[ExtractedChunk, ...]


async def extract_source(pool: Pool, source: SourceText, spec: ExtractSpec) -> ExtractedSource:
    """Chunks a source and embeds the chunks.

    Raises:
        InvalidInput: The spec names something unknown, or the text cannot be read.
        WorkLost: A pool process died; nothing was kept, and the source can be extracted again.
    """
    embedder = _check(spec)
    chunks, vectors = await _chunk(pool, source.text, spec)
    return await _embed_rest(pool, embedder, source.source_id, chunks, vectors)


async def extract_short(pool: Pool, sources: Sequence[SourceText], spec: ExtractSpec) -> list[ExtractedSource]:
    """What `extract_source` makes of each of several sources, whose texts are one piece together: in one task.

    Raises:
        InvalidInput: The spec names something unknown, or one of the texts cannot be read; which one is not told.
        WorkLost: A pool process died; nothing was kept.
    """
    embedder = _check(spec)
    texts = [source.text for source in sources]
    made = await pool.run(chunk_and_embed_each, texts, spec.chunk_tokens, spec.embedder)
    return [
        await _embed_rest(pool, embedder, source.source_id, chunks, dict(enumerate(vectors)))
        for source, (chunks, vectors) in zip(sources, made, strict=True)
    ]


def _check(spec: ExtractSpec) -> Embedder:
    """The spec's embedder; raises `InvalidInput` where it names something unknown."""
    if spec.entities is not None:
        check_entities(spec.entities)
    return find_embedder(spec.embedder)


async def _embed_rest(
    pool: Pool, embedder: Embedder, source_id: UUID, chunks: Sequence[Chunk], vectors: dict[int, Vector]
) -> ExtractedSource:
    """A source with the vectors of all its chunks, by number: those that are not there yet are made in batches."""
    room = asyncio.Semaphore(_AT_ONCE)
    rest = [chunk for chunk in chunks if chunk.number not in vectors]

    async def embed_batch(batch: Sequence[Chunk]) -> None:
        async with room:
            made = await pool.run(embed, embedder.name, [chunk.text for chunk in batch])
        vectors.update((chunk.number, vector) for chunk, vector in zip(batch, made, strict=True))

    if rest:
        try:
            async with asyncio.TaskGroup() as tasks:
                for first in range(0, len(rest), embedder.batch):
                    tasks.create_task(embed_batch(rest[first : first + embedder.batch]))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # the first one cancelled the others
    made = tuple(ExtractedChunk(chunk, vectors[chunk.number]) for chunk in chunks)
    return ExtractedSource(source_id, embedder.collection, made)


async def embed_chunks(pool: Pool, embedder: str, texts: Sequence[str]) -> list[Vector]:
    """The vectors of chunks that were cut before, in their order: the ones that `extract_source` gave them.

    Raises:
        InvalidInput: The embedder is unknown.
        WorkLost: A pool process died.
    """
    batch = find_embedder(embedder).batch
    vectors: list[Vector] = []
    for first in range(0, len(texts), batch):
        vectors += await pool.run(embed, embedder, list(texts[first : first + batch]))
    return vectors


async def _chunk(pool: Pool, text: str, spec: ExtractSpec) -> tuple[list[Chunk], dict[int, Vector]]:
    """One piece after the other, as each needs to know under which headings it starts; vectors by chunk number."""
    chunks: list[Chunk] = []
    vectors: dict[int, Vector] = {}
    outline = Outline()
    for start, end in cut(text, PIECE_CHARACTERS):
        found, outline, made = await pool.run(
            chunk_and_embed, text[start:end], spec.chunk_tokens, start, len(chunks), outline, spec.embedder
        )
        vectors.update((chunk.number, vector) for chunk, vector in zip(found, made, strict=False))
        chunks += found
    return chunks, vectors


def chunk_and_embed(
    piece: str, max_tokens: int, start: int, number: int, outline: Outline, embedder: str
) -> tuple[list[Chunk], Outline, list[Vector]]:
    """`chunk_piece`, and the vectors of its chunks where they are one batch of the embedder; else none yet.

    So a page is one task, and not one for its chunks and one for their vectors.
    """
    chunks, outline = chunk_piece(piece, max_tokens, start, number, outline)
    is_one_batch = len(chunks) <= find_embedder(embedder).batch
    return chunks, outline, embed(embedder, [chunk.text for chunk in chunks]) if is_one_batch else []


def chunk_and_embed_each(
    texts: Sequence[str], max_tokens: int, embedder: str
) -> list[tuple[list[Chunk], list[Vector]]]:
    """The chunks of several short texts, and their vectors, until there is a batch of them; none of the others yet."""
    room = find_embedder(embedder).batch
    made: list[tuple[list[Chunk], list[Vector]]] = []
    for text in texts:
        chunks, _ = chunk_piece(text, max_tokens, 0, 0, Outline())
        vectors = embed(embedder, [chunk.text for chunk in chunks]) if len(chunks) <= room else []
        room -= len(vectors)
        made.append((chunks, vectors))
    return made
