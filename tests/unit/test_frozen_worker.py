"""What a process does that was frozen and goes on."""

import asyncio
import time
import uuid
from typing import Any

import pytest

from activities.heartbeat import LATE_S, Beat
from activities.pages import PageReader
from activities.reach import Reach
from ke.contracts.jobs import CollectSpec, CrawlScope
from ke.storage.frontier import FrontierEntry
from ke.web.politeness import HostGate


class Fetched(Exception):
    """A request was begun."""


class Web:
    """Notes that something was fetched."""

    max_bytes = 1

    async def fetch(self, url: str, **_: Any) -> None:
        raise Fetched(url)


def test_beat_that_was_late_stops_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that finds no beat for most of the heartbeat timeout stops: its work may be another's by now."""
    beat = Beat()
    assert not beat.stopping
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + LATE_S + 1)
    assert beat.stopping
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert beat.stopping, "and does not change its mind"


async def test_stopping_slice_begins_no_request() -> None:
    """A page whose turn comes when the slice must stop is not asked for; it waits to be broken off."""
    spec = CollectSpec(urls=("http://site/",), follow=False, scope=CrawlScope(robots=False))
    entry = FrontierEntry(uuid.uuid4(), "http://site/", 0, 0)
    stopping = False
    reader: Any = PageReader(
        Web(),  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        HostGate(1),
        Reach.of(spec, None),  # type: ignore[arg-type]
        lambda: stopping,
    )
    with pytest.raises(Fetched):
        await reader._read(entry, None)
    stopping = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await reader._read(entry, None)
