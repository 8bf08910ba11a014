"""Markdown for models that read words: where a link leads says nothing to them, and costs like a sentence.

Marks of headings mislead the one that finds entities: it takes `#` for a currency.
"""

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Final

# Of bounded length, so that a text of nothing but brackets is read in a moment.
_LINK: Final = re.compile(r"\[((?:[^\[\]\\]|\\.){0,300})\]\(https?://[^()\s]*\)")
_LINK_OR_HEADING: Final = re.compile(rf"{_LINK.pattern}|^#{{1,6}}(?=[ \t]|$)[ \t]*", re.MULTILINE)


def without_targets(text: str) -> str:
    """The text with the words of its links in place of the links; as it is when it has no other words."""
    words = _LINK.sub(r"\1", text)
    return words if words.strip() else text


@dataclass(frozen=True, slots=True)
class Words:
    """A text without the targets of its links and the marks of its headings, and where its words stood."""

    text: str
    _here: list[int]
    """Where pieces of the original begin in `text`."""
    _there: list[int]
    """Where the same ones begin in the original."""

    @classmethod
    def of(cls, original: str) -> "Words":
        """The words of a text."""
        pieces: list[str] = []
        here, there = [0], [0]
        at = length = 0
        for mark in _LINK_OR_HEADING.finditer(original):
            kept = mark.span(1) if mark[1] is not None else (mark.end(), mark.end())
            for begin, end in ((at, mark.start()), kept):
                here.append(length)
                there.append(begin)
                pieces.append(original[begin:end])
                length += end - begin
            at = mark.end()
        here.append(length)
        there.append(at)
        pieces.append(original[at:])
        return cls("".join(pieces), here, there)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a part of the words stood in the original; what was left out inside of it is in between."""
        first, last = bisect_right(self._here, start) - 1, max(0, bisect_left(self._here, end) - 1)
        return self._there[first] + start - self._here[first], self._there[last] + end - self._here[last]
