"""Workers that were broken on purpose, to show that the suite can fail: `python -m tests.faults.broken NAME`.

Each leaves out one thing that a promise rests on. Nothing but the fault suite starts these.
"""

import logging
import os
import sys
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from temporalio.workflow import ActivityCancellationType

import activities.extract
import activities.lane_hold
import worker
from ke.storage import collect_batches, collect_shards, collecting, extracting
from ke.storage.vectors.edge import EdgeVectors
from workflows import policies


async def _allowed(*_: Any, **__: Any) -> None:
    """A fence that stops nobody."""


def leave_out_the_fence() -> None:
    """Whoever comes late may write: neither Postgres nor the vector store refuses an old epoch."""
    for module in (collecting, collect_batches, extracting, activities.lane_hold, activities.extract):
        module.hold_fence = _allowed  # type: ignore[attr-defined]
    extracting.hold_fences = _allowed  # type: ignore[assignment]

    async def fence(self: EdgeVectors, job_id: uuid.UUID, epoch: int) -> bool:
        return True

    EdgeVectors.fence = fence  # type: ignore[method-assign]


def leave_out_the_wait() -> None:
    """The workflow goes on at once when it cancels a slice, whatever the slice still does."""
    careful = policies.lane_slice

    def careless(*args: Any, **options: Any) -> Any:
        return {**careful(*args, **options), "cancellation_type": ActivityCancellationType.TRY_CANCEL}

    policies.lane_slice = careless


def leave_out_the_claim() -> None:
    """What an attempt has fetched is written and counted, whoever else has done it meanwhile."""

    async def all_mine(_: Any, __: uuid.UUID, batch: Sequence[collecting.PageOutcome]) -> frozenset[uuid.UUID]:
        return frozenset(outcome.entry.id for outcome in batch)

    collecting._still_mine = all_mine
    for module in (collect_shards, collecting, collect_batches):
        module.hold_shard = _allowed  # type: ignore[attr-defined]


BROKEN: Final[dict[str, Callable[[], None]]] = {
    "": lambda: None,
    "fence": leave_out_the_fence,
    "wait": leave_out_the_wait,
    "claim": leave_out_the_claim,
}
"""What can be left out."""


def command_of(name: str) -> Sequence[str]:
    """The command of such a worker, after the interpreter; empty for the real one."""
    return ("-m", "tests.faults.broken", name) if name else ()


if __name__ == "__main__":
    BROKEN[sys.argv[1]]()
    code = worker._run()
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
