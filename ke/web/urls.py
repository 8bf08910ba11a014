"""URLs as browsers read them (WHATWG), in one spelling, and which of them a crawl follows."""

import re
from functools import lru_cache
from typing import Any, Final

import re2
from ada_url import URL

from ke.contracts.jobs import CrawlLimits, CrawlScope
from ke.web.errors import BadPattern, BadUrl
from ke.web.query import without_params

MAX_URL_CHARS: Final = 2048
"""The longest URL, before and after percent-encoding: what common servers and browsers still take."""
MAX_PATTERNS: Final = 64
"""Include patterns of a crawl, and exclude patterns, at most."""
MAX_PATTERN_CHARS: Final = 512

DEFAULT_PORTS: Final = {"http:": "80", "https:": "443"}

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LINE_FOLDING: Final = re.compile(r"[\t\n\r]")
_PERCENT: Final = re.compile(r"%[0-9a-fA-F]{2}")
_SCHEME: Final = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):(.*)", re.DOTALL)
_PORT: Final = re.compile(r"[/\\]{2}[^/\\?#]*:([^/\\?#:\]]*)(?:[/\\?#]|$)")


def canonicalize(url: str, base: str | None = None) -> str:
    """Gives the one spelling under which a page is known.

    Lowers scheme and host, encodes what must be encoded, resolves dots, raises the hex digits of percent codes, and
    drops the fragment, the default port and an empty query. The order of the query, the case of the path and slashes
    at its end stay: they may tell two pages apart.

    Args:
        url: As a person or a page wrote it; with `base` it may be relative and broken over lines, as browsers allow.
        base: The absolute URL that a relative one starts from.

    Raises:
        BadUrl: Not http or https, with a user name or password, with control characters, longer than
            `MAX_URL_CHARS`, without a host, or with a port that is none.
    """
    if len(url) > MAX_URL_CHARS:
        raise BadUrl(f"a URL may have {MAX_URL_CHARS:,} characters, this one has {len(url):,}")
    text = url.strip(" \t\n\r\f")
    if base is not None:
        text = _LINE_FOLDING.sub("", text)
    if _CONTROL.search(text):
        raise BadUrl(f"the URL contains a control character: {text[:200]!r}")
    try:
        parsed = URL(text, base)
    except (ValueError, UnicodeEncodeError):
        raise BadUrl(_why_not(text)) from None
    _check_parts(parsed)
    parsed.hash = ""
    href: str = parsed.href
    if not parsed.search:
        href = href.removesuffix("?")
    if "%" in href:
        href = _PERCENT.sub(lambda code: code[0].upper(), href)
    if len(href) > MAX_URL_CHARS:
        raise BadUrl(f"a URL may have {MAX_URL_CHARS:,} characters, this one has {len(href):,} when encoded")
    return href


def _check_parts(parsed: URL) -> None:
    if parsed.protocol not in DEFAULT_PORTS:
        raise BadUrl(f"only http and https can be fetched, not {parsed.protocol[:40]!r}")
    if parsed.username or parsed.password:
        raise BadUrl("a URL may not contain a user name or password")
    if parsed.port == "0":
        raise BadUrl("the URL's port is 0, which cannot be connected to")


def _why_not(text: str) -> str:
    """Says what is wrong with a URL that the parser refused without a reason."""
    shown = repr(text[:200])
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"the URL is not valid Unicode: {shown}"
    scheme = _SCHEME.match(text)
    if scheme is None:
        return f"not an absolute URL (it must start with http:// or https://): {shown}"
    if f"{scheme[1].lower()}:" not in DEFAULT_PORTS:
        return f"only http and https can be fetched, not {scheme[1][:40] + ':'!r}"
    if not scheme[2].lstrip("/\\").strip() or scheme[2].lstrip("/\\")[:1] in {"?", "#", ":"}:
        return f"the URL has no host: {shown}"
    port = _PORT.match(scheme[2])
    if port and port[1] and not (port[1].isascii() and port[1].isdigit() and int(port[1][:9]) <= 65535):  # noqa: PLR2004
        return f"the URL's port is not a number from 1 to 65535: {shown}"
    return f"the URL's host is not valid: {shown}"


