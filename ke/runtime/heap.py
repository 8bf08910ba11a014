"""The garbage collector and what a process keeps for good."""

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects made and not gone before the collector looks at the youngest: fewer of a batch live to be old."""


def freeze_heap() -> None:
    """Takes everything that is loaded by now out of what the garbage collector looks at.

    A worker has 170,000 objects that never go: modules, models, statements. A full collection looked at each of them,
    every few seconds, and held up the event loop, and so every job, for 0.15 to 0.2 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
