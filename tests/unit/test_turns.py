"""Calls about one job take turns."""

import asyncio
import gc
import uuid

import pytest

from api.service import turns
from api.service.turns import Turns
from ke.contracts.errors import Unavailable

JOB, OTHER = uuid.uuid4(), uuid.uuid4()


async def test_calls_about_one_job_follow_each_other() -> None:
    """While one is in its turn the others about the same job wait, in the order in which they came."""
    taken, order = Turns(), list[int]()

    async def call(number: int) -> None:
        async with taken.take(JOB):
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(call(number) for number in range(4)))
    assert order == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_calls_about_different_jobs_do_not_wait() -> None:
    """One job's turn is no other job's business."""
    taken = Turns()
    async with taken.take(JOB), asyncio.timeout(5), taken.take(OTHER):
        pass


async def test_turn_that_does_not_come_is_a_defined_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits too long is told to try again, and the turn is free for the next one afterwards."""
    monkeypatch.setattr(turns, "TURN_WITHIN_S", 0.05)
    taken = Turns()
    async with taken.take(JOB):
        with pytest.raises(Unavailable, match="try again"):
            async with taken.take(JOB):
                pass
    async with taken.take(JOB):
        pass


async def test_turns_of_past_calls_are_forgotten() -> None:
    """A gateway that has cancelled a million jobs holds no million locks."""
    taken = Turns()
    for _ in range(10):
        async with taken.take(uuid.uuid4()):
            pass
    gc.collect()
    assert len(taken._locks) == 0
