"""One fetched document to text, metadata and links. Pure, so that it runs in a process pool."""

from dataclasses import dataclass
from typing import Final, Literal

from selectolax.lexbor import LexborHTMLParser

from ke.contracts.jobs import Reading
from ke.web.charset import clean, decode
from ke.web.content import read_content
from ke.web.errors import UnsupportedType
from ke.web.links import base_of, canonical_of, read_links
from ke.web.metadata import line, read_metadata
from ke.web.nesting import tame
from ke.web.pdf import PDF_TYPE

HTML_TYPES: Final = frozenset({"text/html", "application/xhtml+xml"})
MARKDOWN_TYPES: Final = frozenset({"text/markdown", "text/x-markdown"})
PAGE_TYPES: Final = HTML_TYPES | MARKDOWN_TYPES | {"text/plain"}
"""The content types that `parse_page` reads."""
READABLE_TYPES: Final = PAGE_TYPES | {PDF_TYPE}
"""All that can be read."""

MAX_PARSED_BYTES: Final = 5_000_000
"""What is read of a document; the rest is cut off, and `truncated` says so."""


@dataclass(frozen=True, slots=True)
class ParsedPage:
    """What a document says. Texts hold no NUL, no controls and no lone surrogates."""

    kind: Literal["html", "text", "markdown", "pdf"]
    title: str
    text: str
    """The main content, as Markdown."""
    reader: Literal["main", "density", "structure", "plain", "pages"]
    """How the text was found: by trafilatura's main content; by where words are dense; as all of the body; as it is;
    page by page."""
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
    page_count: int = 0
    """Of a PDF: how many pages it has."""
    truncated: bool = False
    """Whether the document or its links went over a limit and were cut."""

    @property
    def metadata(self) -> dict[str, str]:
        """What is known of author, date, language, description, sitename and canonical; how it was read; its pages."""
        names = ("author", "date", "language", "description", "sitename", "canonical", "reader")
        known = {name: value for name in names if (value := getattr(self, name))}
        known |= {"pages": str(self.page_count)} if self.page_count else {}
        return known | ({"truncated": "true"} if self.truncated else {})


def parse_page(
    body: bytes, content_type: str, charset: str | None, url: str, reading: Reading = Reading.THOROUGH
) -> ParsedPage:
    """Reads one document.

    Args:
        body: As it was fetched, decompressed.
        content_type: Lower case, without parameters; empty: told from the body.
        charset: As the Content-Type header names it.
        url: Where the document came from (after redirects): relative links start there.
        reading: How much time to take for telling a page's content from what is around it.

    Raises:
        UnsupportedType: Not among `PAGE_TYPES`.
    """
    content_type = content_type or _sniff(body)
    if content_type not in PAGE_TYPES:
        raise UnsupportedType(f"documents of type {content_type} cannot be read", content_type=content_type)
    cut = len(body) > MAX_PARSED_BYTES
    text = clean(decode(body[:MAX_PARSED_BYTES], charset, markup=content_type in HTML_TYPES))
    if content_type in HTML_TYPES:
        return _parse_html(text, url, reading, cut=cut)
    kind: Literal["markdown", "text"] = "markdown" if content_type in MARKDOWN_TYPES else "text"
    text = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    first = text.split("\n", 1)[0].lstrip("# ") if kind == "markdown" else ""
    return ParsedPage(kind=kind, title=line(first), text=text, reader="plain", truncated=cut)


def _sniff(body: bytes) -> str:
    """The type of a document that came without one."""
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"%pdf-"):
        return "application/pdf"
    if head.startswith(b"<"):
        return "text/html"
    return "application/octet-stream" if b"\x00" in head else "text/plain"


def _parse_html(html: str, url: str, reading: Reading, *, cut: bool) -> ParsedPage:
    html = tame(html)
    tree = LexborHTMLParser(html)
    base = base_of(tree, url)
    links = read_links(tree, base)
    said = read_metadata(tree, url)
    text, reader = read_content(tree, links.targets, reading)
    return ParsedPage(
        kind="html",
        title=said.title,
        text=clean(text).strip(),
        reader=reader,
        author=said.author,
        date=said.date,
        language=said.language,
        description=said.description,
        sitename=said.sitename,
        links=links.follow,
        nofollow_links=links.marked,
        nofollow=not said.directives.isdisjoint({"nofollow", "none"}),
        noindex=not said.directives.isdisjoint({"noindex", "none"}),
        canonical=canonical_of(tree, base),
        truncated=cut or links.too_many,
    )
