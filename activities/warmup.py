"""Loads a pool process's models before the first page needs them: seconds that a first job would wait for."""

import asyncio
from collections.abc import Callable

from ke.contracts.errors import WorkLost
from ke.extraction.embed import DEFAULT_EMBEDDER, embed
from ke.extraction.entities import find_entities
from ke.runtime.heap import freeze_heap
from ke.runtime.pool import CpuPool
from ke.web.parse import parse_page

_PAGE = b"<html><body><main><h1>Warm</h1><p>Ada Lovelace wrote to Charles Babbage in 1843.</p></main></body></html>"


def load_models() -> None:
    """Reads one page and embeds it, in the process that this runs in."""
    page = parse_page(_PAGE, "text/html", "utf-8", "http://warm.invalid/")
    embed(DEFAULT_EMBEDDER, [page.text])
    freeze_heap()


def load_finder() -> None:
    """Finds the entities of a text, in the process that this runs in."""
    find_entities("spacy", [_PAGE.decode()])
    freeze_heap()


async def warm(pool: CpuPool, load: Callable[[], None]) -> None:
    """Starts all processes of a pool, each with its models loaded."""
    await asyncio.gather(*(_one(pool, load) for _ in range(pool.processes)))


async def _one(pool: CpuPool, load: Callable[[], None]) -> None:
    try:
        await pool.run(load)
    except WorkLost:
        return  # the job that needs the process starts it again, and says what is wrong with it
