"""A small fast server of files, in a process of its own: for machines without nginx.

`python -m tests.bench.static_server FOLDER [LOG]` prints its port, and ends with its standard input.
"""

import asyncio
import mimetypes
import sys
from pathlib import Path
from typing import TextIO, cast
from urllib.parse import unquote, urlsplit

import uvloop

NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nnot found"


class Server(asyncio.Protocol):
    """One connection: GET requests without bodies, kept alive."""

    def __init__(self, folder: Path, log: TextIO | None) -> None:
        self._folder = folder
        self._log = log
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass of asyncio's

    def data_received(self, data: bytes) -> None:
        self._received += data
        while b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            assert self._transport is not None
            self._transport.write(self._answer(head.split(b" ", 2)[1].decode("ascii", "replace")))

    def _answer(self, target: str) -> bytes:
        if self._log is not None:
            self._log.write(f"{target}\n")
            self._log.flush()
        path = (self._folder / unquote(urlsplit(target).path).lstrip("/")).resolve()
        path = path / "index.html" if path.is_dir() else path
        if not path.is_relative_to(self._folder) or not path.is_file():
            return NOT_FOUND
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def main(folder: Path, log: TextIO | None) -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(folder.resolve(), log), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    given = sys.argv[1:]
    with open(given[1] if len(given) > 1 else "/dev/null", "a", encoding="utf-8") as file:  # noqa: PTH123
        uvloop.run(main(Path(given[0]), file if len(given) > 1 else None))
