"""Pages between their claim and their commit."""

import asyncio
import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

from activities.pages import PageReader
from activities.under_way import PagesUnderWay
from ke.storage.collecting import PageOutcome, PageState
from ke.storage.frontier import FrontierEntry

PAGES = 20


async def test_pages_that_come_together_are_taken_in_the_order_of_their_claim() -> None:
    """So of two that say the same, or that have the same link, it is the same one each time that is the first."""
    come = asyncio.Event()

    async def read(entry: FrontierEntry, *, max_bytes: int | None) -> PageOutcome:
        await come.wait()
        return PageOutcome(entry, PageState.FETCHED, datetime.now(UTC))

    pages = PagesUnderWay(cast("PageReader", SimpleNamespace(read=read, started=set())))
    entries = [FrontierEntry(uuid.uuid4(), f"https://a.example/{n}", 0, 0) for n in range(PAGES)]
    pages.begin(entries, most=None, share=0)
    await asyncio.sleep(0)
    come.set()
    outcomes: list[PageOutcome] = []
    async with asyncio.timeout(60):
        while len(outcomes) < PAGES:
            outcomes += await pages.wait(60)
    assert [outcome.entry for outcome in outcomes] == entries
