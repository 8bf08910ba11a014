"""A small real web server for a folder, on loopback: what the demo and the tests crawl.

It answers redirects from a ``_redirects`` file, late what a ``_delays`` file names, fills in its own origin in ``.xml``
and ``.txt`` files, and records every request, so that a crawl can be checked from the other side of the wire. It can
be made slow or faulty::

    async with SiteServer("examples/site") as server:
        print(server.url, server.requests)

    $ python examples/serve.py examples/site --port 8080 --delay 0.05
"""

import argparse
import asyncio
import json
import re
import signal
import sys
import time
from collections.abc import MutableSequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Self, TextIO

from aiohttp import web

HOST: Final = "127.0.0.1"
ORIGIN_PLACEHOLDER: Final = "{{ORIGIN}}"
REDIRECTS_FILE: Final = "_redirects"
DELAYS_FILE: Final = "_delays"
# aiohttp knows some types only, whatever the machine knows: PDF is one of them, Markdown is not.
MARKDOWN_TYPE: Final = "text/markdown; charset=utf-8"
SUBSTITUTED_TYPES: Final = {".xml": "application/xml", ".txt": "text/plain"}
# What still runs this long after stop() is cut off: a client that reads slowly, as our own delays end at once.
STOP_TIMEOUT_S: Final = 2.0
SECONDS: Final = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,3})?")
REDIRECT_STATUSES: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(slots=True)
class RequestRecord:
    """One request as the server saw it.

    Attributes:
        method: HTTP method, upper case.
        path: The path as it was asked for, query included.
        monotonic_s: ``time.monotonic()`` on arrival; on Linux comparable between processes of one machine.
        unix_s: Wall-clock time on arrival, seconds since 1970.
        status: The status that was answered, None until the answer began.
    """

    method: str
    path: str
    monotonic_s: float
    unix_s: float
    status: int | None = None


RECORD: Final = web.RequestKey("record", RequestRecord)


class SiteServer:
    """Serves one folder on loopback, and remembers who asked for what.

    Attributes:
        requests: Every request since the server was made, in order of arrival.
        delay_s: Pause before every answer, seconds. May be changed while the server runs, as may the next two.
        fail: Statuses to answer for these paths, whatever is on disk. Remove a path to heal it.
        slow: Pauses in seconds for these paths, instead of ``delay_s``.
    """

    def __init__(
        self,
        folder: Path | str,
        port: int = 0,
        *,
        access_log: MutableSequence[RequestRecord] | Path | str | None = None,
        delay_s: float = 0.0,
        fail: dict[str, int] | None = None,
        slow: dict[str, float] | None = None,
    ) -> None:
        """Prepare a server; nothing listens before ``start``.

        Args:
            folder: What to serve. Links inside it that lead out of it are refused.
            port: TCP port on 127.0.0.1; 0 takes any free one.
            access_log: A list that becomes ``requests``, or a file to which each answer appends a JSON line.
            delay_s: Pause before every answer, seconds.
            fail: Path to the status it answers.
            slow: Path to its own pause, seconds; goes before what the folder's delays say.

        Raises:
            NotADirectoryError: ``folder`` is not a folder.
            ValueError: The folder's redirects or delays cannot be read.
        """
        self.folder = Path(folder).resolve()
        if not self.folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder")
        self.delay_s = delay_s
        self.fail = dict(fail or {})
        self.slow = read_delays(self.folder / DELAYS_FILE) | (slow or {})
        self.requests: MutableSequence[RequestRecord] = []
        self._log_path: Path | None = None
        if isinstance(access_log, Path | str):
            self._log_path = Path(access_log)
        elif access_log is not None:
            self.requests = access_log
        self._redirects = read_redirects(self.folder / REDIRECTS_FILE)
        self._wanted_port = port
        self._port: int | None = None
        self._runner: web.AppRunner | None = None
        self._log: TextIO | None = None
        self._stopping = asyncio.Event()

    @property
    def port(self) -> int:
        """The port that is listened on.

        Raises:
            RuntimeError: The server is not running.
        """
        if self._port is None:
            raise RuntimeError("The site server is not running")
        return self._port

    @property
    def host_port(self) -> str:
        """``127.0.0.1:PORT``, the form that the setting ``KE_FETCH_ALLOW`` takes."""
        return f"{HOST}:{self.port}"

    @property
    def url(self) -> str:
        """The origin, without a slash at its end."""
        return f"http://{self.host_port}"

    async def start(self) -> Self:
        """Begin to listen; returns once connections are accepted.

        Raises:
            OSError: The port is in use, or the log file cannot be written; OverflowError: there is no such port.
            RuntimeError: The server runs already.
        """
        if self._runner is not None:
            raise RuntimeError("The site server runs already")
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        app.on_response_prepare.append(self._note_answer)
        self._stopping = asyncio.Event()
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_TIMEOUT_S)
        try:
            if self._log_path is not None:
                # Line buffered: a reader in another process sees each request as it is answered.
                self._log = self._log_path.open("a", encoding="utf-8", buffering=1)
            await self._runner.setup()
            await web.TCPSite(self._runner, HOST, self._wanted_port).start()
        except (OSError, OverflowError):
            await self.stop()
            raise
        self._port = int(self._runner.addresses[0][1])
        return self

    async def stop(self) -> None:
        """Stop listening, end what is under way and close the log. Stopping twice does nothing."""
        self._stopping.set()
        runner, self._runner, self._port = self._runner, None, None
        if runner is not None:
            await runner.cleanup()
        if self._log is not None:
            self._log.close()
            self._log = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        record = RequestRecord(request.method, request.path_qs, time.monotonic(), time.time())
        request[RECORD] = record
        self.requests.append(record)
        pause_s = self.slow.get(request.path, self.delay_s)
        if pause_s > 0 and await self._stopped_within(pause_s):
            raise web.HTTPServiceUnavailable(text="Stopping\n")
        if request.path in self.fail:
            return web.Response(status=self.fail[request.path], text="Failing as told\n")
        if request.method not in {"GET", "HEAD"}:
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if request.path in self._redirects:
            target, status = self._redirects[request.path]
            return web.Response(status=status, headers={"Location": target})
        return self._answer(request)

    async def _stopped_within(self, pause_s: float) -> bool:
        """Wait, but not beyond the end of the server; True when it ended first."""
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _answer(self, request: web.Request) -> web.StreamResponse:
        file = self._locate(request.path)
        if file.is_dir():
            if not request.path.endswith("/"):
                # Without the slash the page's relative links would be read against the parent.
                raise web.HTTPMovedPermanently(request.rel_url.with_path(request.path + "/"))
            file /= "index.html"
        elif request.path.endswith("/"):
            raise web.HTTPNotFound
        if not file.is_file():
            raise web.HTTPNotFound
        content_type = SUBSTITUTED_TYPES.get(file.suffix)
        if content_type is None:
            headers = {"Content-Type": MARKDOWN_TYPE} if file.suffix == ".md" else None
            return web.FileResponse(file, headers=headers)
        # The origin as the client knows it, which is another one behind a port mapping.
        origin = f"{request.scheme}://{request.host}".encode()
        body = file.read_bytes().replace(ORIGIN_PLACEHOLDER.encode(), origin)
        return web.Response(body=body, content_type=content_type, charset="utf-8")

    def _locate(self, path: str) -> Path:
        """Find the file or folder of a request path.

        Raises:
            web.HTTPForbidden: The path, or a link on it, leads out of the served folder.
            web.HTTPNotFound: No path of this form is ever served.
        """
        parts = PurePosixPath(path.lstrip("/")).parts
        if ".." in parts:
            raise web.HTTPForbidden
        hidden = any(part.startswith(".") for part in parts) or parts in {(REDIRECTS_FILE,), (DELAYS_FILE,)}
        if hidden or "//" in path:  # a path that begins with // would read as a host in a redirect
            raise web.HTTPNotFound
        try:
            file = self.folder.joinpath(*parts).resolve()
            file.is_file()  # the system's own verdict on names that are too long
        except (OSError, ValueError):  # ValueError: a NUL in the name
            raise web.HTTPNotFound from None
        if not file.is_relative_to(self.folder):
            raise web.HTTPForbidden
        return file

    async def _note_answer(self, request: web.Request, response: web.StreamResponse) -> None:
        # Here and not in the handler: a file's answer turns into a 304 or 206 only while it is prepared.
        record = request[RECORD]
        record.status = response.status
        if self._log is not None:
            self._log.write(json.dumps(asdict(record)) + "\n")


