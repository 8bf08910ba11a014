"""Servers and workers shared by the tests of this folder. All that ran is replayed after each test."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.workflow.stage import Stage, open_temporal, replay, working
from tests.workflow.twins import Twin

At = tuple[Client, Twin]


@pytest.fixture(scope="package")
async def at_work() -> AsyncIterator[At]:
    async with open_temporal() as client, working(client) as twin:
        yield client, twin


@pytest.fixture(scope="package")
async def at_work_briefly() -> AsyncIterator[At]:
    """Where the server suggests to continue as new after a few slices."""
    async with open_temporal("limit.historyCount.suggestContinueAsNew=40") as client, working(client) as twin:
        yield client, twin


@pytest.fixture
async def stage(at_work: At) -> AsyncIterator[Stage]:
    """A stage at work."""
    stage = Stage(*at_work)
    yield stage
    histories = await stage.all_histories()
    await stage.end()
    await replay(histories)


@pytest.fixture
async def short_stage(at_work_briefly: At) -> AsyncIterator[Stage]:
    """A stage at work on which histories end early."""
    stage = Stage(*at_work_briefly)
    yield stage
    histories = await stage.all_histories()
    await stage.end()
    await replay(histories)
