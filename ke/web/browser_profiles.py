"""Folders in which a browser keeps its profile: each goes with its browser, or is removed after its owner's death."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

_PREFIX: Final = "ke-chromium-"
UNLOCKED_S: Final = 60.0


class Profile:
    """An empty folder, locked as long as this process lives. Its methods block."""

    def __init__(self) -> None:
        """Makes it, in the folder for temporary files.

        Raises:
            OSError: It cannot be made.
        """
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # The lock is the open file's: not inherited by the browser, and gone with this process however that ends.
        self._lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def remove_left_profiles(unlocked_s: float = UNLOCKED_S) -> None:
    """Removes what processes of this user have left that were killed.

    Args:
        unlocked_s: Seconds that a folder may have been made, or added to, before it is locked.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            found = folder.lstat()
            if found.st_uid == os.geteuid() and time.time() - found.st_ctime > unlocked_s:
                _remove_if_left(folder)


def _remove_if_left(folder: Path) -> None:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
