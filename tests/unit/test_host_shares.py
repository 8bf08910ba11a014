"""How much of a slice each host may have."""

import uuid
from collections.abc import Iterable

from activities.host_shares import MAX_UNDER_WAY, HostShares
from ke.storage.frontier import FrontierEntry
from ke.web.politeness import HostGate


def entries(host: str, number: int) -> list[FrontierEntry]:
    return [FrontierEntry(uuid.uuid4(), f"http://{host}/{n}", 0, 0, host) for n in range(number)]


async def known(gate: HostGate, *hosts: str, delay_s: float | None = None) -> None:
    for host in hosts:
        async with gate.slot(host, delay_s):
            pass


def rooms(shares: HostShares, hosts: Iterable[str]) -> list[int]:
    return [shares.room(host) for host in hosts]


async def test_host_has_twice_its_concurrency_once_its_pace_is_known() -> None:
    """One whose pace is not known has two pages, less what is under way."""
    gate = HostGate(4)
    await known(gate, "a:80")
    shares = HostShares(gate, 4)
    assert rooms(shares, ("a:80", "b:80")) == [8, 2]
    shares.count(entries("a:80", 3), entries("b:80", 1))
    assert rooms(shares, ("a:80", "b:80")) == [5, 1]
    shares.count(entries("a:80", 9), ())
    assert rooms(shares, ("a:80",)) == [0]


async def test_paced_host_has_what_it_lets_through_in_a_second() -> None:
    """And one more, which waits for its turn; one that asked for a pause has one."""
    gate = HostGate(8)
    await known(gate, "slow:80", delay_s=10)
    await known(gate, "brisk:80", delay_s=0.25)
    await known(gate, "paused:80")
    await known(gate, "hardly:80", delay_s=1e-310)
    gate.backoff("paused:80", 60)
    assert rooms(HostShares(gate, 8), ("slow:80", "brisk:80", "paused:80", "hardly:80")) == [2, 5, 1, 16]


async def test_what_waits_for_a_slow_host_takes_no_room_from_others() -> None:
    """The room of all together is counted without it, and never without end."""
    gate = HostGate(8)
    await known(gate, "quick:80")
    await known(gate, "slow:80", delay_s=10)
    shares = HostShares(gate, 8)
    shares.count(entries("quick:80", 10), entries("slow:80", 50))
    assert shares.total_room == MAX_UNDER_WAY - 10
    shares.count((), entries("slow:80", 1_000))
    assert shares.total_room == 0


async def test_frontier_is_asked_when_a_host_has_used_half_of_its_share() -> None:
    """Pages are claimed several at a time, and nothing is asked for while there is nothing."""
    gate = HostGate(4)
    await known(gate, "a:80")
    shares = HostShares(gate, 4)
    assert shares.wants_more()
    shares.room("a:80")
    shares.claimed(entries("a:80", 8), 64)
    shares.count(entries("a:80", 5), ())
    assert not shares.wants_more()
    shares.count(entries("a:80", 4), ())
    assert shares.wants_more()
    shares.room("a:80")
    shares.claimed(entries("a:80", 1), 64)
    assert shares.is_dry
    assert not shares.wants_more()
    shares.added()
    assert shares.wants_more()


async def test_host_that_is_alone_has_pages_ahead() -> None:
    """As long as it is: they leave another one that turns up its whole share, and are not asked for in between."""
    gate = HostGate(8)
    await known(gate, "a:80", "b:80")
    shares = HostShares(gate, 8, ahead=48)
    assert rooms(shares, ("a:80",)) == [16]
    shares.claimed(entries("a:80", 16), 64)
    assert shares.is_alone
    shares.count(entries("a:80", 10), ())
    assert rooms(shares, ("a:80",)) == [38]
    shares.count(entries("a:80", 16), entries("a:80", 32))
    assert shares.total_room >= 16
    assert not shares.wants_more()
    assert rooms(shares, ("a:80", "b:80")) == [0, 48]
    shares.claimed(entries("b:80", 16), 16)
    assert not shares.is_alone
    shares.count(entries("a:80", 16), entries("a:80", 32))
    assert rooms(shares, ("a:80", "b:80")) == [0, 16]


async def test_slow_host_that_is_alone_has_nothing_ahead() -> None:
    """One with pauses has what it lets through in a second."""
    gate = HostGate(8)
    await known(gate, "slow:80", delay_s=0.5)
    shares = HostShares(gate, 8, ahead=48)
    for _ in range(2):
        assert rooms(shares, ("slow:80",)) == [3]
        shares.claimed(entries("slow:80", 3), 64)
