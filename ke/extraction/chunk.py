"""Text into chunks that follow Markdown's structure, none longer than asked for.

A token is a token of the tokenizer inside the `wordllama` wheel (Llama 2's, 32,000 pieces), which the default
embedder reads with: about 3.5 characters of English. Splitting by those tokens directly takes four times as long as
splitting by characters and counting afterwards, so the latter is done; a chunk that turns out too long is split again.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from semantic_text_splitter import MarkdownSplitter

from ke.contracts.errors import InvalidInput
from ke.extraction.tokens import token_ids

MIN_CHUNK_TOKENS: Final = 16
"""Below this a single character, which can be five tokens, might not fit."""
MAX_CHUNK_TOKENS: Final = 8192

_CHARACTERS_PER_TOKEN: Final = 3.0
"""The first guess; text with more tokens a character is split again."""
_WINDOW: Final = 16_384
"""Characters given to the splitter at once: its time grows with the square of a text without line breaks."""
_RUN: Final = 4_096
"""The window inside a longer line: 8,000 characters of unpunctuated Thai take 5 ms, 128,000 take 1,200 ms."""
_MAX_TITLE: Final = 200
_MAX_LEVEL: Final = 6
_STRUCTURE: Final = re.compile(
    r"^ {0,3}(?:(?P<fence>`{3,}|~{3,})|(?P<level>#{1,6})[ \t]+(?P<title>[^\n]*))", re.MULTILINE
)
_LINK: Final = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_MARKUP: Final = re.compile(r"[*`]+|\s+#+\s*$")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a source's text; `text[start:end]` of the source is `text`."""

    number: int
    """Its place in the source, from 0."""
    text: str
    heading: str
    """The headings it stands under, outermost first: "Guide > Install". Empty above the first heading."""
    start: int
    """Characters into the source's text."""
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Outline:
    """Where in a document's structure a position is: what the next piece of it needs to know of those before."""

    titles: tuple[str, ...] = ("",) * _MAX_LEVEL
    """The current heading of each level; "" where there is none."""
    fence: str = ""
    """The mark that opened the code block the position is in; "" outside of one."""

    @property
    def path(self) -> str:
        """The headings, outermost first."""
        return " > ".join(title for title in self.titles if title)


@dataclass(frozen=True, slots=True)
class _Event:
    """A place where the outline changes."""

    start: int
    end: int
    outline: Outline
    """As it is after this place."""
    is_heading: bool


def chunk_text(text: str, *, max_tokens: int) -> list[Chunk]:
    """Splits a whole text; see `chunk_piece`, which a long text should be given to in pieces.

    Args:
        text: Markdown, or plain text.
        max_tokens: The longest chunk, in tokens; `MIN_CHUNK_TOKENS` to `MAX_CHUNK_TOKENS`.

    Returns:
        Chunks in order, none empty; between them and around them is white space only.

    Raises:
        InvalidInput: `max_tokens` is out of range, or the text has lone surrogates.
    """
    chunks: list[Chunk] = []
    outline = Outline()
    for start, end in cut(text, _WINDOW):
        found, outline = chunk_piece(text[start:end], max_tokens, start, len(chunks), outline)
        chunks += found
    return chunks


def chunk_piece(piece: str, max_tokens: int, start: int, number: int, outline: Outline) -> tuple[list[Chunk], Outline]:
    """Splits a part of a source's text; headings are those of ATX style (`## Install`).

    Args:
        piece: The part's text.
        max_tokens: The longest chunk, in tokens.
        start: Characters of the source before the piece.
        number: Chunks of the source before the piece.
        outline: What the piece before it ended with.

    Returns:
        The piece's chunks, and the outline for the next piece.

    Raises:
        InvalidInput: `max_tokens` is out of range, or the text has lone surrogates.
    """
    if not MIN_CHUNK_TOKENS <= max_tokens <= MAX_CHUNK_TOKENS:
        raise InvalidInput(f"max_tokens is {MIN_CHUNK_TOKENS} to {MAX_CHUNK_TOKENS}, not {max_tokens}")
    try:
        spans = [span for window in cut(piece, _WINDOW) for span in _split(piece, window, max_tokens)]
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the text is not valid Unicode at character {start + error.start}") from error
    events = list(_structure(piece, outline))
    headings = _headings(piece, spans, events, outline)
    chunks = [
        Chunk(number + i, piece[first:last], heading, start + first, start + last, tokens)
        for i, ((first, last, tokens), heading) in enumerate(zip(spans, headings, strict=True))
    ]
    return chunks, events[-1].outline if events else outline


