"""Which of a page's blocks are its content.

Both readings write a page out by its structure first and then choose among the blocks, so that what they keep has its
headings, lists, tables, code and links. `fast` chooses by what the page declares and by density: content is where words
are that are no links. `thorough` does the same where that is nearly all of the page, as in documentation. Of other
pages, as of the news, it asks trafilatura, takes the blocks that it found, and puts back what it loses amid those.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final, Literal

import trafilatura
from lxml import etree
from selectolax.lexbor import LexborHTMLParser, LexborNode
from trafilatura.settings import Document

from ke.contracts.jobs import Reading
from ke.web.blocks import Block
from ke.web.markdown import Written, content_of, document, write

Reader = Literal["main", "density", "structure"]

MAX_READER_CHARS: Final = 250_000
"""The longest page that trafilatura is given: its time grows faster than the page, to a second here."""
MAX_READER_TAGS: Final = 12_000
"""Angle brackets in the largest page that it is given: its time is in the elements rather than in the text."""
MIN_RECALL: Final = 0.05
"""The share of the visible text that must be kept; below it the page is written out as a whole."""
MIN_AGREED: Final = 0.2
"""The share of what density takes that trafilatura's opinion must leave; on some pages that sees a part only."""
MIN_CLEAR_CHARS: Final = 200
"""The shortest content that may be clear without trafilatura's opinion."""
CLEAR: Final = 0.95
"""The share of a page that density must take for that."""
ALL: Final = 1.0
"""The same of what the page declares as its content: on pages of the news much stands in there that is none."""
CLEAR_AROUND: Final = 0.98
"""And the share of all of the page, where it declares its content."""
MAX_REMARK: Final = 80
"""Characters of a caption or a notice: a paragraph amid content that trafilatura left out is kept when it is longer."""
MIN_MENU: Final = 2
"""Links above the first heading from which they are a menu."""
MIN_GUARDED_CHARS: Final = 500
"""Visible characters from which that share means something."""
MOST: Final = 0.9
"""The share of what is surely content that the element has which is taken for the content's own."""
DECLARED: Final = 0.5
"""The share of what trafilatura found that the element must have which the page declares as its content."""
LINKED: Final = 0.5
"""The share of a block's characters in links above which it is taken for navigation."""
MAX_TERM: Final = 40
"""Characters of a link amid content that may be one of its terms; a longer one leads to another page's content."""
ABOVE: Final = 8
"""Blocks above the content among which its title is looked for."""
PROBE: Final = 32
"""Characters, of words alone, by which a block is looked for in what trafilatura found."""
SHORT: Final = 12
"""Below so many characters a block is only looked for close behind the one before it."""
NEAR: Final = 400
"""Characters that are close."""
FAR: Final = 16_384
"""Characters before and behind that a longer block is looked for in: heads and tables of contents repeat what comes
later, and a search through all of a long page for each of its blocks would take seconds."""

_NO_TEXT: Final = "script, style, svg, noscript, template, iframe, object, canvas, select, video, audio"
_LONG_VALUE: Final = re.compile(r'="[^"<>]{300,}"')
"""Of an attribute; without angle brackets, as a text may have quotation marks, and never goes beyond its element."""
_STRUCTURED: Final = ("`", "|", ">")
"""How code, tables and quotes begin."""
_ENDS: Final = (".", ":", "!", "?")
_NO_WORDS: Final = re.compile(r"[\W_]+")

_READER_ERRORS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    etree.LxmlError,
)
"""What trafilatura and the libraries under it raise on broken pages, instead of saying that they found nothing."""

# It reports each page it cannot read as an error, which is our caller's business, and has its text in the message.
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)


