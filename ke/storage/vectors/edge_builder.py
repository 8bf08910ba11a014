"""The process that builds an optimised copy of a shard: started by the vector process, fed over its standard input.

`python -m ke.storage.vectors.edge_builder --folder DIR --lock FILE --dimensions N --parent PID`. It exists because
`EdgeShard.optimize()` holds the interpreter for as long as it runs. It is less urgent than the vector process, and ends
with it: Linux kills it, and elsewhere the next vector process does, by the lock that it holds.

Exit status: 0 when the copy is whole and on disk, 1 when its parent went away.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import time
from pathlib import Path
from typing import Final

import qdrant_edge as qdrant

from ke.niceness import give_way
from ke.storage.vectors import edge_frames
from ke.storage.vectors.edge_files import FULL_SCAN_KB, create_shard, sync_tree
from ke.storage.vectors.edge_frames import Kind

BUILT: Final = b"built\n"
"""The answer to `Kind.BUILD`."""
CLOSED: Final = b"closed\n"
"""The answer to `Kind.CLOSE`: all of it is on disk."""

_LESS_URGENT: Final = 10
"""A tenth of a core that an ordinary process wants too: at 19 it would never be done beside a busy worker."""
_SET_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of linux/prctl.h."""
_END_WITHIN_S: Final = 10.0


def lock_of(folder: Path) -> Path:
    """The file in a store's folder that a builder locks while it runs."""
    return folder / "build.lock"


def end_left_builder(folder: Path) -> None:
    """Ends the builder that a killed vector process left, if there is one; called by the folder's new owner.

    Raises:
        OSError: It does not end.
    """
    lock = lock_of(folder)
    with lock.open("a+b") as file:
        deadline = time.monotonic() + _END_WITHIN_S
        while not _locked(file.fileno()):
            file.seek(0)
            # Who holds the lock has written its pid there, so it is no stranger with the same number.
            if pid := file.read().strip():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > deadline:
                raise OSError(f"{lock}: the builder of a vector process that has gone does not end")
            time.sleep(0.02)


def main(arguments: list[str] | None = None) -> int:
    """Builds one copy; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ke.storage.vectors.edge_builder", description="Builds a copy of a shard.")
    parser.add_argument("--folder", type=Path, required=True, help="where the copy goes; nothing is there yet")
    parser.add_argument("--lock", type=Path, required=True, help="the file that tells that a builder is at work")
    parser.add_argument("--dimensions", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True, help="pid of the vector process")
    parser.add_argument("--full-scan-kb", type=int, default=FULL_SCAN_KB)
    given = parser.parse_args(arguments)
    os.umask(0o077)
    give_way(_LESS_URGENT)
    # The parent decides when it ends, by the pipe; a Ctrl-C goes to it too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with given.lock.open("r+b") as lock:
        if not _locked(lock.fileno()):
            return 1
        lock.truncate()
        lock.write(str(os.getpid()).encode())
        lock.flush()
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != given.parent:
            return 1
        return _build(given.folder, given.dimensions, given.full_scan_kb)


def _build(folder: Path, dimensions: int, full_scan_kb: int) -> int:
    shard = create_shard(folder, dimensions, full_scan_kb=full_scan_kb)
    while (frame := edge_frames.read(sys.stdin.buffer)) is not None:
        match frame.kind:
            case Kind.UPSERT:
                shard.update(qdrant.UpdateOperation.upsert_points(frame.points(dimensions)))
            case Kind.DELETE:
                shard.update(qdrant.UpdateOperation.delete_points(list(frame.ids())))
            case Kind.BUILD:
                shard.flush()
                shard.optimize()
                _answer(BUILT)
            case Kind.CLOSE:
                # The engine repeats its last operation when it opens a shard: one that has nothing to do is quick.
                shard.update(qdrant.UpdateOperation.delete_points([]))
                shard.flush()
                shard.close()
                sync_tree(folder)
                _answer(CLOSED)
                return 0
    return 1


def _answer(word: bytes) -> None:
    sys.stdout.buffer.write(word)
    sys.stdout.buffer.flush()


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