def read_redirects(path: Path) -> dict[str, tuple[str, int]]:
    """Read ``FROM TO [STATUS]`` lines; ``#`` begins a comment, the status is 301 when not given.

    Args:
        path: The file; one that does not exist holds no redirects.

    Returns:
        The target and status of each path.

    Raises:
        ValueError: A line has another form, or its status is no redirect.
    """
    if not path.is_file():
        return {}
    redirects: dict[str, tuple[str, int]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match line.partition("#")[0].split():
            case []:
                continue
            case [source, target]:
                redirects[source] = (target, 301)
            case [source, target, status] if status.isascii() and status.isdigit() and int(status) in REDIRECT_STATUSES:
                redirects[source] = (target, int(status))
            case _:
                raise ValueError(f"{path.name}, line {number}: expected FROM TO [STATUS], got {line.strip()!r}")
    return redirects


def read_delays(path: Path) -> dict[str, float]:
    """Read ``PATH SECONDS`` lines; ``#`` begins a comment.

    Args:
        path: The file; one that does not exist holds no delays.

    Returns:
        The pause before the answer of each path, in seconds.

    Raises:
        ValueError: A line has another form, or its pause is no time.
    """
    if not path.is_file():
        return {}
    delays: dict[str, float] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        match line.partition("#")[0].split():
            case []:
                continue
            case [slow, seconds] if SECONDS.fullmatch(seconds):
                delays[slow] = float(seconds)
            case _:
                raise ValueError(f"{path.name}, line {number}: expected PATH SECONDS, got {line.strip()!r}")
    return delays


async def serve_until_signalled(server: SiteServer) -> None:
    """Serve, print the URL, and stop on SIGINT or SIGTERM."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with server:
        print(server.url, flush=True)
        await ended.wait()  # for as long as the person wants: the one wait without a limit


def main(arguments: list[str] | None = None) -> int:
    """Run the server from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Serve a folder on 127.0.0.1 and print its URL.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free port")
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS", help="pause before every answer")
    parser.add_argument("--access-log", type=Path, metavar="FILE", help="append one JSON line a request")
    options = parser.parse_args(arguments)
    try:
        server = SiteServer(options.folder, options.port, access_log=options.access_log, delay_s=options.delay)
        asyncio.run(serve_until_signalled(server))
    except (OSError, ValueError, OverflowError) as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