@lru_cache(maxsize=8_192)
def host_key(url: str) -> str:
    """The `host:port` of an absolute URL, default port included; an IPv6 address keeps its brackets.

    Raises:
        BadUrl: Not an absolute http or https URL.
    """
    try:
        parsed = URL(url)
    except (ValueError, UnicodeEncodeError):
        raise BadUrl(_why_not(url)) from None
    if parsed.protocol not in DEFAULT_PORTS:
        raise BadUrl(f"only http and https can be fetched, not {parsed.protocol[:40]!r}")
    return f"{parsed.hostname}:{parsed.port or DEFAULT_PORTS[parsed.protocol]}"


def origin(url: str) -> str:
    """The `scheme://host[:port]` of an absolute URL: what one robots.txt speaks for.

    Raises:
        BadUrl: Not a URL.
    """
    try:
        return str(URL(url).origin)
    except (ValueError, UnicodeEncodeError):
        raise BadUrl(_why_not(url)) from None


class Scope:
    """Decides which links a crawl follows; its patterns are compiled once.

    Patterns are RE2's, which match in linear time and compile within bounded memory: a pattern comes from a request,
    and with Python's `re` one of a few characters can stop a whole worker, or take all its memory.

    Args:
        scope: The job's scope.
        limits: The job's limits; only `max_depth` counts here.
        hosts: The `host_key` of each seed (and of where the seeds redirect to).

    Raises:
        BadPattern: One of the patterns is not a regular expression, or there are too many, or one is too long.
    """

    def __init__(self, scope: CrawlScope, limits: CrawlLimits, hosts: frozenset[str]) -> None:
        self._include = _compile(scope.include, "include")
        self._exclude = _compile(scope.exclude, "exclude")
        self._max_depth = limits.max_depth
        self._hosts = frozenset(_same_site(hosts)) if scope.same_host else None

    def refusal(self, url: str, depth: int) -> str | None:
        """Why a link is not followed; None when it is.

        Args:
            url: Canonical.
            depth: Links between a seed (0) and this page.

        Raises:
            BadUrl: Not an absolute http or https URL.
        """
        if depth > self._max_depth:
            return f"deeper than {self._max_depth}"
        if self._hosts is not None and host_key(url) not in self._hosts:
            return "on another host"
        if self._include and not any(pattern.search(url) for pattern in self._include):
            return "matches no include pattern"
        for pattern in self._exclude:
            if pattern.search(url):
                return f"matches the exclude pattern {pattern.pattern!r}"
        return None


def links_in_scope(
    urls: tuple[str, ...], depth: int, scope: CrawlScope, limits: CrawlLimits, hosts: frozenset[str]
) -> tuple[str, ...]:
    """Those of the URLs that are followed, each once and without the parameters that the scope drops.

    Can run in a process pool, where many of them belong.
    """
    decide = _scope_of(scope, limits, hosts)
    spelt = dict.fromkeys(without_params(url, scope.drop_params) for url in urls) if scope.drop_params else urls
    return tuple(url for url in spelt if decide.refusal(url, depth) is None)


@lru_cache(maxsize=64)
def _scope_of(scope: CrawlScope, limits: CrawlLimits, hosts: frozenset[str]) -> Scope:
    return Scope(scope, limits, hosts)


def _same_site(hosts: frozenset[str]) -> set[str]:
    """Adds the other default port: a site that redirects from http to https is still the same site."""
    other = {"80": "443", "443": "80"}
    known = set(hosts)
    for key in hosts:
        host, _, port = key.rpartition(":")
        if port in other:
            known.add(f"{host}:{other[port]}")
    return known


def _compile(patterns: tuple[str, ...], what: str) -> tuple[Any, ...]:
    if len(patterns) > MAX_PATTERNS:
        raise BadPattern(f"{len(patterns)} {what} patterns; {MAX_PATTERNS} are allowed")
    engine: Any = re2  # comes without types
    options = engine.Options()
    options.log_errors = False
    compiled: list[Any] = []
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_CHARS:
            raise BadPattern(f"a pattern may have {MAX_PATTERN_CHARS} characters, one of {what} has {len(pattern)}")
        try:
            compiled.append(engine.compile(pattern, options))
        except (re2.error, UnicodeEncodeError) as error:
            why = error.args[0].decode(errors="replace") if isinstance(error, re2.error) else "it is not valid Unicode"
            raise BadPattern(f"the {what} pattern {pattern!r} is not a regular expression of RE2: {why}") from None
    return tuple(compiled)
