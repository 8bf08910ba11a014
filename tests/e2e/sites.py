"""Sites that tests make themselves, what they are asked for, and an independent walk over the files of any site."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

from examples.serve import SiteServer

PAGES = 400
"""Pages of the big site."""
BRANCHES = 8
SLOW_S = 1.0
ARRIVES_S = 0.5
"""Within this a request that was sent is written down."""


def write_tree(folder: Path, *, pages: int) -> None:
    """Writes pages that form a tree of links, each with a paragraph of its own."""
    for number in range(pages):
        children = [n for n in range(BRANCHES * number + 1, BRANCHES * number + 1 + BRANCHES) if n < pages]
        links = "".join(f'<li><a href="page-{n}.html">Page {n}</a></li>' for n in children)
        name = "index.html" if number == 0 else f"page-{number}.html"
        (folder / name).write_text(
            f"<!doctype html><html lang=en><title>Page {number}</title><body><main><h1>Page {number}</h1>"
            f"<p>This is page {number} of a tree. It was written by Ada Lovelace in London on {number + 1} May 1843, "
            f"and it says a few words so that there is something to extract from it.</p>"
            f"<ul>{links}</ul><p><a href='index.html'>Up to the root</a></p></main></body></html>"
        )


@contextmanager
def slowly(*sites: SiteServer) -> Iterator[None]:
    """Lets each page of these sites take so long that no crawl of hundreds ends while the block runs."""
    before = [site.delay_s for site in sites]
    for site in sites:
        site.delay_s = SLOW_S
    try:
        yield
    finally:
        for site, delay_s in zip(sites, before, strict=True):
            site.delay_s = delay_s


async def requests_within(seconds: float, *sites: SiteServer) -> int:
    """How many requests these sites see from now on, but for those that were on their way."""
    await asyncio.sleep(ARRIVES_S)
    before = sum(len(site.requests) for site in sites)
    await asyncio.sleep(seconds)
    return sum(len(site.requests) for site in sites) - before


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"a", "area"}:
            self.found += [value for name, value in attrs if name == "href" and value]


def walk(folder: Path, start: str = "index.html", *, depth: int = 5) -> set[str]:
    """The paths of the pages that links reach from a start page, by the standard library alone."""
    base = "http://site/"
    seen = {start}
    level = [start]
    for _ in range(depth):
        following = []
        for path in level:
            parser = _Links()
            parser.feed((folder / path).read_text(errors="replace"))
            for link in parser.found:
                target = urldefrag(urljoin(base + path, link)).url
                name = urlsplit(target).path.lstrip("/")
                if target.startswith(base) and name not in seen and (folder / name).is_file():
                    seen.add(name)
                    following.append(name)
        level = following
    return seen
