"""Takes the sting out of HTML that is built to make a parser slow or large.

HTML's own parsing rules cost time that grows with the square of the nesting, and repeat every open `<b>` or `<font>` in
each paragraph that follows. Browsers cut nesting at 512. A page within bounds passes untouched.
"""

import re
from collections import Counter
from typing import Final

MAX_DEPTH: Final = 4_000
"""Elements within elements, at most; what is opened deeper loses its tag and keeps its text."""
MAX_REPEATED: Final = 500_000
"""Formatting elements that a parser may have to repeat in later blocks; above, the page loses its formatting."""
FREE_TAGS: Final = 1_500
"""Up to so many tags nothing can go wrong."""

_TAG: Final = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)([^<>]*)>?")
"""A tag, or the start of one that holds an angle bracket in an attribute."""
_FORMATTING: Final = frozenset(
    ("b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u")
)
_FORMATTING_TAG: Final = re.compile(rf"</?(?:{'|'.join(sorted(_FORMATTING))})(?=[\s/>])[^<>]*>", re.IGNORECASE)
_VOID: Final = frozenset(
    {
        *("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track"),
        *("wbr", "frame", "keygen", "basefont", "bgsound", "html", "head", "body"),
    }
)
_END_OPTIONAL: Final = frozenset(
    {
        *("p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup"),
        *("caption", "rp", "rt", "rb", "rtc", "a"),
    }
)
"""Elements that the next of their kind closes, in HTML; inside SVG and MathML they nest like any other."""
_FOREIGN: Final = frozenset(("svg", "math"))
_FOREIGN_TAG: Final = re.compile(r"<(?:svg|math)[\s/>]", re.IGNORECASE)


def tame(html: str) -> str:
    """Gives the page back with bounded nesting, the same page when it is within bounds."""
    if html.count("<") <= FREE_TAGS:
        return html
    strict = _FOREIGN_TAG.search(html) is not None
    depth, repeated = _measure(html, strict=strict)
    if repeated > MAX_REPEATED:
        html = _FORMATTING_TAG.sub("", html)
    return _flatten(html, strict=strict) if depth > MAX_DEPTH else html


class _Open:
    """How many elements are open, by name: an end tag closes nothing that was not opened."""

    def __init__(self, *, strict: bool) -> None:
        self.depth = 0
        self.formatting = 0
        self._strict = strict
        self._count: Counter[str] = Counter()

    def counts(self, name: str, *, self_closing: bool) -> bool:
        """Whether an element of this name adds to the nesting."""
        if name in _VOID or (name in _END_OPTIONAL and not self._strict):
            return False
        # `<path/>` is closed inside SVG; in HTML the slash means nothing.
        return not (self_closing and self._strict and any(self._count[outer] for outer in _FOREIGN))

    def open(self, name: str) -> None:
        self._count[name] += 1
        self.depth += 1
        self.formatting += name in _FORMATTING

    def close(self, name: str) -> bool:
        if self._count[name] == 0:
            return False
        self._count[name] -= 1
        self.depth -= 1
        self.formatting -= name in _FORMATTING
        return True


def _measure(html: str, *, strict: bool) -> tuple[int, int]:
    """The deepest nesting, and how many formatting elements are open at the starts of other elements, in sum."""
    state = _Open(strict=strict)
    deepest = repeated = 0
    for tag in _TAG.finditer(html):
        name = tag[2].lower()
        if tag[1]:
            state.close(name)
            continue
        if name not in _FORMATTING:
            repeated += state.formatting
        if state.counts(name, self_closing=tag[3].endswith("/")):
            state.open(name)
            deepest = max(deepest, state.depth)
    return deepest, repeated


def _flatten(html: str, *, strict: bool) -> str:
    """Drops the tags of elements that are nested too deep."""
    state = _Open(strict=strict)
    dropped: Counter[str] = Counter()

    def keep(tag: re.Match[str]) -> str:
        name = tag[2].lower()
        if tag[1]:
            if dropped[name]:
                dropped[name] -= 1
                return ""
            state.close(name)
            return tag[0]
        if state.counts(name, self_closing=tag[3].endswith("/")):
            if state.depth >= MAX_DEPTH:
                dropped[name] += 1
                return ""
            state.open(name)
        return tag[0]

    return _TAG.sub(keep, html)
