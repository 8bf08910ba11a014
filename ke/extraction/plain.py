"""Markdown as people read it: its words, without its marks and the targets of its links, and where each of them stood.

What is in code stays as it is, but for the marks around it. Of a table the bars between cells are left.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

# Lengths are bounded, so that a text of nothing but marks is read in a moment.
_LINK: Final = re.compile(r"!?\[((?:[^\[\]\\]|\\.){0,300}+)\]\(https?://[^()\s]*\)")
# Nothing of it is given back (`*+`): of a line of tildes, each length would be tried anew.
_FENCE: Final = re.compile(r"^[ \t>]*+(?P<ticks>`{3,}+|~{3,}+)[^`\n]*+(?:\n|$)", re.MULTILINE)
_CODE: Final = re.compile(r"(?<!`)(`{1,2})(?!`)([^\n]{1,300}?)(?<!`)\1(?!`)")
_LINE: Final = re.compile(
    r"^(?:[ ]{0,3}#{1,6}(?=[ \t]|$)[ \t]*|(?:>[ ]?)+|[ ]*\|(?:[ ]*:?-{3,}:?[ ]*\|)+[ ]*(?:\n|$))", re.MULTILINE
)
"""What a line begins with, of a heading or quote; and the line under a table's head, whole."""
_ROW: Final = re.compile(r"^[ ]*+\|[^\n]*+$", re.MULTILINE)
_PIPES: Final = " |"
_ESCAPED_PIPE: Final = re.compile(r"\\(?=\|)")
_ESCAPED: Final = re.compile(r"\\(?=[\[\]])")
_BOLD: Final = re.compile(r"(?<![*\\\w])(\*\*)(?=[^\s*])[^\n]{1,300}?(?<=[^\s\\])(\*\*)(?!\*)")
_ITALIC: Final = re.compile(r"(?<![*\\\w])(\*)(?=[^\s*])[^*\n]{1,300}?(?<=[^\s*\\])(\*)(?![*\w])")

_Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Plain:
    """A text without Markdown's marks."""

    text: str
    _here: list[int]
    """Where pieces of the original begin in `text`."""
    _there: list[_Span]
    """Where the same ones stand in the original."""

    @classmethod
    def of(cls, original: str) -> "Plain":
        """The plain text of a piece of Markdown, which may begin or end anywhere."""
        pieces: list[str] = []
        here: list[int] = []
        there: list[_Span] = []
        at = length = 0
        for first, last in [*sorted(_marks(original)), (len(original), len(original))]:
            if first > at or not here:
                here.append(length)
                there.append((at, max(at, first)))
                pieces.append(original[at:first])
                length += len(pieces[-1])
            at = max(at, last)
        return cls("".join(pieces), here, there)

    def place(self, position: int) -> int:
        """Where in the plain text a place of the original is; of what is left out, where that would be."""
        number = max(0, bisect_right(self._there, (position, len(self._there) and self._there[-1][1])) - 1)
        first, last = self._there[number]
        return self._here[number] + min(max(position, first), last) - first

    def origin(self, position: int) -> int:
        """Where in the original a place of the plain text is."""
        number = bisect_right(self._here, position) - 1
        return self._there[number][0] + position - self._here[number]


def _marks(text: str) -> Iterator[_Span]:
    """What is to be left out of a text, in no order; some of it may lie within another."""
    fences = list(_fenced(text))
    for opening, closing in fences:
        yield opening
        yield closing
    blocks = [(opening[1], closing[0]) for opening, closing in fences]
    inline = [m for m in _CODE.finditer(text) if not _touches(blocks, m.span())]
    for match in inline:
        yield match.span(1)
        yield match.end(2), match.end()
    code = sorted([*blocks, *(m.span(2) for m in inline)])
    for match in _LINK.finditer(text):
        if not _touches(blocks, match.span()):
            yield match.start(), match.start(1)
            yield match.end(1), match.end()
            yield from (m.span() for m in _ESCAPED.finditer(text, *match.span(1)))
    yield from _of_lines(text, blocks)
    for pattern in (_BOLD, _ITALIC):
        for match in pattern.finditer(text):
            if not (_touches(code, match.span(1)) or _touches(code, match.span(2))):
                yield match.span(1)
                yield match.span(2)


def _of_lines(text: str, blocks: list[_Span]) -> Iterator[_Span]:
    """What lines begin or end with, those in blocks of code aside."""
    for match in _LINE.finditer(text):
        if not _touches(blocks, match.span()):
            yield match.span()
    for match in _ROW.finditer(text):
        if not _touches(blocks, match.span()):
            yield from _around_cells(match)


def _around_cells(row: re.Match[str]) -> Iterator[_Span]:
    """What is before the first cell of a table's row and behind the last one, and what escapes a bar in one."""
    line, start = row[0], row.start()
    if not line.rstrip(" ").endswith("|"):
        return
    first, last = len(line) - len(line.lstrip(_PIPES)), len(line.rstrip(_PIPES))
    last += line[:last].endswith("\\")  # the bar is the cell's own
    yield start, start + first
    yield start + max(first, last), row.end()
    yield from (m.span() for m in _ESCAPED_PIPE.finditer(row.string, start + first, start + max(first, last)))


def _fenced(text: str) -> Iterator[tuple[_Span, _Span]]:
    """The first and the last line of each block of code."""
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opening is None:
            opening = fence
        elif fence["ticks"].startswith(opening["ticks"]):
            yield opening.span(), fence.span()
            opening = None
    if opening is not None:
        yield opening.span(), (len(text), len(text))


def _touches(spans: list[_Span], part: _Span) -> bool:
    """Whether a part overlaps one of these spans, which are in order and apart."""
    number = bisect_right(spans, (part[1], 0)) - 1
    return number >= 0 and spans[number][1] > part[0]
