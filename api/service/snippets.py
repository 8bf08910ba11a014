"""The part of a chunk that is shown with a hit, and where in it the query's words are."""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ke.extraction.plain import Plain

SNIPPET_CHARS: Final = 320
CUT: Final = "…"
"""At either end of a snippet where its text goes on."""
_BRACKETS: Final = str.maketrans("<>", "  ")
_LEAD_CHARS: Final = 60
"""Before the first marked word, at most."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a text as people read it, and the marked words in it."""

    text: str
    """Without Markdown's marks, and targets of links; `CUT` where it is cut off."""
    start: int
    """Characters of the chunk before it, with those, and without `CUT`."""
    marks: tuple[tuple[int, int], ...]
    """First character and the one behind the last, in the snippet."""


def new_marks() -> tuple[str, str]:
    """Two marks that no text has: made anew for each search, so that a page cannot know them."""
    secret = secrets.token_hex(8)
    return f"b{secret}b", f"e{secret}e"


def find_marks(text: str, marked: str, marks: tuple[str, str]) -> list[tuple[int, int]]:
    """Where in a text the words are that stand between marks in its marked copy; none when it is no copy.

    In the copy angle brackets are blanks.
    """
    found: list[tuple[int, int]] = []
    place = 0
    rest = []
    for number, piece in enumerate(re.split(f"{marks[0]}|{marks[1]}", marked)):
        if number % 2:
            found.append((place, place + len(piece)))
        place += len(piece)
        rest.append(piece)
    return found if "".join(rest) == text.translate(_BRACKETS) else []


def cut_snippet(markdown: str, words: Sequence[tuple[int, int]]) -> Snippet:
    """The part of a text with the most different marked words; its beginning, when nothing is marked.

    A word in what is left out, as in the target of a link, is no word of the snippet.
    """
    plain = Plain.of(markdown)
    text = plain.text
    placed = ((plain.place(first), plain.place(last)) for first, last in words)
    words = [(first, last) for first, last in placed if first < last]
    start = _best_start(text, words)
    end = min(len(text), start + SNIPPET_CHARS)
    start, end = _whole_words(text, start, end)
    before = CUT if text[:start].strip() else ""
    behind = CUT if text[end:].strip() else ""
    moved = len(before) - start
    inside = tuple((first + moved, last + moved) for first, last in words if start <= first and last <= end)
    return Snippet(f"{before}{text[start:end]}{behind}", plain.origin(start), inside)


def _best_start(text: str, words: Sequence[tuple[int, int]]) -> int:
    best, most = 0, 0
    behind = 0
    for number, (first, _) in enumerate(words):
        behind = max(behind, number)
        while behind < len(words) and words[behind][1] <= first - _LEAD_CHARS + SNIPPET_CHARS:
            behind += 1
        different = len({text[a:b].casefold() for a, b in words[number:behind]})
        if different > most:
            best, most = first, different
    return max(0, min(best - _LEAD_CHARS, len(text) - SNIPPET_CHARS)) if most else 0


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Moves both ends inwards to white space, where there is some near."""
    if start > 0 and (found := re.search(r"\s+", text[start : start + _LEAD_CHARS // 2])):
        start += found.end()
    if end < len(text) and (found := re.search(r"\s+\S*$", text[max(start, end - _LEAD_CHARS // 2) : end])):
        end = max(start, end - _LEAD_CHARS // 2) + found.start()
    return start, end
