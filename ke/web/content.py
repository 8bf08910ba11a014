"""Which of a page's blocks are its content.

Both readings write a page out by its structure first and then choose among the blocks, so that what they keep has its
headings, lists, tables, code and links. `fast` chooses by what the page declares and by density: content is where words
are that are no links. `thorough` asks trafilatura, takes the blocks that it found, and puts back what it loses: blocks
that stand between those.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal

import trafilatura
from lxml import etree
from selectolax.lexbor import LexborHTMLParser
from trafilatura.settings import Document

from ke.contracts.jobs import Reading
from ke.web.blocks import Block
from ke.web.markdown import Written, content_of, document, write

Reader = Literal["main", "density", "structure"]

MAX_READER_CHARS: Final = 250_000
"""The longest page that trafilatura is given: its time grows faster than the page, to a second here."""
MAX_READER_TAGS: Final = 12_000
"""Angle brackets in the largest page that it is given: its time is in the elements rather than in the text."""
MIN_RECALL: Final = 0.25
"""The share of the visible text that must be kept; below it the page is written out as a whole."""
MIN_AGREED: Final = 0.5
"""The share of what density takes that trafilatura's opinion must leave; on short pages that sees a part only."""
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

_MAIN: Final[Reader] = "main"
_DENSITY: Final[Reader] = "density"
_NO_WORDS: Final = re.compile(r"[\W_]+")

_READER_ERRORS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    etree.LxmlError,
)
"""What trafilatura and the libraries under it raise on broken pages, instead of saying that they found nothing."""

# It reports each page it cannot read as an error, which is our caller's business, and has its text in the message.
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)


def read_content(html: str, tree: LexborHTMLParser, links: Mapping[str, str], reading: Reading) -> tuple[str, Reader]:
    """The content of a page as Markdown, and how it was told from what is around it.

    What would lose most of a page's text is not taken: density is asked where trafilatura finds little, and a page
    where that finds little too is written out whole.

    Args:
        html: The page.
        tree: The same, parsed.
        links: The URL of each `href`, as the page writes it, that becomes a link.
        reading: How much time to take.
    """
    body = tree.body
    if body is None:
        return "", "structure"
    found = _compact(_main_text(html)) if reading is Reading.THOROUGH else ""
    root = content_of(tree) or body
    whole: Written | None = None
    for evidence, reader in ((found, _MAIN), ("", _DENSITY)) if found else (("", _DENSITY),):
        written = whole or write(root, links)
        declared = root.mem_id != body.mem_id and whole is None
        kept = _chosen(written, evidence, declared=declared)
        if declared and _size(kept) <= DECLARED * len(evidence):
            written = whole = write(body, links)
            declared = False
            kept = _chosen(written, evidence, declared=False)
        if evidence and _size(kept) < MIN_AGREED * _size(_chosen(written, "", declared=declared)):
            continue
        seen = _size(written.blocks)
        if kept and (seen <= MIN_GUARDED_CHARS or _size(kept) >= MIN_RECALL * seen):
            return document(kept), reader
    return document((whole or write(body, links)).blocks), "structure"


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


def _chosen(written: Written, found: str, *, declared: bool) -> list[Block]:
    """The blocks that are content."""
    blocks = written.blocks
    sure = _found_in(blocks, found) if found else [False] * len(blocks)
    if any(sure):
        weights = [len(b.plain) - b.linked if keep else 0 for b, keep in zip(blocks, sure, strict=True)]
    else:
        weights = [0 if b.doubtful else max(0, len(b.plain) - 2 * b.linked) for b in blocks]
    first, end = (0, len(blocks)) if declared and not any(sure) else _innermost(written.spans, weights, MOST)
    first, end = _without_edges(blocks, first, end)
    title = _title_above(blocks, first)
    return [
        block
        for n, (block, keep) in enumerate(zip(blocks, sure, strict=True))
        if n == title
        or (keep and not _is_linked(block))
        or (first <= n < end and (keep or (not block.doubtful and _reads_on(block))))
    ]


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
