"""Makes the labelled pages of `tests/data/reading` out of unpacked documentation packages.

    apt-get download PACKAGE && dpkg -x PACKAGE_*.deb FOLDER/PACKAGE     # for each package of LAYOUTS
    python tools/reading_set.py FOLDER tests/data/reading

For each layout somebody looked up which element holds the content and what in it is none. That rule, with another
parser (lxml) than the reader's, gives the text that a perfect reader would give, and its headings, code, list items
and table rows. Of each page somebody looked at the beginning and the end
of the text, and at the words in which it and what the reader makes of the page differ most.
"""

import gzip
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lxml import html as lxml_html
from lxml.html import HtmlElement

_SPACE: Final = re.compile(r"\s+")
_NEVER: Final = ("script", "style", "noscript", "template", "button", "svg", "*[@hidden]")
_INLINE: Final = frozenset(
    {
        *("a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "code", "data", "del", "dfn", "em", "font", "i"),
        *("ins", "kbd", "label", "mark", "nobr", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup"),
        *("time", "tt", "u", "var", "wbr"),
    }
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The pages of one site's layout, and where their content is (XPath)."""

    package: str
    root: str
    """Folder of the pages in the package."""
    pages: tuple[str, ...]
    content: str
    without: tuple[str, ...] = ()


def _class(*names: str) -> tuple[str, ...]:
    return tuple(f"*[contains(concat(' ', normalize-space(@class), ' '), ' {name} ')]" for name in names)


_SPHINX: Final = _class("headerlink", "viewcode-link")
_APACHE: Final = (*_class("top", "toplang", "permalink"), "*[@id='quickview']", "*[@id='comments_section']/..")

_CHARSETS: Final = {"ko/dns-caveats.html": "euc-kr", "es/handler.html": "iso-8859-1"}
"""Of the pages that are not in UTF-8."""

LAYOUTS: Final = {
    "postgresql": Layout(
        "postgresql-doc-15",
        "usr/share/doc/postgresql-doc-15/html",
        ("tutorial-window.html", "sql-createsequence.html", "functions-uuid.html", "warm-standby-failover.html"),
        "//body",
        _class("navheader", "navfooter"),
    ),
    "sqlite": Layout(
        "sqlite3-doc",
        "usr/share/doc/sqlite3",
        ("howtocorrupt.html", "whentouse.html", "quirks.html"),
        "//body",
        _class("nosearch", "fancy_toc", "fancy-toc1", "fancy-toc2", "fancy-toc3"),
    ),
    "apache": Layout(
        "apache2-doc",
        "usr/share/doc/apache2-doc/manual",
        (
            "en/env.html",
            "en/mod/mod_alias.html",
            "fr/caching.html",
            "ja/handler.html",
            "ko/dns-caveats.html",
            "es/handler.html",
        ),
        "//*[@id='page-content']",
        _APACHE,
    ),
    "sphinx": Layout(
        "python-flask-doc",
        "usr/share/doc/python-flask-doc/html",
        ("patterns/viewdecorators.html", "server.html", "signals.html"),
        "//*[@role='main']",
        _SPHINX,
    ),
    "readthedocs": Layout(
        "python-scrapy-doc",
        "usr/share/doc/python-scrapy-doc/html",
        ("topics/logging.html", "topics/practices.html", "intro/overview.html"),
        "//*[@role='main']",
        _SPHINX,
    ),
    "mdbook": Layout(
        "rust-doc",
        "usr/share/doc/rust-doc/html/book",
        ("ch03-05-control-flow.html", "ch07-01-packages-and-crates.html", "ch00-00-introduction.html"),
        "//main",
    ),
    "rustdoc": Layout(
        "rust-doc",
        "usr/share/doc/rust-doc/html/std",
        ("convert/index.html", "macro.assert.html", "primitive.unit.html"),
        "//*[@id='main-content']",
        (
            *_class(
                "out-of-band", "anchor", "hideme", "srclink", "tooltip", "notable-traits", "test-arrow", "rightside"
            ),
            "*[@id='copy-path']",
        ),
    ),
    "node": Layout(
        "nodejs-doc",
        "usr/share/doc/nodejs/api",
        ("string_decoder.html", "punycode.html"),
        "//*[@id='apicontent']",
        _class("mark", "copy-button"),
    ),
    "mkdocs": Layout(
        "mkdocs-doc",
        "usr/share/doc/mkdocs/html",
        ("dev-guide/translations.html", "user-guide/installation.html"),
        "//*[@role='main']",
        _class("headerlink"),
    ),
    "tomcat": Layout(
        "tomcat10-docs",
        "usr/share/doc/tomcat10-docs/docs",
        ("cgi-howto.html", "ssi-howto.html", "monitoring.html"),
        "//*[@id='content']",
    ),
}


def text_of(element: HtmlElement) -> str:
    """What is read in an element."""
    return " ".join(_lines(element))


def _lines(element: HtmlElement) -> list[str]:
    """What is read in an element, block by block; at least one, which may be empty."""
    parts: list[str] = []

    def walk(node: HtmlElement) -> None:
        edge = "\0" if isinstance(node.tag, str) and node.tag not in _INLINE else ""
        parts.append(edge)
        if isinstance(node.tag, str):
            parts.append(node.text or "")
            for child in node:
                walk(child)
                parts.append(child.tail or "")
        parts.append(edge)

    walk(element)
    lines = (_SPACE.sub(" ", line).strip() for line in "".join(parts).split("\0"))
    return [line for line in lines if line] or [""]


def label(markup: bytes, layout: Layout, charset: str) -> dict[str, object]:
    """The gold of one page."""
    tree = lxml_html.document_fromstring(markup, parser=lxml_html.HTMLParser(encoding=charset))
    (content,) = tree.xpath(layout.content)
    for query in (*_NEVER, *layout.without):
        for node in content.xpath(f".//{query}"):
            if node.getparent() is not None:
                node.drop_tree()
    data = [
        t for t in content.iter("table") if not t.xpath(".//pre | .//table | .//ul | .//ol | .//dl | .//h2 | .//h3")
    ]
    rows = [[text_of(cell) for cell in row if cell.tag in {"td", "th"}] for table in data for row in table.iter("tr")]
    return {
        "text": text_of(content),
        "headings": [text_of(h) for h in content.xpath(".//h1|.//h2|.//h3|.//h4|.//h5|.//h6") if text_of(h)],
        "code": [text_of(pre) for pre in content.xpath(".//pre[not(ancestor::pre)]") if text_of(pre)],
        "items": [line for item in content.iter("li") if (line := _lines(item)[0])],
        "rows": [row for row in rows if sum(map(bool, row)) > 1],
    }


def main(folder: Path, target: Path) -> None:
    """Writes every page and its gold, compressed so that the same input gives the same bytes."""
    for name, layout in LAYOUTS.items():
        for page in layout.pages:
            markup = (folder / layout.package / layout.root / page).read_bytes()
            gold = json.dumps(
                label(markup, layout, _CHARSETS.get(page, "utf-8")), ensure_ascii=False, indent=1
            ).encode()
            stem = f"{name}-{page.removesuffix('.html').replace('/', '-')}"
            for suffix, body in ((".html.gz", markup), (".json.gz", gold)):
                (target / (stem + suffix)).write_bytes(gzip.compress(body, 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
