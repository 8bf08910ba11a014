"""One fetched document to text, metadata and links. Pure, so that it runs in a process pool."""

import logging
import re
from dataclasses import dataclass
from typing import Final, Literal

import trafilatura
from lxml import etree
from selectolax.lexbor import LexborHTMLParser
from trafilatura.settings import Document, set_date_params

from ke.web.charset import clean, decode
from ke.web.errors import BadUrl, UnsupportedType
from ke.web.markdown import content_of, to_markdown
from ke.web.nesting import tame
from ke.web.urls import canonicalize

HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
MARKDOWN_TYPES: Final = frozenset({"text/markdown", "text/x-markdown"})
READABLE_TYPES: Final = HTML_TYPES | MARKDOWN_TYPES | {"text/plain"}
"""The content types that `parse_page` reads."""

MAX_PARSED_BYTES: Final = 5_000_000
"""What is read of a document; the rest is cut off, and `truncated` says so."""
MAX_READER_CHARS: Final = 250_000
"""The longest page that the main-content reader is given: its time grows faster than the page, to a second here."""
MAX_READER_TAGS: Final = 12_000
"""Angle brackets in the largest page that it is given: its time is in the elements rather than in the text."""
MAX_LINKS: Final = 20_000
"""Links of one page, at most."""
MAX_TITLE_CHARS: Final = 500
MIN_RECALL: Final = 0.25
"""The share of the visible text that the reader must keep; below it the page is written out by its structure."""
MIN_GUARDED_CHARS: Final = 500
"""Visible characters from which that share means something."""
MOSTLY_CONTENT: Final = 0.7
"""The share of the visible text from which a page is taken to be all content, as documentation is. There the reader
leaves out little that is noise, but loses headings, code and definition lists that stand in nested boxes."""

_SPACE: Final = re.compile(r"\s+")
_FENCE: Final = re.compile(r"^ *```", re.MULTILINE)
_HEADING: Final = re.compile(r"^#{1,6} ", re.MULTILINE)
_WRAPPED: Final = re.compile(r"^\s+(?![-*+] |\d+[.)] |\||>|#)\S")


_READER_ERRORS: Final = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError),
    etree.LxmlError,
)
"""What the reader and the libraries under it raise on broken pages, instead of saying that they found nothing."""

# It reports each page it cannot read as an error, which is our caller's business, and has its text in the message.
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """What a document says. Texts hold no NUL, no controls and no lone surrogates."""

    kind: Literal["html", "text", "markdown"]
    title: str
    text: str
    """The main content, as Markdown."""
    reader: Literal["main", "structure", "plain"]
    """How the text was found: as the main content; by writing out the structure of the body; as it is."""
    author: str = ""
    date: str = ""
    """Of publication, YYYY-MM-DD."""
    language: str = ""
    """As the page declares it, lower case (`en`, `pt-br`)."""
    description: str = ""
    sitename: str = ""
    links: tuple[str, ...] = ()
    """Canonical URLs of http and https links in document order, each once, without those marked rel=nofollow."""
    nofollow_links: tuple[str, ...] = ()
    """Those that are only ever marked rel=nofollow (or ugc, sponsored)."""
    nofollow: bool = False
    """Whether the page asks that none of its links be followed."""
    noindex: bool = False
    """Whether the page asks not to be kept."""
    canonical: str | None = None
    """What the page names as its own URL."""
    truncated: bool = False
    """Whether the document or its links went over a limit and were cut."""

    @property
    def metadata(self) -> dict[str, str]:
        """What is known of author, date, language, description, sitename and canonical."""
        names = ("author", "date", "language", "description", "sitename", "canonical")
        return {name: value for name in names if (value := getattr(self, name))}


def parse_page(body: bytes, content_type: str, charset: str | None, url: str) -> ParsedPage:
    """Reads one document.

    Args:
        body: As it was fetched, decompressed.
        content_type: Lower case, without parameters; empty: told from the body.
        charset: As the Content-Type header names it.
        url: Where the document came from (after redirects): relative links start there.

    Raises:
        UnsupportedType: Not among `READABLE_TYPES`.
    """
    content_type = content_type or _sniff(body)
    if content_type not in READABLE_TYPES:
        raise UnsupportedType(f"documents of type {content_type} cannot be read", content_type=content_type)
    cut = len(body) > MAX_PARSED_BYTES
    text = clean(decode(body[:MAX_PARSED_BYTES], charset, markup=content_type in HTML_TYPES))
    if content_type in HTML_TYPES:
        return _parse_html(text, url, cut=cut)
    kind: Literal["markdown", "text"] = "markdown" if content_type in MARKDOWN_TYPES else "text"
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    first = text.split("\n", 1)[0].lstrip("# ") if kind == "markdown" else ""
    return ParsedPage(kind=kind, title=_line(first), text=text, reader="plain", truncated=cut)


def _sniff(body: bytes) -> str:
    """The type of a document that came without one."""
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"%pdf-"):
        return "application/pdf"
    if head.startswith(b"<"):
        return "text/html"
    return "application/octet-stream" if b"\x00" in head else "text/plain"