def cut(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Cuts a text into pieces of at most `size` characters, at the best place in the last half of each.

    Best is before a heading, then after a blank line, then after a line. A line that is too long is cut after a
    space, or anywhere, into pieces of at most 4,096 characters.
    """
    start = 0
    while len(text) - start > size:
        end = _boundary(text, start, start + size)
        yield start, end
        start = end
    if start < len(text):
        yield start, len(text)


def _boundary(text: str, start: int, limit: int) -> int:
    middle = (start + limit) // 2
    for mark, keep in (("\n#", 1), ("\n\n", 2), ("\n", 1)):
        found = text.rfind(mark, middle, limit)
        if found >= 0:
            return min(found + keep, limit)
    limit = min(limit, start + _RUN)
    found = text.rfind(" ", (start + limit) // 2, limit)
    return found + 1 if found >= 0 else limit


def _split(text: str, window: tuple[int, int], max_tokens: int) -> list[tuple[int, int, int]]:
    """(start, end, tokens) of a window's chunks, all within `max_tokens`."""
    todo = [(window[0], window[1], int(max_tokens * _CHARACTERS_PER_TOKEN))]
    done: list[tuple[int, int, int]] = []
    while todo:
        start, end, characters = todo.pop()
        found = [(start + at, part) for at, part in _splitter(characters).chunk_indices(text[start:end])]
        found = [(at, part) for at, part in found if part.strip()]  # Python strips more controls than the splitter
        for (at, part), tokens in zip(found, count_tokens([part for _, part in found]), strict=True):
            if tokens <= max_tokens:
                done.append((at, at + len(part), tokens))
            else:
                todo.append((at, at + len(part), max(1, len(part) * max_tokens // tokens * 9 // 10)))
    return sorted(done)


def count_tokens(texts: list[str]) -> list[int]:
    """The number of tokens of each text."""
    return [len(token_ids(text)) for text in texts]


@lru_cache(maxsize=16)
def _splitter(characters: int) -> MarkdownSplitter:
    return MarkdownSplitter(characters)


def _structure(text: str, outline: Outline) -> Iterator[_Event]:
    for match in _STRUCTURE.finditer(text):
        if fence := match["fence"]:
            if not outline.fence:
                outline = Outline(outline.titles, fence)
            elif fence.startswith(outline.fence):
                outline = Outline(outline.titles)
            else:
                continue
            yield _Event(match.start(), match.end(), outline, is_heading=False)
        elif not outline.fence:
            level = len(match["level"])
            titles = (*outline.titles[: level - 1], _title(match["title"]), *("",) * (_MAX_LEVEL - level))
            outline = Outline(titles)
            yield _Event(match.start(), match.end(), outline, is_heading=True)


def _title(raw: str) -> str:
    plain = _MARKUP.sub("", _LINK.sub(r"\1", raw[: 4 * _MAX_TITLE]))
    return " ".join(plain.split())[:_MAX_TITLE]


def _headings(text: str, spans: list[tuple[int, int, int]], events: list[_Event], outline: Outline) -> list[str]:
    """For each chunk the path in force at its first text that is not itself a heading."""
    paths: list[str] = []
    i = 0
    for start, end, _ in spans:
        while i < len(events) and events[i].start < start:
            outline = events[i].outline
            i += 1
        position, leading, inside = start, i, outline
        while leading < len(events) and events[leading].is_heading and events[leading].start < end:
            if text[position : events[leading].start].strip():
                break
            position, inside = events[leading].end, events[leading].outline
            leading += 1
        paths.append(inside.path)
    return paths
