"""The links of a page: where they lead, and which of them ask not to be followed."""

from dataclasses import dataclass
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from ke.web.errors import BadUrl
from ke.web.urls import canonicalize

MAX_LINKS: Final = 20_000
"""Links of one page, at most."""

_MARKS: Final = frozenset({"nofollow", "ugc", "sponsored"})


@dataclass(frozen=True, slots=True)
class Links:
    """The links of one page."""

    follow: tuple[str, ...]
    """Canonical, in document order, each once."""
    marked: tuple[str, ...]
    """Those that are only ever marked not to be followed."""
    targets: dict[str, str]
    """Of each `href`, as the page writes it, the canonical URL."""
    too_many: bool
    """Whether there were more than `MAX_LINKS`."""


def read_links(tree: LexborHTMLParser, base: str) -> Links:
    """The links to follow, and those marked not to be."""
    links: dict[str, None] = {}
    marked: dict[str, None] = {}
    targets: dict[str, str] = {}
    too_many = False
    for node in tree.css("a[href], area[href]"):
        attributes = node.attributes
        href = attributes.get("href")
        if not href or href.startswith("#"):
            continue
        link = targets.get(href)
        if link is None:
            try:
                link = targets[href] = canonicalize(href, base)
            except BadUrl:
                continue
        rel = attributes.get("rel")
        (links if not rel or _MARKS.isdisjoint(rel.lower().split()) else marked)[link] = None
        if len(links) + len(marked) > MAX_LINKS:
            too_many = True
            break
    only_marked = tuple(link for link in marked if link not in links)
    return Links(tuple(links)[:MAX_LINKS], only_marked, targets, too_many)


def base_of(tree: LexborHTMLParser, url: str) -> str:
    """Where relative links start: the page's own address, or what its `<base>` says."""
    node = tree.css_first("base[href]")
    if node is None:
        return url
    try:
        return canonicalize(node.attributes.get("href") or "", url)
    except BadUrl:
        return url


def canonical_of(tree: LexborHTMLParser, base: str) -> str | None:
    """What the page names as its own URL."""
    for node in tree.css("link[rel][href]"):
        if "canonical" in (node.attributes.get("rel") or "").lower().split():
            try:
                return canonicalize(node.attributes.get("href") or "", base)
            except BadUrl:
                return None
    return None
