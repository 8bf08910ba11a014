"""Texts into vectors, by an embedder chosen by name.

An embedder is one entry in `_EMBEDDERS`: its collection's name, its dimensions and a function. A function runs in a
pool process and is given at most `batch` texts, so that it is done within about 200 ms.
"""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ke.contracts.errors import InvalidInput
from ke.extraction.links import without_targets
from ke.extraction.minilm import DIMENSIONS as MINILM_DIMENSIONS
from ke.extraction.minilm import embed_minilm, missing_packages
from ke.extraction.tokens import token_ids
from ke.extraction.wordllama_files import load_vectors

Vector: TypeAlias = "array[float]"
"""32-bit floats, of length 1: compact between processes, and a sequence of floats to everyone else."""

DEFAULT_EMBEDDER: Final = "wordllama"


@dataclass(frozen=True, slots=True)
class Embedder:
    """A way to make vectors."""

    name: str
    dimensions: int
    run: Callable[[list[str]], NDArray[np.float32]]
    """Texts to vectors, one a row; they need not be of length 1."""
    batch: int
    """Chunks of 256 tokens in one task of the pool."""
    weight: float
    """Of its cosine in a hybrid search; that of the words' score is what is left to 1. Measured: docs/adr/0018."""
    missing: Callable[[], list[str]] = list
    """The packages that it needs and that are not installed."""
    extra: str = ""
    """The extra that brings them."""

    @property
    def collection(self) -> str:
        """The vector store's collection for its vectors, which only compare with each other."""
        return f"{self.name}-{self.dimensions}"


def _wordllama(texts: list[str]) -> NDArray[np.float32]:
    """The mean of the vectors of each text's tokens: what `WordLlama.embed` does, without padding."""
    table = load_vectors()
    means = np.zeros((len(texts), table.shape[1]), np.float32)
    for row, text in enumerate(texts):
        if len(tokens := token_ids(text)):
            means[row] = table[tokens].sum(axis=0) / np.float32(len(tokens))
    return means


_EMBEDDERS: Final = {
    embedder.name: embedder
    for embedder in (
        Embedder("wordllama", 256, _wordllama, batch=256, weight=0.4),
        Embedder(
            "minilm", MINILM_DIMENSIONS, embed_minilm, batch=4, weight=0.5, missing=missing_packages, extra="minilm"
        ),
    )
}


def embedder_names() -> list[str]:
    """The names of all embedders, of those too that are not installed."""
    return sorted(_EMBEDDERS)


def find_embedder(name: str) -> Embedder:
    """The embedder of this name.

    Raises:
        InvalidInput: There is none, and the message lists those there are; or it is not installed, and the message
            says what to install.
    """
    try:
        found = _EMBEDDERS[name]
    except KeyError:
        known = ", ".join(embedder_names())
        raise InvalidInput(f"there is no embedder {name[:100]!r}; known: {known}") from None
    if missing := found.missing():
        raise InvalidInput(
            f"the embedder {name!r} needs {' and '.join(missing)}, not installed here: pip install 'ke[{found.extra}]'"
        )
    return found


def dimensions(name: str) -> int:
    """The length of an embedder's vectors; `InvalidInput` for an unknown name."""
    return find_embedder(name).dimensions


def collection_name(name: str) -> str:
    """The collection an embedder's vectors are stored in, as `wordllama-256`; `InvalidInput` for an unknown name."""
    return find_embedder(name).collection


def embed(name: str, texts: list[str]) -> list[Vector]:
    """One vector of length 1 for each text, in their order.

    Args:
        name: The embedder.
        texts: Texts with at least one character that is not white space.

    Raises:
        InvalidInput: The embedder is unknown, or a text is empty or without meaning to it: it has no direction.
    """
    embedder = find_embedder(name)
    if not texts:
        return []
    for number, text in enumerate(texts):
        if not text.strip():
            raise InvalidInput(f"text {number} is empty: it has no vector")
    try:
        rows = embedder.run([without_targets(text) for text in texts])
    except (UnicodeEncodeError, TypeError) as error:  # the tokenizer's answer to lone surrogates is a TypeError
        raise InvalidInput("a text is not valid Unicode") from error
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InvalidInput(f"text {int(np.argmin(np.nan_to_num(lengths)))} has no vector")
    return [array("f", row.tobytes()) for row in (rows / lengths).astype(np.float32)]
