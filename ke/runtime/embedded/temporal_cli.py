"""Finds the `temporal` binary, or gets it: `python -m ke.runtime.embedded.temporal_cli` prints its path.

In this order: the setting `KE_TEMPORAL_CLI`, `temporal` on PATH, what was got before (kept in the user's cache folder
for every clone), the SDK's own download, a build with Go of the version that `tools/temporal/go.mod` pins.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from ke.contracts.errors import InvalidInput, KeError, Unavailable
from ke.runtime.embedded.processes import Report
from ke.runtime.settings import Settings

MODULE: Final = Path(__file__).parents[3] / "tools" / "temporal"
PACKAGE: Final = "github.com/temporalio/cli/cmd/temporal"
ANSWER_TIMEOUT_S: Final = 20.0
DOWNLOAD_TIMEOUT_S: Final = 120.0
BUILD_TIMEOUT_S: Final = 1800.0
LOCK_TIMEOUT_S: Final = BUILD_TIMEOUT_S + DOWNLOAD_TIMEOUT_S
PROGRESS_INTERVAL_S: Final = 10.0
BUILD_ENVIRONMENT: Final = {
    # No module above this one, and none of the user's flags that change how modules are resolved.
    "GOWORK": "off",
    "GOFLAGS": "-mod=readonly",
    # Lets an older Go fetch the one that go.mod asks for.
    "GOTOOLCHAIN": "auto",
    # Needs no C compiler: the server's SQLite is in Go.
    "CGO_ENABLED": "0",
}


async def find_temporal_cli(setting: Path | None, *, report: Report) -> Path:
    """The `temporal` binary; downloads or builds it when there is none, which can take minutes.

    Args:
        setting: The one to use, before any other.
        report: Takes progress.

    Raises:
        InvalidInput: The setting names no program.
        Unavailable: There is none, and none can be got; the message says what to install.
    """
    found = await present_temporal_cli(setting)
    if found is not None:
        return found
    cache = _cache_folder()
    async with _alone(cache, report):
        # Another clone may have got it while this one waited.
        return _kept(cache) or await _download(cache, report) or await _build(cache, report)


async def present_temporal_cli(setting: Path | None) -> Path | None:
    """The `temporal` binary that is there already, or None.

    Raises:
        InvalidInput: The setting names no program.
    """
    if setting is not None:
        return _as_set(setting)
    on_path = shutil.which("temporal")
    if on_path is not None and await _is_temporal(Path(on_path)):
        return Path(on_path)
    return _kept(_cache_folder())


def _as_set(setting: Path) -> Path:
    if setting.is_dir() or not os.access(setting, os.X_OK):
        raise InvalidInput(f"{setting} is not a program (KE_TEMPORAL_CLI)")
    return setting.absolute()


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME", "")
    folder = Path(root) if Path(root).is_absolute() else Path.home() / ".cache"
    return folder / "ke" / "temporal-cli"


def _pinned_version() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"^\s*github\.com/temporalio/cli (v\S+)", (MODULE / "go.mod").read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return "unpinned"


def _kept(cache: Path) -> Path | None:
    for source in (_pinned_version(), "downloaded"):
        binary = cache / source / "temporal"
        if os.access(binary, os.X_OK):
            return binary
    return None


async def _is_temporal(binary: Path) -> bool:
    """Whether it is Temporal's, and not another program of that name."""
    try:
        status, output = await _run((str(binary), "--version"), timeout_s=ANSWER_TIMEOUT_S)
    except (OSError, TimeoutError):
        return False
    return status == 0 and output.startswith("temporal version")


