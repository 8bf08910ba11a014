"""Sitemaps: lists of pages (XML or plain text, gzipped or not) and lists of sitemaps (sitemaps.org)."""

import io
import zlib
from dataclasses import dataclass
from typing import Final

from lxml import etree

from ke.web.errors import BadSitemap, BadUrl
from ke.web.urls import canonicalize

MAX_SITEMAP_URLS: Final = 50_000
"""The protocol's own limit for one sitemap; what comes after is not read."""
MAX_SITEMAP_BYTES: Final = 50 * 1024 * 1024
"""The protocol's own limit, decompressed."""

_GZIP: Final = b"\x1f\x8b"
_PARENTS: Final = {"url": "urls", "sitemap": "sitemaps"}


@dataclass(frozen=True, slots=True)
class Sitemap:
    """What a sitemap names: canonical URLs, in its order, each once."""

    urls: tuple[str, ...] = ()
    """Pages."""
    sitemaps: tuple[str, ...] = ()
    """Further sitemaps."""
    truncated: bool = False
    """Whether it named more than `MAX_SITEMAP_URLS`."""


def parse_sitemap(body: bytes, url: str) -> Sitemap:
    """Reads a sitemap. Pure and quick to start, so that it can run in a process pool.

    Entities are not resolved, nothing is loaded, and the memory it takes is bounded. Entries that are no URLs are left
    out.

    Args:
        body: As it was fetched.
        url: Where it came from.

    Raises:
        BadSitemap: Not readable as XML, nor as a list of URLs; or longer than `MAX_SITEMAP_BYTES`.
    """
    if body.startswith(_GZIP):
        body = _gunzip(body)
    if len(body) > MAX_SITEMAP_BYTES:
        raise BadSitemap(f"a sitemap may have {MAX_SITEMAP_BYTES:,} bytes")
    found: dict[str, dict[str, None]] = {"urls": {}, "sitemaps": {}}
    head = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    xml = head == b"<" or body[:2] in {b"\xff\xfe", b"\xfe\xff"}
    truncated = _read_xml(body, url, found) if xml else _read_lines(body, found)
    return Sitemap(urls=tuple(found["urls"]), sitemaps=tuple(found["sitemaps"]), truncated=truncated)


def _gunzip(body: bytes) -> bytes:
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        plain = inflate.decompress(body, MAX_SITEMAP_BYTES + 1)
    except zlib.error as error:
        raise BadSitemap(f"the sitemap is not valid gzip: {error}") from None
    if len(plain) > MAX_SITEMAP_BYTES:
        raise BadSitemap(f"a sitemap may have {MAX_SITEMAP_BYTES:,} bytes when decompressed")
    if not inflate.eof:
        raise BadSitemap("the sitemap's gzip data ends too early")
    return plain


def _read_xml(body: bytes, url: str, found: dict[str, dict[str, None]]) -> bool:
    events = etree.iterparse(
        io.BytesIO(body.lstrip(b" \t\r\n")),
        events=("end",),
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )
    known = False
    try:
        for _, element in events:
            name = etree.QName(element).localname
            parent = element.getparent()
            if name == "loc" and parent is not None:
                kind = _PARENTS.get(etree.QName(parent).localname)
                if kind and _add(found[kind], element.text or "", base=url):
                    return True
            known = known or name in {"urlset", "sitemapindex"}
            if name in _PARENTS:
                # Done with this entry: without this the tree of the whole sitemap stays in memory.
                element.clear()
                while element.getprevious() is not None:
                    del element.getparent()[0]
    except etree.XMLSyntaxError as error:
        raise BadSitemap(f"the sitemap is not valid XML: {error}") from None
    if not known:
        raise BadSitemap("the document is neither a urlset nor a sitemapindex")
    return False


def _read_lines(body: bytes, found: dict[str, dict[str, None]]) -> bool:
    lines = body.decode("utf-8-sig", errors="replace").splitlines()
    if any(_add(found["urls"], line, base=None) for line in lines):
        return True
    if not found["urls"] and any(line.strip() for line in lines):
        raise BadSitemap("the document is neither XML nor a list of URLs")
    return False


def _add(urls: dict[str, None], text: str, *, base: str | None) -> bool:
    """Adds one URL; True when there is no room for it."""
    if not text.strip():
        return False
    try:
        canonical = canonicalize(text, base)
    except BadUrl:
        return False
    if canonical not in urls and len(urls) >= MAX_SITEMAP_URLS:
        return True
    urls[canonical] = None
    return False