def _parse_html(html: str, url: str, *, cut: bool) -> ParsedPage:
    html = tame(html)
    tree = LexborHTMLParser(html)
    base = _base(tree, url)
    links, nofollow_links, too_many = _links(tree, base)
    directives = _directives(tree)
    found = _read_main(html, url)
    text, reader = _choose(found.text or "" if found else "", tree)
    meta = {
        name: _line(getattr(found, name, None) or "")
        for name in ("author", "date", "language", "description", "sitename")
    }
    meta["language"] = _language(tree) or meta["language"]
    return ParsedPage(
        kind="html",
        title=_title(tree),
        text=text,
        reader=reader,
        links=links,
        nofollow_links=nofollow_links,
        nofollow=not directives.isdisjoint({"nofollow", "none"}),
        noindex=not directives.isdisjoint({"noindex", "none"}),
        canonical=_canonical(tree, base),
        truncated=cut or too_many,
        **meta,
    )


def _read_main(html: str, url: str) -> Document | None:
    if len(html) > MAX_READER_CHARS or html.count("<") > MAX_READER_TAGS:
        return None
    try:
        found = trafilatura.bare_extraction(
            html,
            url=url,
            fast=True,
            include_comments=False,
            include_formatting=True,
            with_metadata=True,
            date_extraction_params=set_date_params(extensive=False),
        )
        return found if isinstance(found, Document) else None
    except _READER_ERRORS:
        # A page that its heuristics trip over is still written out by its structure.
        return None


def _choose(main: str, tree: LexborHTMLParser) -> tuple[str, Literal["main", "structure"]]:
    """Takes what the reader found, or the whole content where that lost text, or lost structure and left out little."""
    text = clean(_unwrap(main)).strip()
    root = content_of(tree)
    whole = clean(to_markdown(root)).strip() if root is not None else ""
    kept, seen = len(_SPACE.sub("", text)), len(_SPACE.sub("", whole))
    lost_text = kept == 0 or (seen > MIN_GUARDED_CHARS and kept < MIN_RECALL * seen)
    lost_structure = kept > MOSTLY_CONTENT * seen and any(
        2 * len(mark.findall(text)) < len(mark.findall(whole)) for mark in (_HEADING, _FENCE)
    )
    return (whole, "structure") if whole and (lost_text or lost_structure) else (text, "main")


def _unwrap(text: str) -> str:
    """Joins lines that were broken in the source of the page only; code stays as it is."""
    lines: list[str] = []
    in_code = False
    for line in text.split("\n"):
        fence = bool(_FENCE.match(line))
        if fence:
            in_code = not in_code
        elif not in_code and lines and lines[-1].strip() and _WRAPPED.match(line) and not lines[-1].startswith("|"):
            lines[-1] = f"{lines[-1].rstrip()} {line.strip()}"
            continue
        lines.append(line if in_code or fence else line.rstrip())
    return "\n".join(lines)


def _line(text: str) -> str:
    return clean(_SPACE.sub(" ", text)).strip()[:MAX_TITLE_CHARS]


def _title(tree: LexborHTMLParser) -> str:
    for query in ("head title", "h1", "title"):
        node = tree.css_first(query)
        if node is not None and (title := _line(node.text(deep=True))):
            return title
    return _meta(tree, "meta[property='og:title']")


def _meta(tree: LexborHTMLParser, query: str) -> str:
    node = tree.css_first(query)
    return _line(node.attributes.get("content") or "") if node is not None else ""


def _language(tree: LexborHTMLParser) -> str:
    root = tree.css_first("html")
    declared = (root.attributes.get("lang") or root.attributes.get("xml:lang") or "") if root is not None else ""
    return _line(declared).lower()[:35]


def _base(tree: LexborHTMLParser, url: str) -> str:
    node = tree.css_first("base[href]")
    if node is None:
        return url
    try:
        return canonicalize(node.attributes.get("href") or "", url)
    except BadUrl:
        return url


def _canonical(tree: LexborHTMLParser, base: str) -> str | None:
    for node in tree.css("link[rel][href]"):
        if "canonical" in (node.attributes.get("rel") or "").lower().split():
            try:
                return canonicalize(node.attributes.get("href") or "", base)
            except BadUrl:
                return None
    return None


def _directives(tree: LexborHTMLParser) -> frozenset[str]:
    """What the page's `<meta name=robots>` asks of crawlers."""
    words: set[str] = set()
    for node in tree.css("meta[name][content]"):
        if (node.attributes.get("name") or "").strip().lower() == "robots":
            words.update(word.strip() for word in (node.attributes.get("content") or "").lower().split(","))
    return frozenset(words)


def _links(tree: LexborHTMLParser, base: str) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The links to follow, those marked not to be, and whether there were more than `MAX_LINKS`."""
    links: dict[str, None] = {}
    marked: dict[str, None] = {}
    for node in tree.css("a[href], area[href]"):
        href = node.attributes.get("href")
        if not href or href.startswith("#"):
            continue
        try:
            link = canonicalize(href, base)
        except BadUrl:
            continue
        rel = (node.attributes.get("rel") or "").lower().split()
        (marked if not {"nofollow", "ugc", "sponsored"}.isdisjoint(rel) else links)[link] = None
        if len(links) + len(marked) > MAX_LINKS:
            return tuple(links)[:MAX_LINKS], tuple(link for link in marked if link not in links), True
    return tuple(links), tuple(link for link in marked if link not in links), False
