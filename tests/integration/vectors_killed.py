"""A vector process that kills itself at a chosen point of an optimisation.

`python -m tests.integration.vectors_killed STAGE ARGUMENTS...`; the arguments are those of the real one, which it
otherwise is.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from ke.storage.vectors import edge_files, edge_frames, edge_optimise, edge_optimiser, edge_server


def die() -> NoReturn:
    """Ends this process as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def before(module: ModuleType, name: str, *, call: int = 1) -> None:
    """Dies instead of the nth call of a function."""
    original: Callable[..., Any] = getattr(module, name)
    calls = 0

    def patched(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return die() if calls == call else original(*args, **kwargs)

    setattr(module, name, patched)


def after(module: ModuleType, name: str) -> None:
    """Dies when a function has returned."""
    original: Callable[..., Any] = getattr(module, name)

    def patched(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        die()

    setattr(module, name, patched)


def unsynced() -> None:
    """The disk fails when the new name should become durable."""

    def fail(_: object) -> None:
        raise OSError("input/output error")

    edge_files.sync_folder = fail


def clearing() -> None:
    """Dies with a part of the old shard removed."""

    def part(folder: Any, **_: Any) -> None:
        next(path for path in folder.rglob("*") if path.is_file()).unlink()
        die()

    edge_optimiser.shutil.rmtree = part


STAGES: dict[str, Callable[[], None]] = {
    "copying": lambda: before(edge_optimise, "next_page", call=3),
    "building": lambda: after(edge_frames, "order"),
    "built": lambda: before(edge_frames, "order", call=2),
    "closed": lambda: before(edge_optimise, "open_copy"),
    "opened": lambda: before(edge_optimise, "swap"),
    "flushed": lambda: before(edge_optimise, "name_shard"),
    "half named": lambda: after(edge_files, "_write_manifest"),
    "named": lambda: after(edge_optimise, "name_shard"),
    "unsynced": unsynced,
    "clearing": clearing,
}

if __name__ == "__main__":
    STAGES[sys.argv[1]]()
    sys.exit(edge_server.main(sys.argv[2:]))