@contextlib.asynccontextmanager
async def _alone(cache: Path, report: Report) -> AsyncIterator[None]:
    """Keeps two clones from building at once."""
    try:
        cache.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - a moment
        lock = (cache / "lock").open("a")
    except OSError as error:
        raise Unavailable(
            f"{cache} cannot be written: {error.strerror}; set XDG_CACHE_HOME or KE_TEMPORAL_CLI"
        ) from error
    with lock:
        deadline, told = time.monotonic() + LOCK_TIMEOUT_S, False
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise Unavailable(f"Another process has held {cache / 'lock'} for {LOCK_TIMEOUT_S:.0f} s")
            if not told:
                report("waiting for another process that gets the Temporal CLI")
                told = True
            await asyncio.sleep(0.5)
        for interrupted in (*cache.glob(".build-*"), *cache.glob(".download-*")):  # noqa: ASYNC240 - a moment
            shutil.rmtree(interrupted, ignore_errors=True)
        yield


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _download(cache: Path, report: Report) -> Path | None:
    """The SDK's own download: in a process of its own, which can be ended when the network swallows packets."""
    report(f"downloading the Temporal CLI (at most {DOWNLOAD_TIMEOUT_S:.0f} s)")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        try:
            command = (sys.executable, "-P", "-m", "ke.runtime.embedded.temporal_download", folder)
            status, output = await _run(command, timeout_s=DOWNLOAD_TIMEOUT_S)
        except TimeoutError:
            status, output = 1, "no answer in time"
        found = [entry.path for entry in os.scandir(folder) if os.access(entry.path, os.X_OK)]
        if status != 0 or not found:
            reason = output.strip().splitlines()[-1] if output.strip() else f"exit status {status}"
            report(f"the download did not work: {reason[:200]}")
            return None
        return _install(Path(found[0]), cache / "downloaded")


async def _build(cache: Path, report: Report) -> Path:
    go = shutil.which("go")
    if go is None or not (MODULE / "go.mod").exists():
        raise Unavailable(
            "There is no Temporal CLI, and it can be neither downloaded nor built: install it from "
            "https://docs.temporal.io/cli (then `temporal` on PATH, or KE_TEMPORAL_CLI), or install Go 1.25 or newer"
        )
    version = _pinned_version()
    report(f"building the Temporal CLI {version} with Go, once for this account; this takes some minutes")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".build-") as folder:
        fresh = Path(folder) / "temporal"
        command = (go, "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", str(fresh), PACKAGE)
        env = {**os.environ, **BUILD_ENVIRONMENT}
        try:
            status, output = await _run(command, timeout_s=BUILD_TIMEOUT_S, cwd=MODULE, env=env, report=report)
        except TimeoutError as error:
            raise Unavailable(f"Go had not built the Temporal CLI after {BUILD_TIMEOUT_S:.0f} s") from error
        if status != 0:
            raise Unavailable(
                f"Go could not build the Temporal CLI: {' / '.join(output.strip().splitlines()[-3:])}; "
                "install it from https://docs.temporal.io/cli, or set KE_TEMPORAL_CLI"
            )
        return _install(fresh, cache / version)


def _install(binary: Path, folder: Path) -> Path:
    """Puts the whole file in its place in one step."""
    folder.mkdir(exist_ok=True)
    return binary.replace(folder / "temporal")


async def _run(
    command: tuple[str, ...],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    report: Report | None = None,
) -> tuple[int, str]:
    """Runs a program to its end, and ends it with all its own when it takes too long or is not wanted any more.

    Returns:
        Its exit status, and the last lines of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=cwd,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            lines = await _read_lines(process, report)
            return await process.wait(), "\n".join(lines)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _read_lines(process: asyncio.subprocess.Process, report: Report | None) -> list[str]:
    """The last lines a program says; with `report`, tells now and then how many of Go's packages are done."""
    lines: list[str] = []
    packages, started_at = 0, time.monotonic()
    reported_at = started_at
    if process.stdout is None:
        return lines
    async for raw in process.stdout:
        line = raw.decode(errors="replace").rstrip()
        lines = [*lines[-20:], line]
        packages += not line.startswith("go: ")
        now = time.monotonic()
        if report is not None and now - reported_at > PROGRESS_INTERVAL_S:
            reported_at = now
            doing = f"{packages} packages compiled" if packages else line.removeprefix("go: ")
            report(f"building the Temporal CLI: {doing}, {now - started_at:.0f} s")
    return lines


def main() -> int:
    """Prints the path of the binary; progress goes to standard error."""

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - a command's progress

    # SIGTERM as Ctrl-C: a build that is under way ends with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        cli = asyncio.run(find_temporal_cli(Settings().temporal_cli, report=report))
    except (KeError, ValidationError) as error:
        report(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    print(cli)  # noqa: T201 - a command's answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
