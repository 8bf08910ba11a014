"""The blocks of a page, as they come about while its tree is walked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from selectolax.lexbor import LexborNode

from ke.web.tables import written_rows

_BLOCKS: Final = frozenset(
    {
        *("address", "article", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption"),
        *("figure", "form", "header", "hr", "li", "main", "ol", "p", "section", "summary", "table", "tr", "ul"),
        *("td", "th", "caption"),
    }
)
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_MARKS: Final = {"code": "`", "kbd": "`", "samp": "`", "b": "**", "strong": "**", "i": "*", "em": "*"}
_MAX_INDENT: Final = 8


@dataclass(slots=True)
class Block:
    """A heading, paragraph, item, table or piece of code."""

    text: str
    """As Markdown."""
    plain: str
    """Its words alone."""
    item: bool
    """Whether it is an item of a list, which stands under the one before it without a blank line."""
    heading: bool
    linked: int
    """Characters of its words that are links."""
    doubtful: bool
    """Whether its class, or one above it, is named as what stands around the content."""


class Writer:
    """Collects blocks of Markdown while the tree is walked."""

    def __init__(self, layouts: frozenset[int], links: Mapping[str, str]) -> None:
        self._layouts = layouts
        self._links = links
        self.blocks: list[Block] = []
        self.doubtful = 0
        self.rows: list[list[str]] | None = None
        self._inline: list[str] = []
        self._plain: list[str] = []
        self._linked = 0
        self._anchors: list[bool] = []
        self._anchor: tuple[int, str] | None = None
        self._lists: list[int | None] = []
        self._quotes = 0
        self._marker = ""
        self._heading = ""
        self._mark_depth = 0
        self._in_code = False

    def text(self, text: str) -> None:
        """Takes words of the block that is being written."""
        text = _single_spaced(text)
        self._inline.append(text)
        self._plain.append(text)
        if self._anchors and self._anchors[-1]:
            self._linked += len(text)

    def flush(self) -> None:
        """Ends a block; inside a table of data blocks are parts of a cell."""
        if self.rows is not None:
            self._inline.append(" ")
            self._plain.append(" ")
            return
        self._anchor = None  # a link around blocks is none of Markdown's
        text = " ".join("".join(self._inline).split())
        self._inline.clear()
        if not text:
            return
        if self._marker:
            self.block(self._marker + text, indent=2 * (len(self._lists) - 1), item=True)
            self._marker = ""
        else:
            self.block(self._heading + text, indent=0 if self._heading else 2 * len(self._lists))

    def block(self, text: str, *, indent: int = 0, item: bool = False) -> None:
        """Adds a block in the notation of what it stands in, with the words taken since the one before it."""
        lead = "> " * min(self._quotes, 3) + " " * min(max(indent, 0), _MAX_INDENT)
        text = "\n".join(lead + line for line in text.split("\n")) if lead else text
        self.blocks.append(
            Block(text, "".join(self._plain), item, bool(self._heading), self._linked, self.doubtful > 0)
        )
        self._plain.clear()
        self._linked = 0

    def cell(self) -> str:
        """Ends a cell of a table of data."""
        self._anchor = None
        text = " ".join("".join(self._inline).split())
        self._inline.clear()
        self._plain.append(" ")
        return text

    def enter(self, tag: str, node: LexborNode) -> bool:
        """Begins an element; says whether its children are to be walked."""
        if self.rows is not None:
            self._enter_in_table(tag)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.flush()
            self._begin_block(tag, node)
        if tag == "br":
            self.text(" ")
        elif tag == "pre" and self.rows is None:
            self._code(node)
            return False
        elif tag in _MARKS:
            self._open_mark(_MARKS[tag])
        elif tag == "a":
            self._open_link(node)
        elif tag == "q":
            self.text("“")
        return True

    def leave(self, tag: str) -> None:
        """Ends an element."""
        if tag in _MARKS:
            self._close_mark(_MARKS[tag])
        elif tag == "a":
            self._close_link()
        elif tag == "q":
            self.text("”")
        if self.rows is not None:
            self._leave_in_table(tag)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.flush()
            self._end_block(tag)

    def _code(self, node: LexborNode) -> None:
        self.flush()
        code = node.text(deep=True).strip("\n")
        if code.strip():
            self._plain.append(code)
            fence = "`" * max(3, 1 + max(map(len, re.findall(r"`{3,}", code)), default=0))
            self.block(f"{fence}\n{code}\n{fence}", indent=2 * len(self._lists))

    def _begin_block(self, tag: str, node: LexborNode) -> None:
        if tag in _HEADINGS:
            self._heading = _HEADINGS[tag]
        elif tag in {"ul", "ol"}:
            self._lists.append(0 if tag == "ol" else None)
        elif tag == "li":
            self._marker = self._next_marker()
        elif tag == "blockquote":
            self._quotes += 1
        elif tag == "table" and node.mem_id not in self._layouts:
            self.rows = []

    def _end_block(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._heading = ""
        elif tag in {"ul", "ol"} and self._lists:
            self._lists.pop()
        elif tag == "li":
            self._marker = ""
        elif tag == "blockquote":
            self._quotes -= 1

    def _next_marker(self) -> str:
        number = self._lists[-1] if self._lists else None
        if number is None:
            return "- "
        self._lists[-1] = number + 1
        return f"{number + 1}. "

    def _open_mark(self, mark: str) -> None:
        # Only the outermost: marks within marks, or within code, are read as text.
        if self._mark_depth == 0:
            self._inline.append(mark)
            self._in_code = mark == "`"
        self._mark_depth += 1

    def _close_mark(self, mark: str) -> None:
        """Closes `code`, **bold** or *italic*; an empty one leaves nothing."""
        self._mark_depth -= 1
        if self._mark_depth:
            return
        self._in_code = False
        if self._inline and self._inline[-1] == mark:
            self._inline.pop()
        else:
            self._inline.append(mark)

    def _open_link(self, node: LexborNode) -> None:
        href = node.attributes.get("href") or ""
        self._anchors.append(bool(href))
        if not self._heading and not self._in_code:
            target = self._links.get(href)
            self._anchor = (len(self._inline), target) if target else None

    def _close_link(self) -> None:
        self._anchors.pop()
        if self._anchor is None:
            return
        start, target = self._anchor
        self._anchor = None
        words = "".join(self._inline[start:])
        if not words.strip():
            return
        before, after = (" " if words[0] == " " else ""), (" " if words[-1] == " " else "")
        words = words.strip().replace("[", "\\[").replace("]", "\\]")
        target = target.replace("(", "%28").replace(")", "%29")
        self._inline[start:] = [f"{before}[{words}]({target}){after}"]

    def _enter_in_table(self, tag: str) -> None:
        if tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in {"td", "th", "caption"}:
            self._inline.clear()
            self._anchor = None
        elif tag in _BLOCKS:
            self._inline.append(" ")
            self._plain.append(" ")

    def _leave_in_table(self, tag: str) -> None:
        rows = self.rows or []
        if tag in {"td", "th"} and rows:
            rows[-1].append(self.cell())
        elif tag == "caption":
            caption = self.cell()
            if caption:
                self.block(f"**{caption}**")
        elif tag == "table":
            self.rows = None
            self._inline.clear()
            for text in written_rows(rows):
                self.block(text)


def _single_spaced(text: str) -> str:
    """The text with one space for each run of white space."""
    words = " ".join(text.split())
    if not words:
        return text and " "
    return f"{' ' if text[0].isspace() else ''}{words}{' ' if text[-1].isspace() else ''}"
