"""A Chromium that is installed already, driven over its own protocol by a pipe.

No port is opened: only this process can talk to the browser. Chromium ends when the pipe does, and on Linux it is also
signalled when its parent dies, so that none is left behind. It has no way to the network of its own: names do not
resolve and every connection would go by a proxy that is not there. What a page asks for reaches the net through whoever
answers `Fetch.requestPaused` (https://chromedevtools.github.io/devtools-protocol/tot/Fetch/).
"""

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any, Final

from ke.web.browser_profiles import Profile
from ke.web.errors import BrowserFailed, NoBrowser

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_TIMEOUT_S: Final = 30.0
CALL_TIMEOUT_S: Final = 15.0
END_TIMEOUT_S: Final = 3.0
MAX_TMPDIR: Final = 50
"""Characters of a folder in which Chromium can have its socket: a path of one has 103 at most, of which it takes 46."""
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024

_FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-breakpad",
    "--mute-audio",
    "--block-new-web-contents",
    "--js-flags=--max-old-space-size=256",
    # No network: names, addresses and the loopback alike, and no way around the proxy.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--proxy-server=http://0.0.0.0:1",
    "--proxy-bypass-list=<-loopback>",
    "--disable-quic",
    "--dns-prefetch-disable",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    # One process for a page and its frames, so that one session sees all that they ask for.
    "--disable-features=IsolateOrigins,site-per-process,MediaRouter,OptimizationHints,Translate",
    "--disable-site-isolation-trials",
    "--remote-debugging-pipe",
)
_SHIM: Final = """
import ctypes, fcntl, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 20) for end in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Puts the pipe where Chromium looks for it (3: it reads, 4: it writes), and becomes Chromium."""

Listener = Callable[[str, dict[str, Any]], None]


def find_chromium(named: str | None = None) -> str:
    """The browser's program: the one that is named, or the first that is on PATH.

    Raises:
        NoBrowser: There is none.
    """
    for name in (named,) if named else NAMES:
        found = shutil.which(name)
        if found is not None:
            return found
    if named:
        raise NoBrowser(f"There is no browser on this machine: {named}, which KE_CHROMIUM names, cannot be run.")
    raise NoBrowser(
        f"There is no browser on this machine: none of {', '.join(NAMES)} is on PATH. Install a Chromium beside the "
        "workers, or name it by KE_CHROMIUM."
    )


def _environment(profile: Profile) -> dict[str, str]:
    """Of the browser: what it would leave beside its profile when it is killed, as its socket, is to go with that."""
    has_room = len(str(profile.folder)) <= MAX_TMPDIR
    return {**os.environ, "TMPDIR": str(profile.folder)} if has_room else dict(os.environ)


class Chromium:
    """One browser process. Made by `start`, ended by `close`."""

    def __init__(self, process: asyncio.subprocess.Process, profile: Profile) -> None:
        self._process = process
        self._profile = profile
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listeners: dict[str, Listener] = {}
        self._reading: asyncio.Task[None] | None = None
        self._into: asyncio.WriteTransport | None = None
        self._from: asyncio.ReadTransport | None = None

    @classmethod
    async def start(cls, program: str, user_agent: str) -> "Chromium":
        """Starts the browser with a profile of its own, which goes with it.

        Raises:
            BrowserFailed: It does not start, or does not answer.
        """
        try:
            profile = await asyncio.to_thread(Profile)
        except OSError as error:
            raise BrowserFailed(f"There is no place for Chromium's profile: {error}") from error
        reads, we_write = os.pipe()
        we_read, writes = os.pipe()
        root = ("--no-sandbox",) if os.geteuid() == 0 else ()
        browser = None
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _SHIM, str(reads), str(writes)),
                *(program, *_FLAGS, *root, f"--user-agent={user_agent}", f"--user-data-dir={profile.folder}"),
                pass_fds=(reads, writes),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(profile),
            )
            browser = cls(process, profile)
        except OSError as error:
            profile.remove()
            raise BrowserFailed(f"Chromium cannot be started: {error}") from error
        except BaseException:
            profile.remove()
            raise
        finally:
            os.close(reads)
            os.close(writes)
            if browser is None:
                os.close(we_read)
                os.close(we_write)
        try:
            await browser._connect(we_read, we_write)
            await browser.call("Browser.getVersion", timeout_s=START_TIMEOUT_S)
        except BaseException:
            await browser.close()
            raise
        return browser

    @property
    def is_alive(self) -> bool:
        """Whether it runs and its pipe is whole."""
        return self._process.returncode is None and self._reading is not None and not self._reading.done()

    @property
    def pid(self) -> int:
        """Of the browser's main process."""
        return self._process.pid

    async def _connect(self, we_read: int, we_write: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES)
        self._from, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(we_read, "rb", 0)
        )
        self._into, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(we_write, "wb", 0))
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                message = json.loads((await reader.readuntil(b"\0"))[:-1])
                answer = self._answers.pop(message["id"], None) if "id" in message else None
                if answer is not None and not answer.done():
                    answer.set_result(message)
                listener = self._listeners.get(message.get("sessionId", ""))
                if listener is not None and "method" in message:
                    listener(message["method"], message.get("params", {}))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, ValueError):
            pass  # It ended, or says what nobody can read: whoever waits for an answer is told.
        finally:
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(BrowserFailed("Chromium has ended."))
            self._answers.clear()

    def listen(self, session: str, listener: Listener | None) -> None:
        """Gives the events of a session to this listener; None: to nobody any more."""
        if listener is None:
            self._listeners.pop(session, None)
        else:
            self._listeners[session] = listener

    def send(self, method: str, params: dict[str, Any] | None = None, session: str = "") -> None:
        """Calls a method without waiting for its answer."""
        self._send(next(self._numbers), method, params, session)

    def _send(self, number: int, method: str, params: dict[str, Any] | None, session: str) -> None:
        if self._into is None or self._into.is_closing() or not self.is_alive:
            raise BrowserFailed("Chromium has ended.")
        message = {"id": number, "method": method, "params": params or {}}
        self._into.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")

    async def call(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        session: str = "",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Calls a method of the protocol.

        Raises:
            BrowserFailed: It refused, did not answer in time, or has ended.
        """
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(number, method, params, session)
            async with asyncio.timeout(timeout_s):
                message = await answer
        except TimeoutError:
            raise BrowserFailed(f"Chromium did not answer {method} within {timeout_s:g} s.") from None
        finally:
            self._answers.pop(number, None)
        if "error" in message:
            raise BrowserFailed(f"Chromium refused {method}: {message['error'].get('message', '')[:200]}")
        result: dict[str, Any] = message.get("result", {})
        return result

    async def close(self) -> None:
        """Ends the browser and removes its profile; by force when it does not end in time."""
        if self._into is not None:
            self._into.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S if self._into is not None else 0):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._from is not None:
            self._from.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await asyncio.to_thread(self._profile.remove)
