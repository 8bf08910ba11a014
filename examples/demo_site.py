"""What the demo crawls: the site of this folder, served on loopback, or a real one."""

import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from examples.serve import SiteServer

FOLDER: Final = Path(__file__).resolve().parent / "site"
MANIFEST: Final = FOLDER.with_suffix(".json")
REAL_LIMITS: Final[Mapping[str, int]] = {"max_pages": 15, "max_depth": 2}
"""A guest takes little."""


@dataclass(frozen=True, slots=True)
class OwnSite:
    """What only our own site lets us know."""

    server: SiteServer
    """Its record of requests can be read, and its answers held back."""
    manifest: Mapping[str, Any]
    """What a correct crawl finds: the result of an independent walk."""


@dataclass(frozen=True, slots=True)
class Site:
    """A site to crawl."""

    url: str
    own: OwnSite | None = None

    @property
    def limits(self) -> Mapping[str, int] | None:
        """The limits of a crawl of it."""
        return None if self.own else REAL_LIMITS

    @property
    def fetch_allow(self) -> str:
        """The value of `KE_FETCH_ALLOW`: this site, when it is not a public one; whoever runs the demo named it."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            local = not ipaddress.ip_address(host).is_global
        except ValueError:
            local = host == "localhost"
        return f"{host}:{port}" if local else ""


@asynccontextmanager
async def opened_site(url: str | None) -> AsyncIterator[Site]:
    """The site at `url`; without one ours, served on a free loopback port."""
    if url is not None:
        yield Site(url)
        return
    async with SiteServer(FOLDER) as server:
        manifest = json.loads(MANIFEST.read_text(encoding="utf-8"))
        yield Site(f"{server.url}/", OwnSite(server, manifest))


def path_of(url: str) -> str:
    """The path of a URL."""
    return urlsplit(url).path
