"""A page as blocks of Markdown, by its structure alone: nothing that a reader sees in it is lost."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from ke.web.blocks import Block, Writer
from ke.web.tables import layout_tables

_HIDDEN: Final = frozenset(
    {
        *("head", "script", "style", "noscript", "template", "svg", "canvas", "iframe", "object", "audio", "video"),
        *("button", "select", "option", "input", "textarea", "dialog", "nav", "footer", "aside"),
    }
)
_AROUND: Final = frozenset(
    {
        *("navigation", "contentinfo", "complementary", "search", "navbar", "navheader", "navfooter", "breadcrumb"),
        *(
            "breadcrumbs",
            "sidebar",
            "site-header",
            "site-footer",
            "skip-link",
            "headerlink",
            "permalink",
            "viewcode-link",
        ),
    }
)
"""Roles and classes of what stands around the content."""
_DOUBTFUL: Final = re.compile(
    r"(?:^|[\s_-])(?:ads?|advert\w*|banner|breadcrumbs?|comments?|comment-?list|cookies?|disqus|footer|masthead|menu\w*|"
    r"newsletter|nav\w*|outbrain|pager|pagination|popup|promo\w*|recommend\w*|related\w*|share|sharing|side-?bar\w*|"
    r"skip\w*|social\w*|sponsor\w*|subscribe|subscription|taboola|teaser|toolbar|widget)(?:$|[\s_-])",
    re.IGNORECASE,
)
"""Words in classes and ids that mostly, and not always, name what is no content."""


@dataclass(frozen=True, slots=True)
class Written:
    """A page's blocks, and which of them each element holds."""

    blocks: list[Block]
    spans: list[tuple[int, int]]
    """First block and the one after the last, of every element with blocks, inner ones before outer ones."""


def content_of(tree: LexborHTMLParser) -> LexborNode | None:
    """The element that the page itself names as its content: `<main>`, a single `<article>`, or else the body."""
    main = tree.css_first("main, [role=main]")
    if main is not None:
        return main
    articles = tree.css("article")
    return articles[0] if len(articles) == 1 else tree.body


def write(root: LexborNode, links: Mapping[str, str]) -> Written:
    """Writes an element as blocks of Markdown: headings, paragraphs, lists, quotes, tables and code.

    Navigation, forms and what is hidden are left out. Walks without recursion, so that nesting has no limit.

    Args:
        root: The element.
        links: The URL of each `href` that is to be a link, as the page writes it.
    """
    writer = Writer(layout_tables(root), links)
    spans: list[tuple[int, int]] = []
    open_: list[tuple[str, int, bool]] = []
    node: LexborNode | None = root
    while node is not None:
        tag = node.tag or ""
        if tag == "-text":
            writer.text(node.text_content or "")
        elif tag not in _HIDDEN and (doubtful := _standing(node)) is not None and writer.enter(tag, node):
            writer.doubtful += doubtful
            open_.append((tag, len(writer.blocks), doubtful))
            down = node.first_child
            if down is not None:
                node = down
                continue
            _close(writer, open_, spans)
        while open_ and node is not None and node.next is None:
            node = node.parent
            _close(writer, open_, spans)
        node = node.next if node is not None and open_ else None
    writer.rows = None
    writer.flush()
    spans.append((0, len(writer.blocks)))
    return Written(writer.blocks, spans)


def _close(writer: Writer, open_: list[tuple[str, int, bool]], spans: list[tuple[int, int]]) -> None:
    """Leaves the innermost element that is open."""
    tag, first, doubtful = open_.pop()
    writer.leave(tag)
    writer.doubtful -= doubtful
    end = len(writer.blocks)
    if end > first and (not spans or spans[-1] != (first, end)):
        spans.append((first, end))


def document(blocks: Sequence[Block]) -> str:
    """Blocks as one text: items of a list line by line, others apart."""
    parts: list[str] = []
    for number, block in enumerate(blocks):
        if number:
            parts.append("\n" if block.item and blocks[number - 1].item else "\n\n")
        parts.append(block.text)
    return "".join(parts)


def _standing(node: LexborNode) -> bool | None:
    """None: stands around the content, or is hidden; else whether that is in doubt."""
    attributes = node.attributes
    if not attributes:
        return False
    if "hidden" in attributes or "display:none" in (attributes.get("style") or "").replace(" ", ""):
        return None
    return _named(attributes.get("class") or "", attributes.get("role") or "", attributes.get("id") or "")


@lru_cache(maxsize=4096)
def _named(classes: str, role: str, name: str) -> bool | None:
    if not _AROUND.isdisjoint(f"{classes} {role}".split()):
        return None
    return _DOUBTFUL.search(f"{classes} {name}") is not None
