"""Folders in which a browser keeps its profile: each goes with its browser, or is removed after its owner's death."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final

_PREFIX: Final = "ke-browser-"
_UNLOCKED_PREFIX: Final = "ke-new-browser-"
"""Of a folder that is not locked yet: nobody removes it."""


class Profile:
    """An empty folder, locked as long as this process lives. Its methods block."""

    def __init__(self) -> None:
        """Makes it, in the folder for temporary files.

        Raises:
            OSError: It cannot be made.
        """
        made = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX))
        # The lock is the open file's: not inherited by the browser, and gone with this process however that ends.
        lock = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.folder: Final = made.rename(made.with_name(made.name.replace(_UNLOCKED_PREFIX, _PREFIX, 1)))
        self._removal = weakref.finalize(self, _remove, self.folder, lock)

    def remove(self) -> None:
        """Removes the folder, once; so does the loss of the last reference to this."""
        self._removal()


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def remove_left_profiles() -> None:
    """Removes what processes of this user have left that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid == os.geteuid():
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
