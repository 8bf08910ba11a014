"""What a crawl of a site must find, by the standard library alone: there is no code of `ke` in here.

It keeps the rules of docs/crawling.md, so that its counts can be held against a crawl's, address by address.
"""

import hashlib
import http.client
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

READ_TYPES = frozenset(
    {
        *("text/html", "application/xhtml+xml", "text/plain", "text/markdown", "text/x-markdown"),
        "application/pdf",
    }
)
HTML_TYPES = frozenset({"text/html", "application/xhtml+xml"})
MAX_BODY_BYTES = 10_000_000
MAX_READ_BYTES = 5_000_000
"""Of one page: what comes after it, its links among it, is left out."""
MAX_LINKS = 20_000
MAX_URL_CHARS = 2_048
MAX_REDIRECTS = 10
NOT_FOLLOWED = frozenset({"nofollow", "ugc", "sponsored"})
TIMEOUT_S = 30.0
AGENT = "ke/0.1"
BATCH = 256
"""Pages whose bodies are in memory at once."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one address."""

    state: str
    """`document`, `no document` (it asks not to be indexed), `skipped` or `failed`."""
    reason: str = ""
    """Why it was skipped, or the code of the error."""
    first: str = ""
    """Of a document: the address at which it was met first."""
    final_url: str = ""
    """Where the answer came from."""
    size: int = 0
    """Bytes of the body."""


@dataclass(frozen=True, slots=True)
class Said:
    """What an HTML page says."""

    links: tuple[str, ...] = ()
    """Addresses to follow, in their order."""
    noindex: bool = False
    canonical: str | None = None
    content: bytes = b""
    """SHA-256 of its title and words; empty where it has no words."""


@dataclass(slots=True)
class _Answer:
    """An answer at the end of its redirects."""

    url: str
    status: int
    content_type: str
    charset: str | None
    body: bytes
    refusal: str = ""
    """Why it is skipped, where a redirect is not followed."""
    error: str = ""


def walk(seeds: Sequence[str], *, robots: bool = True, processes: int = 0) -> dict[str, Fate]:
    """The fate of every address that links reach from the seeds, breadth first.

    Args:
        seeds: Where it begins; host and port of the first are the site.
        robots: Whether robots.txt, `noindex` and `nofollow` hold.
        processes: That read the pages; 0: this one alone.
    """
    walker = _Walker(seeds, robots=robots)
    if not processes:
        return walker.run(lambda pages: map(read_page, pages))
    with ProcessPoolExecutor(processes) as pool:
        return walker.run(lambda pages: pool.map(read_page, pages, chunksize=8))


class _Walker:
    def __init__(self, seeds: Sequence[str], *, robots: bool) -> None:
        self._seeds = seeds
        self._host = urlsplit(seeds[0]).netloc
        self._connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        self._heeds = robots
        self._robots = RobotFileParser()
        self._fates: dict[str, Fate] = {}
        self._by_hash: dict[bytes, str] = {}
        self._content: dict[str, bytes] = {}
        """Of each document, by its address, what it says."""

    def run(self, read: "Callable[[list[_Body]], Iterable[Said]]") -> dict[str, Fate]:
        """Walks level by level; `read` reads the pages of a batch."""
        answer = self._get(f"http://{self._host}/robots.txt")
        self._robots.parse(answer.body.decode(errors="replace").splitlines() if answer.status == 200 else [])
        seen, level = set(self._seeds), list(self._seeds)
        while level:
            following: dict[str, None] = {}
            for begin in range(0, len(level), BATCH):
                answers = [(url, self._get(url)) for url in level[begin : begin + BATCH]]
                pages = [_Body(a.body, a.content_type, a.charset, a.url, self._heeds) for _, a in answers]
                for (url, answered), said in zip(answers, read(pages), strict=True):
                    self._fates[url] = self._fate(answered, said)
                    following |= {link: None for link in said.links if urlsplit(link).netloc == self._host}
            level = [url for url in following if url not in seen]
            seen.update(level)
        self._connection.close()
        return self._fates

    def _fate(self, answer: _Answer, said: Said) -> Fate:
        if answer.refusal:
            return Fate("skipped", answer.refusal)
        if answer.error:
            return Fate("failed", answer.error, final_url=answer.url)
        if said.noindex:
            return Fate("no document", final_url=answer.url, size=len(answer.body))
        digest = hashlib.sha256(answer.body).digest()
        first = self._by_hash.get(digest) or (answer.url if answer.url in self._content else None)
        if first is None and said.content and said.canonical and self._content.get(said.canonical) == said.content:
            first = said.canonical
        if first is None:
            first = answer.url
            self._by_hash[digest] = first
            self._content[first] = said.content
        return Fate("document", first=first, final_url=answer.url, size=len(answer.body))

    def _get(self, url: str) -> _Answer:
        trail = [url]
        while True:
            if self._heeds and not url.endswith("/robots.txt") and not self._robots.can_fetch(AGENT, url):
                reason = "disallowed by robots.txt"
                return _Answer(url, 0, "", None, b"", _led(url, reason) if len(trail) > 1 else reason)
            self._connection.request("GET", url.removeprefix(f"http://{self._host}"), headers={"User-Agent": AGENT})
            response = self._connection.getresponse()
            body = response.read()
            location = response.headers["Location"]
            if not (300 <= response.status < 400 and location):
                return _judged(url, response, body)
            target = spell(location, url)
            if target is None or urlsplit(target).netloc != self._host:
                return _Answer(url, 0, "", None, b"", _led(target, "on another host"))
            if target in trail or len(trail) > MAX_REDIRECTS:
                return _Answer(trail[0], 0, "", None, b"", error="too-many-redirects")
            trail.append(target)
            url = target


