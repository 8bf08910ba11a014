"""A short cut of the fault suite, and proof that it can fail."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.faults.driver import play, play_directed, stack_for
from tests.faults.injections import Kill, Network
from tests.faults.plan import Step, draw
from tests.faults.proxy import TcpProxy
from tests.faults.report import Report
from tests.faults.stack import FaultStack

pytestmark = pytest.mark.timeout(1200)
SHORT = (
    Step(1, Kill("worker"), "crawl", "extracting", "nothing", 3, "keep"),
    Step(2, Network("postgres", "worker", "drop replies of", 2.0, 0.5), "scrape", "collecting", "cancel", 3, "clean"),
    Step(3, Kill("vectors"), "scrape", "sources", "clean", 1, "clean"),
)
"""A killed worker, commits whose answers are lost, and a cleanup whose store dies."""


async def test_faults_leave_every_invariant_true() -> None:
    """Whatever these three break, every accepted job ends as it should and no store holds more or less than it says."""
    report = Report(seed=0, planned=len(SHORT))
    await play(FaultStack(), report, lambda _: SHORT)
    assert report.broken == []
    assert report.faults.total() == len(SHORT)
    assert report.jobs >= len(SHORT)


async def test_build_that_does_not_wait_for_its_last_activity_is_caught() -> None:
    """A workflow that goes on while its slice still fetches breaks the promise that a cancelled job stands still."""
    caught = False
    for _ in range(3):  # on a busy machine the slice may give up before it fetches on
        report = Report(seed=0, planned=1, broken_build="wait")
        await play_directed(stack_for("wait"), report, "wait")
        caught = caught or any(line.startswith("quiescent-is-still: ") for line in report.broken)
        if caught:
            break
    assert caught


def test_same_seed_gives_the_same_plan() -> None:
    """A run can be repeated; every class of fault comes up in a run of some length."""
    assert draw(7, 120) == draw(7, 120)
    assert draw(7, 120) != draw(8, 120)
    assert len({step.fault.name for step in draw(7, 120)}) == len({step.fault.name for step in draw(8, 400)})


@pytest.fixture
async def echo() -> AsyncIterator[tuple[TcpProxy, list[bytes]]]:
    """A server that answers what it is asked, behind a proxy, and what it was asked."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            asked.append(piece)
            writer.write(piece)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    proxy = TcpProxy(server.sockets[0].getsockname)
    await proxy.start()
    try:
        yield proxy, asked
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


async def test_proxy_executes_and_drops_the_reply(echo: tuple[TcpProxy, list[bytes]]) -> None:
    """The request it is told of arrives, its sender sees a reset; other requests are answered."""
    proxy, asked = echo
    proxy.drop_replies, proxy.drop_when = 1, b"COMMIT"
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    writer.write(b"BEGIN")
    assert await reader.read(100) == b"BEGIN"
    writer.write(b"COMMIT")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(10):
            await reader.read(100)
    assert asked == [b"BEGIN", b"COMMIT"]
    assert proxy.dropped == 1
