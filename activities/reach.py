"""How far a crawl goes: which of the URLs it comes by it follows, and how it spells them."""

from dataclasses import dataclass
from typing import Final

from ke.contracts.jobs import CollectSpec
from ke.runtime.pool import CpuPool
from ke.web.query import without_params
from ke.web.urls import Scope, host_key, links_in_scope

INLINE_LINKS: Final = 500
"""Links that are told apart on the event loop: some milliseconds."""


@dataclass(slots=True)
class Reach:
    """How far a crawl may go; a seed that redirects to another host widens it."""

    spec: CollectSpec
    hosts: frozenset[str]
    scope: Scope
    pool: CpuPool

    @classmethod
    def of(cls, spec: CollectSpec, pool: CpuPool) -> "Reach":
        """The reach of a crawl whose seeds have not redirected so far."""
        hosts = frozenset(host_key(url) for url in spec.urls)
        return cls(spec, hosts, Scope(spec.scope, spec.limits, hosts), pool)

    def widen(self, url: str) -> None:
        """Takes the host of this URL into scope."""
        host = host_key(url)
        if host not in self.hosts:
            self.hosts |= {host}
            self.scope = Scope(self.spec.scope, self.spec.limits, self.hosts)

    def spell(self, url: str) -> str:
        """A canonical URL without the parameters that the crawl drops."""
        return without_params(url, self.spec.scope.drop_params)

    async def select(self, urls: tuple[str, ...], depth: int) -> tuple[str, ...]:
        """Those of the URLs that the crawl follows."""
        scope, limits, hosts = self.spec.scope, self.spec.limits, self.hosts
        if len(urls) <= INLINE_LINKS:
            return links_in_scope(urls, depth, scope, limits, hosts)
        return await self.pool.run(links_in_scope, urls, depth, scope, limits, hosts)
