"""A vector process that stands still at one thing as long as a file exists, and answers all other calls meanwhile.

`python -m tests.integration.vectors_held WHAT FILE ARGUMENTS...`; the arguments are those of the real one, which it
otherwise is. WHAT is `build`, an optimisation whose builder is at work, or `upsert`, which keeps the engine's thread
busy and says so in a file beside, FILE with `.reached` after it.
"""

import asyncio
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ke.storage.vectors import edge_optimiser, edge_server
from ke.storage.vectors.edge_engine import EdgeEngine


def build(file: Path) -> None:
    """Takes no answer of a builder before the file is gone: the builder has its points, and waits for more."""
    expect = edge_optimiser._expect

    async def held(builder: Process, answer: bytes) -> None:
        while await asyncio.to_thread(file.exists):  # noqa: ASYNC110  another process's file
            await asyncio.sleep(0.01)
        await expect(builder, answer)

    edge_optimiser._expect = held


def upsert(file: Path) -> None:
    """Writes nothing before the file is gone."""
    write = EdgeEngine.upsert

    def held(engine: EdgeEngine, *args: Any, **options: Any) -> Any:
        while file.exists():
            reached(file).touch()
            time.sleep(0.01)
        return write(engine, *args, **options)

    EdgeEngine.upsert = held


def reached(file: Path) -> Path:
    """The file that tells that something stands still because of this one."""
    return file.with_suffix(".reached")


HOLDS: dict[str, Callable[[Path], None]] = {"build": build, "upsert": upsert}

if __name__ == "__main__":
    HOLDS[sys.argv[1]](Path(sys.argv[2]))
    sys.exit(edge_server.main(sys.argv[3:]))
