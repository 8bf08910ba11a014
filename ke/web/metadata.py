"""What a page says of itself, in its markup: title, author, date, language, and what it asks of robots."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from selectolax.lexbor import LexborHTMLParser

from ke.web.charset import clean

MAX_TITLE_CHARS: Final = 500
MAX_LD_CHARS: Final = 200_000
"""The longest JSON-LD that is read."""
MAX_LD_NODES: Final = 200
"""Objects in it that are looked at."""

_SPACE: Final = re.compile(r"\s+")
_DATE: Final = re.compile(r"((?:19|20)\d\d)-?([01]\d)-?([0-3]\d)(?!\d)")
_URL_DATE: Final = re.compile(r"/((?:19|20)\d\d)[/-]([01]\d)[/-]([0-3]\d)(?!\d)")
_BY: Final = re.compile(r"^(?:by|von|par|por|di)\s+", re.IGNORECASE)
_AUTHORS: Final = ("author", "article:author", "dc.creator", "dcterms.creator", "parsely-author", "citation_author")
_DATES: Final = (
    *(
        "article:published_time",
        "datepublished",
        "date",
        "dc.date",
        "dcterms.date",
        "dc.date.issued",
        "dcterms.created",
    ),
    *(
        "pubdate",
        "publish-date",
        "publication_date",
        "parsely-pub-date",
        "citation_publication_date",
        "og:published_time",
    ),
)
_DESCRIPTIONS: Final = ("description", "og:description", "dc.description", "twitter:description")
_BYLINES: Final = "[itemprop=author], [rel=author], .byline, .author-name, .p-author"
_TIMES: Final = "time[pubdate], [itemprop=datePublished], article time[datetime], header time[datetime]"
_MAX_NAME: Final = 100


@dataclass(frozen=True, slots=True)
class Metadata:
    """Each empty when the page does not say it."""

    title: str
    author: str
    date: str
    """Of publication, YYYY-MM-DD."""
    language: str
    """Lower case (`en`, `pt-br`)."""
    description: str
    sitename: str
    directives: frozenset[str]
    """What `<meta name=robots>` asks of crawlers."""


def read_metadata(tree: LexborHTMLParser, url: str) -> Metadata:
    """Reads what the page declares: meta elements, JSON-LD, and the marks of articles."""
    meta = _meta(tree)
    linked = list(_linked_data(tree))
    return Metadata(
        title=_title(tree) or meta.get("og:title", ""),
        author=_author(tree, meta, linked),
        date=_date(tree, meta, linked, url),
        language=_language(tree, meta),
        description=_first(meta, _DESCRIPTIONS),
        sitename=meta.get("og:site_name", "") or meta.get("application-name", ""),
        directives=frozenset(word.strip() for word in meta.get("robots", "").lower().split(",")),
    )


def line(text: str) -> str:
    """A text as one line, cut at a length that fits any title."""
    return clean(_SPACE.sub(" ", text)).strip()[:MAX_TITLE_CHARS]


def _meta(tree: LexborHTMLParser) -> dict[str, str]:
    """Of each name the first content that is not empty; those for robots all together."""
    found: dict[str, str] = {}
    for node in tree.css("meta[content]"):
        attributes = node.attributes
        name = (
            (attributes.get("name") or attributes.get("property") or attributes.get("itemprop") or "").strip().lower()
        )
        content = line(attributes.get("content") or "")
        if name == "robots" and name in found:
            found[name] += f",{content}"
        elif name and content and name not in found:
            found[name] = content
    return found


def _first(meta: dict[str, str], names: tuple[str, ...]) -> str:
    return next((meta[name] for name in names if name in meta), "")


def _title(tree: LexborHTMLParser) -> str:
    for query in ("head title", "h1", "title"):
        node = tree.css_first(query)
        if node is not None and (title := line(node.text(deep=True))):
            return title
    return ""


def _language(tree: LexborHTMLParser, meta: dict[str, str]) -> str:
    root = tree.css_first("html")
    declared = (root.attributes.get("lang") or root.attributes.get("xml:lang") or "") if root is not None else ""
    found = line(declared) or meta.get("dc.language", "") or meta.get("og:locale", "").replace("_", "-")
    return found.lower()[:35]


def _author(tree: LexborHTMLParser, meta: dict[str, str], linked: list[dict[str, Any]]) -> str:
    names = [meta[name] for name in _AUTHORS if name in meta and not meta[name].startswith(("http:", "https:"))]
    names += [", ".join(_names(node["author"])) for node in linked if node.get("author")]
    node = tree.css_first(_BYLINES)
    if node is not None:
        names.append(_BY.sub("", line(node.text(deep=True))))
    return next((name for name in names if name and len(name) <= _MAX_NAME), "")


def _names(value: Any) -> Iterator[str]:
    """The names of persons or organisations in JSON-LD."""
    for one in value[:10] if isinstance(value, list) else (value,):
        name = one.get("name") if isinstance(one, dict) else one
        if isinstance(name, str) and line(name):
            yield line(name)


def _date(tree: LexborHTMLParser, meta: dict[str, str], linked: list[dict[str, Any]], url: str) -> str:
    said = [_first(meta, _DATES), *(str(node.get("datePublished", "")) for node in linked)]
    for node in tree.css(_TIMES)[:5]:
        said += [node.attributes.get("datetime") or node.attributes.get("content") or node.text(deep=True)[:100]]
    found = (_iso(match) for text in said if (match := _DATE.match(text.strip())))
    return next((day for day in found if day), "") or _iso(_URL_DATE.search(url))


def _iso(match: re.Match[str] | None) -> str:
    if match is None:
        return ""
    try:
        return date(int(match[1]), int(match[2]), int(match[3])).isoformat()
    except ValueError:
        return ""


def _linked_data(tree: LexborHTMLParser) -> Iterator[dict[str, Any]]:
    """The objects of a page's JSON-LD, outer ones first."""
    todo: list[Any] = []
    for script in tree.css("script[type='application/ld+json']")[:10]:
        text = script.text(deep=True)
        if len(text) <= MAX_LD_CHARS:
            try:
                todo.append(json.loads(text))
            except (ValueError, RecursionError):
                continue
    for _ in range(MAX_LD_NODES):
        if not todo:
            return
        node = todo.pop(0)
        if isinstance(node, dict):
            yield node
            todo += [node[key] for key in ("@graph", "mainEntity", "mainEntityOfPage") if key in node]
        elif isinstance(node, list):
            todo += node[:MAX_LD_NODES]
