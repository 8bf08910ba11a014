import asyncio
import itertools
import time
from types import SimpleNamespace

import pytest

from ke.web import politeness
from ke.web.politeness import HostGate


class Clock:
    """The gate's clock, which goes by with its waits alone: a machine that stands still makes none longer."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(politeness, "time", made)
    waits = SimpleNamespace(sleep=made.sleep, Semaphore=asyncio.Semaphore, Lock=asyncio.Lock)
    monkeypatch.setattr(politeness, "asyncio", waits)
    return made


async def hold(gate, host, log, entered=None, release=None, clock=time, **delay):
    async with gate.slot(host, **delay):
        log.append(clock.monotonic())
        if entered is not None:
            entered.release()
        if release is not None:
            await release.wait()


async def test_only_so_many_requests_to_one_host_run_at_once():
    """The third waits until one of two ends; another host does not wait."""
    gate, release, entered, log = HostGate(2), asyncio.Event(), asyncio.Semaphore(0), []
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(hold(gate, "a:80", log, entered, release))
        group.create_task(hold(gate, "b:80", [], entered, release))
        for _ in range(3):
            await entered.acquire()
        await asyncio.sleep(0.05)
        assert len(log) == 2
        release.set()
    assert len(log) == 3


async def test_starts_are_apart_by_the_longer_delay(clock):
    """The job's delay and robots.txt's Crawl-delay: whichever is longer."""
    for gate, crawl_delay_s in ((HostGate(8, 0.1), None), (HostGate(8, 0.01), 0.1)):
        log = []
        await asyncio.gather(*(hold(gate, "a:80", log, clock=clock, crawl_delay_s=crawl_delay_s) for _ in range(3)))
        assert [later - earlier for earlier, later in itertools.pairwise(log)] == pytest.approx([0.1, 0.1])


async def test_backoff_holds_those_who_already_wait(clock):
    """A pause that a server asks for counts for requests that are queued, too."""
    gate, log = HostGate(8, 0.05), []
    await hold(gate, "a:80", log, clock=clock)
    waiting = asyncio.create_task(hold(gate, "a:80", log, clock=clock))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.backoff("a:80", 0.3)
    asked = clock.now
    await asyncio.wait_for(waiting, 30)
    assert log[-1] - asked == pytest.approx(0.3)


async def test_a_cancelled_waiter_gives_its_place_back():
    """The gate does not leak slots."""
    gate, release, log = HostGate(1), asyncio.Event(), []
    holder = asyncio.create_task(hold(gate, "a:80", log, release=release))
    await asyncio.sleep(0)
    waiter = asyncio.create_task(hold(gate, "a:80", log))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    release.set()
    await holder
    await asyncio.wait_for(hold(gate, "a:80", log), 30)
    assert len(log) == 2


async def test_wait_s_says_when_the_next_may_start():
    """Zero for a host that nobody has asked."""
    gate = HostGate(1)
    assert gate.wait_s("a:80") == 0
    gate.backoff("a:80", 100)
    assert 90 < gate.wait_s("a:80") <= 100


async def test_idle_hosts_are_forgotten(monkeypatch):
    """Memory stays bounded in a crawl of very many hosts."""
    monkeypatch.setattr(politeness, "MAX_HOSTS", 3)
    gate = HostGate(1)
    gate.backoff("busy:80", 100)
    for number in range(10):
        await hold(gate, f"{number}:80", [])
    assert len(gate._hosts) <= 3
    assert gate.wait_s("busy:80") > 0


async def test_pauses_outlast_the_process_that_was_told_of_them():
    """Another gate holds back what the first one did, for the same reason and as long; none is made shorter by it."""
    gate, other = HostGate(1, 50), HostGate(1)
    await hold(gate, "regular:80", [])
    gate.backoff("asked:80", 100)
    await hold(HostGate(1), "free:80", [])
    other.backoff("longer:80", 200)
    gate.backoff("longer:80", 10)
    other.take_up(gate.held_hosts())
    assert 40 < other.wait_s("regular:80") <= 50
    assert other.pause("regular:80") == gate.pause("regular:80")
    assert 90 < other.wait_s("asked:80") <= 100
    assert other.pause("asked:80").until is not None
    assert other.wait_s("longer:80") > 190
    assert other.wait_s("free:80") == 0
