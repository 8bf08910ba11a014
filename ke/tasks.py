"""Tasks of an event loop that run side by side, a few at a time."""

import asyncio
from collections.abc import Collection
from typing import Any


async def fewer(tasks: set[asyncio.Task[None]], number: int) -> set[asyncio.Task[None]]:
    """Waits until fewer than `number` of the tasks are left, and returns these; raises what one has failed with."""
    while len(tasks) >= number:
        finished, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in finished:
            task.result()
    return tasks


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels what is left of the tasks, and waits until it has ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
