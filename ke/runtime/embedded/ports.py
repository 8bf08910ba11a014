"""Loopback ports: a free one, or the one that was asked for."""

import random
import socket
from typing import Final

from ke.contracts.errors import InvalidInput, Unavailable

LOOPBACK: Final = "127.0.0.1"
FREE_PORTS: Final = range(20_000, 32_000)
"""Where free ports are taken from: below what Linux and macOS hand out to outgoing connections, so that none of those
takes the port between its choice here and the server's own bind."""
ATTEMPTS: Final = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: connections in TIME_WAIT do not count, listeners do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A loopback port on which nobody listens.

    Raises:
        Unavailable: None was found.
    """
    for port in random.SystemRandom().sample(FREE_PORTS, ATTEMPTS):
        if is_free(port):
            return port
    raise Unavailable(f"No free port was found on {LOOPBACK} between {FREE_PORTS.start} and {FREE_PORTS.stop}")


def claim_port(wanted: int, *, setting: str) -> int:
    """The port a server shall listen on.

    Args:
        wanted: The port that was asked for; 0: any free one.
        setting: What asked for it, to say so.

    Raises:
        InvalidInput: Somebody listens there, or this account may not.
    """
    if wanted == 0:
        return free_port()
    if not is_free(wanted):
        raise InvalidInput(f"Port {wanted} on {LOOPBACK} cannot be used: it is taken or not allowed ({setting})")
    return wanted
