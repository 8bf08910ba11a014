"""Searches of the embedded vector store, over WebSockets on its socket: what HTTP costs is most of a search.

A message asks: the length of its JSON, the JSON, and a vector as little-endian 32-bit floats. One answers: a status as
HTTP has it, and JSON. A connection has one search under way.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

PATH: Final = "/searches"
MAX_BYTES: Final = 64 * 1024 * 1024
"""Of a message; the ids of as many jobs as there may be."""
CONNECTIONS: Final = 32
"""Searches of one client at once; more wait for their turn."""
_HEAD: Final = struct.Struct("<I")
_CLOSE_S: Final = 0.1

Answer = Callable[[dict[str, Any], bytes], Awaitable[tuple[int, bytes]]]
"""Answers what JSON and vector ask for: a status and JSON. It raises nothing."""


class SearchServer:
    """Serves searches over the connections that were opened for them."""

    def __init__(self, answer: Answer) -> None:
        """Takes what answers."""
        self._answer = answer
        self._open: set[web.WebSocketResponse] = set()

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Answers one search after the other until the other side goes."""
        connection = web.WebSocketResponse(max_msg_size=MAX_BYTES, compress=False, timeout=_CLOSE_S)
        await connection.prepare(request)
        self._open.add(connection)
        try:
            with suppress(ConnectionError):
                async for message in connection:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        status, content = await self._ask(message.data)
                        await connection.send_bytes(_HEAD.pack(status) + content)
        finally:
            self._open.discard(connection)
        return connection

    async def close(self, _app: web.Application) -> None:
        """Ends all connections, which would else be waited for."""
        await asyncio.gather(*(connection.close() for connection in self._open), return_exceptions=True)

    async def _ask(self, message: bytes) -> tuple[int, bytes]:
        (length,) = _HEAD.unpack_from(message)
        vector_at = _HEAD.size + length
        return await self._answer(orjson.loads(message[_HEAD.size : vector_at]), message[vector_at:])


class SearchClient:
    """Connections for searches, at most `CONNECTIONS`, kept for the next ones; for all tasks of an event loop."""

    def __init__(self) -> None:
        """Connects with the first search."""
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._idle: list[aiohttp.ClientWebSocketResponse] = []

    async def ask(
        self, session: aiohttp.ClientSession, content: dict[str, Any], vector: bytes
    ) -> tuple[int, dict[str, Any]]:
        """Asks, and asks again where a connection was lost meanwhile: a search changes nothing.

        Returns:
            The status, and what the answer has.

        Raises:
            aiohttp.ClientError: The store is not there, or went away.
            OSError: The same.
        """
        asked = orjson.dumps(content, default=str)  # asyncpg has a UUID class of its own
        message = _HEAD.pack(len(asked)) + asked + vector
        async with self._room:
            while self._idle:
                with suppress(aiohttp.ClientError, OSError):
                    return await self._exchange(self._idle.pop(), message)
            timeout = aiohttp.ClientWSTimeout(ws_close=_CLOSE_S)
            opened = await session.ws_connect(PATH, max_msg_size=MAX_BYTES, timeout=timeout)
            return await self._exchange(opened, message)

    async def _exchange(
        self, connection: aiohttp.ClientWebSocketResponse, message: bytes
    ) -> tuple[int, dict[str, Any]]:
        answered = False
        try:
            await connection.send_bytes(message)
            answer = await connection.receive()
            answered = answer.type is aiohttp.WSMsgType.BINARY
        finally:
            if answered:
                self._idle.append(connection)
            else:
                # An answer may still come, and would be taken for another search's.
                await connection.close()
        if not answered:
            raise aiohttp.ServerDisconnectedError
        (status,) = _HEAD.unpack_from(answer.data)
        return status, orjson.loads(answer.data[_HEAD.size :])

    async def close(self) -> None:
        """Ends the connections."""
        while self._idle:
            await self._idle.pop().close()
