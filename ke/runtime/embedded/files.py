"""Files of the data folder: written whole or not at all, bounded logs, and one owner at a time."""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ke.contracts.errors import Conflict, InvalidInput

LOG_MAX_BYTES: Final = 10_000_000
LOG_KEPT: Final = 3


def write_atomically(path: Path, text: str) -> None:
    """Puts a text in a file that only this account can read, so that readers see the old or the new one.

    Raises:
        OSError: The folder is not writable.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def open_log(folder: Path, process: str) -> IO[bytes]:
    """Opens a process's log for appending; one that has grown long is put aside first.

    Args:
        folder: The folder of logs.
        process: The name of the process, and of the file.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{process}.log"
    if path.exists() and path.stat().st_size > LOG_MAX_BYTES:
        for number in range(LOG_KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                (folder / f"{process}.log.{number}").replace(folder / f"{process}.log.{number + 1}")
        path.replace(folder / f"{process}.log.1")
    return path.open("ab")


def prepare_data_dir(path: Path) -> Path:
    """Makes the data folder and sees that files can be written in it.

    Returns:
        Its absolute path.

    Raises:
        InvalidInput: It cannot be made or written.
    """
    folder = path.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(
            f"The data folder {folder} cannot be used: {error.strerror} (--data-dir, KE_DATA_DIR)"
        ) from error
    return folder


@contextlib.contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Holds the data folder for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        Conflict: Another process holds it; the message names its pid.
    """
    with (folder / "ke.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise Conflict(f"A stack is running on {folder} already: `ke up` with pid {lock.read().strip()}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
