"""The whole content of a page as Markdown, by its structure alone: nothing that a reader sees in it is lost."""

import re
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

_SPACE: Final = re.compile(r"\s+")
_HIDDEN: Final = frozenset(
    {
        *("head", "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "audio", "video"),
        *("button", "select", "option", "input", "textarea", "dialog", "nav", "footer", "aside"),
    }
)
_BLOCKS: Final = frozenset(
    {
        *("address", "article", "blockquote", "body", "dd", "details", "div", "dl", "dt", "fieldset", "figcaption"),
        *("figure", "form", "header", "hr", "li", "main", "ol", "p", "section", "summary", "table", "tr", "ul"),
    }
)
_HEADINGS: Final = {f"h{level}": "#" * level + " " for level in range(1, 7)}
_MARKS: Final = {"code": "`", "kbd": "`", "samp": "`", "b": "**", "strong": "**", "i": "*", "em": "*"}
_AROUND: Final = frozenset(
    {
        *("navigation", "contentinfo", "complementary", "search", "navbar", "navheader", "navfooter", "breadcrumb"),
        *("breadcrumbs", "sidebar", "site-header", "site-footer", "skip-link", "headerlink"),
    }
)
"""Roles and classes of what stands around the content."""
_IN_LAYOUT: Final = "tr table, tr pre, tr ul, tr ol, tr dl, tr h1, tr h2, tr h3, tr h4, tr h5, tr h6"
"""What a table of data does not hold: a table with one of these in a cell is there for the layout."""
_MAX_INDENT: Final = 8
_MAX_CLIMB: Final = 32
"""Elements between a cell and what stands in it, at most; a deeper one does not make its table a layout."""


class _Writer:
    """Collects blocks of Markdown while the tree is walked."""

    def __init__(self, layouts: frozenset[int]) -> None:
        self._layouts = layouts
        self._blocks: list[str] = []
        self._items: list[bool] = []
        self.rows: list[list[str]] | None = None
        self._inline: list[str] = []
        self._lists: list[int | None] = []
        self._quotes = 0
        self._marker = ""
        self._heading = ""
        self._mark_depth = 0

    def text(self, text: str) -> None:
        self._inline.append(_SPACE.sub(" ", text))

    def flush(self) -> None:
        """Ends a block; inside a table of data blocks are parts of a cell."""
        if self.rows is not None:
            self._inline.append(" ")
            return
        text = _SPACE.sub(" ", "".join(self._inline)).strip()
        self._inline.clear()
        if not text:
            return
        if self._marker:
            self.block(self._marker + text, indent=2 * (len(self._lists) - 1), item=True)
            self._marker = ""
        else:
            self.block(self._heading + text, indent=0 if self._heading else 2 * len(self._lists))

    def block(self, text: str, *, indent: int = 0, item: bool = False) -> None:
        lead = "> " * min(self._quotes, 3) + " " * min(max(indent, 0), _MAX_INDENT)
        self._blocks.append("\n".join(lead + line for line in text.split("\n")))
        self._items.append(item)

    def document(self) -> str:
        """All blocks: items of a list line by line, others apart."""
        self.rows = None
        self.flush()
        parts: list[str] = []
        for number, block in enumerate(self._blocks):
            if number:
                parts.append("\n" if self._items[number] and self._items[number - 1] else "\n\n")
            parts.append(block)
        return "".join(parts)

    def cell(self) -> str:
        text = _SPACE.sub(" ", "".join(self._inline)).strip()
        self._inline.clear()
        return text

    def enter(self, tag: str, node: LexborNode) -> bool:
        """Begins an element; says whether its children are to be walked."""
        if tag in _HIDDEN or _is_around(node):
            return False
        if self.rows is not None:
            self._enter_in_table(tag)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.flush()
            self._begin_block(tag, node)
        if tag == "br":
            self._inline.append(" ")
        elif tag == "pre" and self.rows is None:
            self.flush()
            code = node.text(deep=True).strip("\n")
            if code.strip():
                self.block(f"```\n{code}\n```", indent=2 * len(self._lists))
            return False
        elif tag in _MARKS:
            # Only the outermost: marks within marks, or within code, are read as text.
            if self._mark_depth == 0:
                self._inline.append(_MARKS[tag])
            self._mark_depth += 1
        return True

    def leave(self, tag: str) -> None:
        if tag in _MARKS:
            self._mark_depth -= 1
            if self._mark_depth == 0:
                self._close_mark(_MARKS[tag])
        if self.rows is not None:
            self._leave_in_table(tag)
        elif tag in _BLOCKS or tag in _HEADINGS:
            self.flush()
            self._end_block(tag)

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

    def _close_mark(self, mark: str) -> None:
        """Closes `code`, **bold** or *italic*; an empty one leaves nothing."""
        if self._inline and self._inline[-1] == mark:
            self._inline.pop()
        else:
            self._inline.append(mark)

    def _enter_in_table(self, tag: str) -> None:
        if tag == "tr" and self.rows is not None:
            self.rows.append([])
        elif tag in {"td", "th", "caption"}:
            self._inline.clear()
        elif tag in _BLOCKS:
            self._inline.append(" ")

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
            self._write_table([row for row in rows if any(row)])

    def _write_table(self, rows: list[list[str]]) -> None:
        width = max(map(len, rows), default=0)
        if width <= 1:
            for row in rows:
                self.block(row[0])
            return
        cells = [[cell.replace("|", "\\|") for cell in row] + [""] * (width - len(row)) for row in rows]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|" + "---|" * width)
        self.block("\n".join(lines))


def content_of(tree: LexborHTMLParser) -> LexborNode | None:
    """The element that the page itself names as its content: `<main>`, a single `<article>`, or else the body."""
    main = tree.css_first("main, [role=main]")
    if main is not None:
        return main
    articles = tree.css("article")
    return articles[0] if len(articles) == 1 else tree.body


def to_markdown(root: LexborNode) -> str:
    """Writes an element as Markdown: headings, paragraphs, lists, quotes, tables and code.

    Navigation, forms and what is hidden are left out. Walks without recursion, so that nesting has no limit.
    """
    writer = _Writer(_layout_tables(root))
    node: LexborNode | None = root
    depth = 0
    while node is not None:
        tag = node.tag or ""
        down: LexborNode | None = None
        if tag == "-text":
            writer.text(node.text_content or "")
        elif writer.enter(tag, node):
            down = node.first_child
            if down is None:
                writer.leave(tag)
        if down is not None:
            node, depth = down, depth + 1
            continue
        while node is not None and depth > 0 and node.next is None:
            node, depth = node.parent, depth - 1
            if node is not None:
                writer.leave(node.tag or "")
        node = node.next if node is not None and depth > 0 else None
    return writer.document()


def _is_around(node: LexborNode) -> bool:
    attributes = node.attributes
    if not attributes:
        return False
    if "hidden" in attributes:
        return True
    words = f"{attributes.get('class') or ''} {attributes.get('role') or ''}".split()
    return not _AROUND.isdisjoint(words)


def _layout_tables(root: LexborNode) -> frozenset[int]:
    """The tables that hold more than data: each inner block marks the next table above it."""
    layouts: set[int] = set()
    for block in root.css(_IN_LAYOUT):
        above = block.parent
        for _ in range(_MAX_CLIMB):
            if above is None or above.tag == "table":
                break
            above = above.parent
        if above is not None and above.tag == "table":
            layouts.add(above.mem_id)
    return frozenset(layouts)
