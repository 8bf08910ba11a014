"""Whose turn it is: the hosts of a frontier that have pages to fetch, in a round."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.storage.collect_shards import WHOLE, Shard
from ke.storage.tables import pages

HOSTS_AT_ONCE: Final = 256
"""Hosts among which one claim chooses, at most; where there are more they take turns."""


REMEMBERED_S: Final = 0.5
"""Seconds for which the hosts of a whole round are remembered: a new one has to wait for as long."""


class HostTurns:
    """Where the round is, kept from claim to claim."""

    def __init__(self) -> None:
        self.after: str | None = None
        """The last host that had its turn; None: the round begins anew."""
        self._all: list[str] = []
        self._until = 0.0

    @property
    def known(self) -> list[str]:
        """All hosts with pages to fetch, where they have been asked for a moment ago; else none."""
        return self._all if time.monotonic() < self._until else []

    def remember(self, hosts: list[str]) -> None:
        """These are all the hosts that have pages to fetch."""
        self._all, self._until = hosts, time.monotonic() + REMEMBERED_S

    def forget(self) -> None:
        """The next claim asks for the hosts again."""
        self._until = 0.0


async def hosts_with_room(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    turns: HostTurns,
    room: Callable[[str], int],
    shard: Shard = WHOLE,
) -> Mapping[str, int]:
    """The next hosts that have pages to fetch and room for some, at most `HOSTS_AT_ONCE`; goes round once at most.

    Args:
        connection: The transaction.
        job_id: The job.
        turns: Where to begin; moved on by the hosts that were looked at.
        room: How many pages of a `host:port` there is room for.
        shard: Whose hosts these are.
    """
    if turns.known:
        return {host: left for host in turns.known if (left := room(host)) > 0}
    rooms: dict[str, int] = {}
    rounds = 1 if turns.after is None else 2
    while rounds:
        hosts = await _open_hosts(connection, job_id, turns.after, shard)
        if turns.after is None and len(hosts) < HOSTS_AT_ONCE:
            turns.remember([host for host, mine in hosts if mine])
        for host, mine in hosts:
            turns.after = host
            if mine and (left := room(host)) > 0:
                rooms[host] = left
            if len(rooms) == HOSTS_AT_ONCE:
                return rooms
        if len(hosts) < HOSTS_AT_ONCE:
            turns.after = None
            rounds -= 1
    return rooms


async def _open_hosts(
    connection: AsyncConnection, job_id: uuid.UUID, after: str | None, shard: Shard
) -> Sequence[tuple[str, bool]]:
    """The next hosts that have pages to fetch, and whether each is the shard's."""
    values = {"job": job_id, "most": HOSTS_AT_ONCE} | ({} if after is None else {"after": after})
    found = await connection.execute(_walk(after=after is not None, shard=shard), values)
    return [(host, mine) for host, mine in found if host is not None]


@cache
def _walk(*, after: bool, shard: Shard) -> sa.Executable:
    """Leaps along the index from host to host: the time is that of the hosts, however many pages each has."""
    mine = (pages.c.job_id == sa.bindparam("job", type_=pages.c.job_id.type)) & (pages.c.state == "pending")
    begin = sa.select(pages.c.host, sa.literal_column("1").label("number")).where(mine)
    if after:
        begin = begin.where(pages.c.host > sa.bindparam("after", type_=sa.Text))
    first = begin.order_by(pages.c.host).limit(1).subquery("first")
    walk = sa.select(first.c.host, first.c.number).cte("walk", recursive=True)
    leap = (
        sa.select(pages.c.host)
        .where(mine, pages.c.host > walk.c.host)
        .order_by(pages.c.host)
        .limit(1)
        .correlate(walk)
        .scalar_subquery()
    )
    further = sa.select(leap, walk.c.number + 1).where(
        walk.c.host.is_not(None), walk.c.number < sa.bindparam("most", type_=sa.Integer)
    )
    found = walk.union_all(further)
    return sa.select(found.c.host, shard.has(found.c.host))
