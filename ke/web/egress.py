"""The egress guard: what may be connected to, and that nothing else is.

A URL comes from a request or from a page, so it may name anything: a cloud's metadata service, a database on the
loopback, a router. Three gates stand in a row. `EgressPolicy.check_url` reads the URL; `GuardedResolver` resolves its
name once and passes on public addresses only; `EgressPolicy.open_socket` sees the very address that is about to be
dialled, also where no name was resolved. An operator may open single doors, by the exact `host:port` of a URL.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from ke.contracts.errors import FetchRefused
from ke.web.urls import canonicalize, host_key

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Gives the addresses of a host name; raises OSError when there are none."""

_V4_REFUSED: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by carriers; also a cloud's metadata service
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's host service, on an address that is otherwise public
        "169.254.0.0/16",  # link-local; the metadata service of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments; also a cloud's metadata service
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_V6_GLOBAL: Final = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is given out as global unicast. Mapped and compatible IPv4 addresses, NAT64 (64:ff9b::/96),
unique local, site-local (fec0::/10), link-local and multicast addresses lie outside it."""
_V6_REFUSED: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo, which carries an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries an IPv4 address
        "3ffe::/16",  # given back
        "3fff::/20",  # documentation
    )
)


def is_public(address: str) -> bool:
    """Whether an IP address is one that anyone on the Internet could reach.

    The ranges are the IANA special-purpose registries', spelled out: `ipaddress.is_global` differs between versions
    of Python and lets multicast, NAT64 and 6to4 through.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _V4_REFUSED)
    return ip.scope_id is None and ip in _V6_GLOBAL and not any(ip in network for network in _V6_REFUSED)


async def system_lookup(host: str, port: int) -> list[str]:
    """Asks the system's resolver."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class EgressPolicy:
    """What may be fetched: public addresses, and the doors that the operator opened.

    Args:
        allow: Exact `host:port` pairs as they stand in URLs (`localhost:8000`, `127.0.0.1:8000`, `[::1]:8000`). A
            pair opens that spelling of the host on that port and nothing else.
    """

    def __init__(self, allow: frozenset[str] = frozenset()) -> None:
        self._allow = frozenset(pair.lower() for pair in allow)
        self._opened: set[tuple[str, int]] = set()
        for pair in self._allow:
            host, _, port = pair.rpartition(":")
            literal = host.removeprefix("[").removesuffix("]")
            if _is_address(literal) and port.isdigit():
                self._opened.add((literal, int(port)))

    def check_url(self, url: str) -> str:
        """Refuses what the URL alone shows to be out of bounds; returns the canonical URL.

        Raises:
            BadUrl: Not a URL that can be fetched at all.
            FetchRefused: Its host is an address that is not public, or a name for this machine.
        """
        canonical = canonicalize(url)
        key = host_key(canonical)
        if key in self._allow:
            return canonical
        host = key.rpartition(":")[0].removeprefix("[").removesuffix("]")
        name = host.rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            raise FetchRefused(
                f"{key} is this machine, and the operator has not allowed it: KE_FETCH_ALLOW={key} would"
            )
        if _is_address(host) and not is_public(host):
            raise FetchRefused(
                f"{key} is not a public address, and the operator has not allowed it: KE_FETCH_ALLOW={key} would"
            )
        return canonical

    def admit(self, host: str, port: int, addresses: list[str]) -> list[str]:
        """Keeps those addresses of a host that may be dialled, in their order.

        Raises:
            FetchRefused: None of them may.
        """
        key = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if key.lower() in self._allow:
            self._opened.update((address, port) for address in addresses)
            return addresses
        public = [address for address in addresses if is_public(address)]
        if not public:
            found = ", ".join(addresses[:4])
            raise FetchRefused(f"{key} resolves to {found}, which is not public, and the operator has not allowed it")
        return public

    def open_socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Makes the socket for one connection attempt, as the last gate before it is dialled.

        Args:
            info: One entry of `getaddrinfo`.

        Raises:
            FetchRefused: The address is not public and no door is open to it.
        """
        family, kind, proto, _, address = info
        host, port = str(address[0]), int(address[1])
        if not is_public(host) and (host, port) not in self._opened:
            raise FetchRefused(f"{host} port {port} is not a public address, and the operator has not allowed it")
        return socket.socket(family, kind, proto)


class GuardedResolver(AbstractResolver):
    """Resolves for aiohttp, once for each connection, and passes on only what the policy admits.

    aiohttp dials the addresses it is given here and never resolves again, so a name server that changes its answer
    between the check and the connection gains nothing.
    """

    def __init__(self, policy: EgressPolicy, lookup: Lookup = system_lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Gives the admitted addresses of a host.

        Raises:
            FetchRefused: It has addresses, and none may be dialled.
            OSError: It has none.
        """
        addresses = [
            address
            for address in await self._lookup(host, port)
            if family in {socket.AF_UNSPEC, socket.AF_INET6 if ":" in address else socket.AF_INET}
        ]
        if not addresses:
            raise OSError(f"{host} has no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._policy.admit(host, port, addresses)
        ]

    async def close(self) -> None:
        """Holds nothing that needs closing."""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