def _led(target: str | None, reason: str) -> str:
    return f"redirects to {target}, which is not followed: {reason}"


def _judged(url: str, response: http.client.HTTPResponse, body: bytes) -> _Answer:
    kind = response.headers.get_content_type() if response.headers["Content-Type"] else ""
    answer = _Answer(url, response.status, kind, response.headers.get_content_charset(), body)
    if response.status >= 300:
        answer.error = f"http-{response.status}"
    elif kind not in READ_TYPES:
        answer.refusal = f"documents of type {kind} cannot be read"
    elif len(body) > MAX_BODY_BYTES:
        answer.error = "too-large"
    if answer.error or answer.refusal:
        answer.content_type = ""
    return answer


# Pages


class _Body(NamedTuple):
    """A page to read."""

    body: bytes
    content_type: str
    charset: str | None
    """Of its header."""
    url: str
    heeds: bool
    """Whether it may forbid anything."""


def read_page(page: _Body) -> Said:
    """What a page says. Of a document that is not HTML only whether it is the same as another one counts."""
    if page.content_type not in HTML_TYPES:
        return Said()
    url, heeds = page.url, page.heeds
    parser = _Page()
    parser.feed(_decoded(page.body[:MAX_READ_BYTES], page.charset))
    parser.close()
    base = (spell(parser.base, url) if parser.base else None) or url
    hrefs = [href for href, marked in parser.hrefs if not (heeds and marked)]
    found = dict.fromkeys(link for href in hrefs if (link := spell(href, base)))
    links = [] if heeds and parser.asks & {"nofollow", "none"} else list(found)[:MAX_LINKS]
    canonical = spell(parser.canonical, base) if parser.canonical else None
    if canonical is not None and not (heeds and parser.asks & {"nofollow", "none"}):
        links.append(canonical)
    words = " ".join("".join(parser.words).split())
    title = " ".join("".join(parser.title).split())
    content = hashlib.sha256(f"{title}\n{words}".encode(errors="replace")).digest() if words else b""
    return Said(tuple(links), bool(heeds and parser.asks & {"noindex", "none"}), canonical, content)


@dataclass
class _Page(HTMLParser):
    """Collects what counts of a page."""

    hrefs: list[tuple[str, bool]] = field(default_factory=list)
    """With whether each is marked not to be followed."""
    base: str | None = None
    canonical: str | None = None
    asks: set[str] = field(default_factory=set)
    """What it asks of robots."""
    title: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    _inside: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in {"script", "style", "title"}:
            self._inside = tag
        if tag not in {"a", "area", "base", "link", "meta"}:
            return
        given = {name: value or "" for name, value in reversed(attrs)}
        relations = set(given.get("rel", "").lower().split())
        href = given.get("href", "")
        if tag in {"a", "area"} and href and not href.startswith("#"):
            self.hrefs.append((href, bool(relations & NOT_FOLLOWED)))
        elif tag == "base" and "href" in given and self.base is None:
            self.base = href
        elif tag == "link" and "canonical" in relations and "href" in given and self.canonical is None:
            self.canonical = href
        elif tag == "meta" and given.get("name", "").strip().lower() == "robots":
            self.asks |= {word.strip() for word in given.get("content", "").lower().split(",")}

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title.append(data)
        elif not self._inside:
            self.words.append(data)


def _decoded(body: bytes, charset: str | None) -> str:
    declared = re.search(rb"<meta[^>]*charset\s*=\s*[\"']?([\w-]+)", body[:1024], re.IGNORECASE)
    try:
        return body.decode(charset or (declared[1].decode() if declared else "utf-8"), errors="replace")
    except LookupError:
        return body.decode(errors="replace")


# Addresses


def spell(href: str, base: str) -> str | None:
    """An address as it is compared: absolute, encoded, no fragment; None where it is none of http or https."""
    place, mark, query = re.sub(r"[\t\n\r]", "", href.strip(" \t\n\r\f")).partition("?")
    text = place.replace("\\", "/") + mark + query
    try:
        parts = urlsplit(urljoin(base, text))
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme not in {"http", "https"} or not host or "@" in parts.netloc:
        return None
    where = host if port in {None, 80 if parts.scheme == "http" else 443} else f"{host}:{port}"
    path = _encoded(parts.path, "/:@!$&'()*+,;=~|[]^%") or "/"
    query = _encoded(parts.query, "/:@!$&()*+,;=~|[]^%?`{}\\")
    url = f"{parts.scheme}://{where}{path}{'?' if query else ''}{query}"
    return url if max(len(href), len(url)) <= MAX_URL_CHARS else None


def _encoded(text: str, safe: str) -> str:
    return re.sub(r"%[0-9a-fA-F]{2}", lambda code: code[0].upper(), quote(text, safe=safe))