def read_content(tree: LexborHTMLParser, links: Mapping[str, str], reading: Reading) -> tuple[str, Reader]:
    """The content of a page as Markdown, and how it was told from what is around it.

    What would lose nearly all of a page is not taken: density is asked where trafilatura finds little, and a page where
    that finds little too is written out whole.

    Args:
        tree: The page. It loses what is no text: scripts, styles and embedded things.
        links: The URL of each `href`, as the page writes it, that becomes a link.
        reading: How much time to take.
    """
    body = tree.body
    if body is None:
        return "", "structure"
    page = _Page(body, content_of(tree) or body, links)
    dense = _dense(page.content, declared=page.is_declared)
    if reading is Reading.THOROUGH and not _is_clear(page, dense):
        kept = _agreed(page, dense, _compact(_main_text(_lean(tree))))
        if kept:
            return document(kept), "main"
    if _is_enough(dense, page.content):
        return document(dense), "density"
    return document(page.whole.blocks), "structure"


class _Page:
    """A page, written out as far as that is asked for."""

    def __init__(self, body: LexborNode, root: LexborNode, links: Mapping[str, str]) -> None:
        self._body = body
        self._links = links
        self.is_declared = root.mem_id != body.mem_id
        """Whether the page says what its content is."""
        self.content = write(root, links)
        """What it says its content is, or else all of it."""

    @cached_property
    def whole(self) -> Written:
        """All of it."""
        return write(self._body, self._links) if self.is_declared else self.content


def _is_clear(page: _Page, dense: Sequence[Block]) -> bool:
    """Whether there is next to nothing around what density takes, so that no opinion could change much.

    What is named as no content may be some all the same: it is in doubt.
    """
    if any(block.doubtful for block in page.content.blocks):
        return False
    size = _size(dense)
    if size < MIN_CLEAR_CHARS or size < (ALL if page.is_declared else CLEAR) * _size(page.content.blocks):
        return False
    return not page.is_declared or size >= CLEAR_AROUND * _size(page.whole.blocks)


def _agreed(page: _Page, dense: Sequence[Block], found: str) -> list[Block]:
    """The blocks that trafilatura's opinion leads to; none where it saw too little of the page."""
    if not found:
        return []
    written = page.content
    kept = _found(written, found)
    if page.is_declared and _size(kept) <= DECLARED * len(found):
        written = page.whole
        kept = _found(written, found)
        dense = _dense(written, declared=False)
    if _size(kept) < MIN_AGREED * _size(dense) or not _is_enough(kept, written):
        return []
    return _without_menu(kept)


def _without_menu(blocks: list[Block]) -> list[Block]:
    """Leaves out what is above the first heading, where that is links and no more than remarks among them.

    On a page which is short, or has little but links itself, trafilatura takes its menu for content.
    """
    first = next((n for n, block in enumerate(blocks) if block.heading), 0)
    above = blocks[:first]
    is_menu = all(_is_linked(block) or len(block.plain) <= MAX_REMARK for block in above)
    return blocks[first:] if is_menu and sum(map(_is_linked, above)) >= MIN_MENU else blocks


def _is_enough(kept: Sequence[Block], written: Written) -> bool:
    seen = _size(written.blocks)
    return bool(kept) and (seen <= MIN_GUARDED_CHARS or _size(kept) >= MIN_RECALL * seen)


def _lean(tree: LexborHTMLParser) -> str:
    """The page without what is no text, which is half of what a page of the news has."""
    # Inner ones first.
    for node in reversed(tree.css(_NO_TEXT)):
        node.decompose()
    return _LONG_VALUE.sub('=""', tree.html or "")


def _main_text(html: str) -> str:
    """What trafilatura takes for the content; empty when it finds none, or the page is too large for it."""
    if len(html) > MAX_READER_CHARS or html.count("<") > MAX_READER_TAGS:
        return ""
    try:
        found = trafilatura.bare_extraction(html, fast=True, include_comments=False, with_metadata=False)
    except _READER_ERRORS:
        return ""
    return (found.text or "") if isinstance(found, Document) else ""


def _compact(text: str) -> str:
    return _NO_WORDS.sub("", text)


def _size(blocks: Sequence[Block]) -> int:
    return sum(len(block.plain) for block in blocks)


def _dense(written: Written, *, declared: bool) -> list[Block]:
    """The blocks where words are that are no links; all that reads on, where the page declares what its content is."""
    blocks = written.blocks
    weights = [0 if block.doubtful else max(0, len(block.plain) - 2 * block.linked) for block in blocks]
    first, end = (0, len(blocks)) if declared else _innermost(written.spans, weights, MOST)
    first, end = _without_edges(blocks, first, end)
    title = _title_above(blocks, first)
    amid = [n for n in range(first, end) if not blocks[n].doubtful and _reads_on(blocks[n])]
    return [blocks[n] for n in (amid if title is None else [title, *amid])]


def _found(written: Written, found: str) -> list[Block]:
    """The blocks that trafilatura found, and those amid them that it tends to lose."""
    blocks = written.blocks
    sure = _found_in(blocks, found)
    weights = [len(block.plain) - block.linked if is_sure else 0 for block, is_sure in zip(blocks, sure, strict=True)]
    first, end = _innermost(written.spans, weights, MOST)
    inner = [n for n in range(first, end) if sure[n]]
    if not inner:
        return []
    title = _title_above(blocks, inner[0])
    return [
        block
        for n, (block, is_sure) in enumerate(zip(blocks, sure, strict=True))
        if n == title
        or (is_sure and (inner[0] <= n <= inner[-1] or not _is_linked(block)))
        or (inner[0] < n < inner[-1] and _is_often_lost(block))
    ]


def _is_often_lost(block: Block) -> bool:
    """Whether a block that trafilatura left out amid content is of a kind that it loses: no remark and no link."""
    if block.doubtful or _is_linked(block):
        return False
    if block.heading or block.item or block.text.startswith(_STRUCTURED):
        return True
    return len(block.plain) > MAX_REMARK and not block.linked and block.plain.rstrip().endswith(_ENDS)


def _title_above(blocks: Sequence[Block], first: int) -> int | None:
    """The heading of the whole that stands in a box of its own above the content."""
    above = range(first - 1, max(-1, first - 1 - ABOVE), -1)
    return next((n for n in above if blocks[n].text.startswith("# ") and not blocks[n].doubtful), None)


def _is_linked(block: Block) -> bool:
    return block.linked > LINKED * len(block.plain)


def _reads_on(block: Block) -> bool:
    """Whether a block amid content belongs to it: not so a link with the length of a headline."""
    return block.heading or not _is_linked(block) or len(block.plain) <= MAX_TERM


def _without_edges(blocks: Sequence[Block], first: int, end: int) -> tuple[int, int]:
    """Leaves out the links above the content and below it."""
    inner_first, inner_end = first, end
    while inner_first < end and _is_linked(blocks[inner_first]) and not blocks[inner_first].heading:
        inner_first += 1
    while inner_end > inner_first and _is_linked(blocks[inner_end - 1]) and not blocks[inner_end - 1].heading:
        inner_end -= 1
    return inner_first, inner_end


def _innermost(spans: Sequence[tuple[int, int]], weights: Sequence[int], share: float) -> tuple[int, int]:
    """The blocks of the innermost element that has so much of all weight."""
    sums = [0, *accumulate(weights)]
    return next((span for span in spans if sums[span[1]] - sums[span[0]] >= share * sums[-1]), (0, len(weights)))


def _found_in(blocks: Sequence[Block], found: str) -> list[bool]:
    """Of each block whether it is in what trafilatura found, which goes through the page in the same order."""
    kept: list[bool] = []
    at = 0
    for block in blocks:
        words = _compact(block.plain)
        position = _locate(words, found, at)
        kept.append(position is not None)
        if position is not None:
            at = position
    return kept


def _locate(words: str, found: str, at: int) -> int | None:
    """Where the block ends in what was found, looked for around where the one before it ended."""
    if not words:
        return None
    if len(words) < SHORT:
        position = found.find(words, at, at + NEAR)
        return position + len(words) if position >= 0 else None
    for offset in dict.fromkeys((0, max(0, len(words) - PROBE), max(0, (len(words) - PROBE) // 2))):
        position = found.find(words[offset : offset + PROBE], max(0, at - FAR), at + FAR)
        if position >= 0:
            return max(at, position - offset + len(words))
    return None
