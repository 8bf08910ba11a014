"""The pauses of a crawl's hosts, kept from slice to slice: the next one may be another worker's."""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.jobs import Lane
from ke.contracts.pauses import HeldHost
from ke.storage.tables import job_progress


async def held_hosts(connection: AsyncConnection, job_id: uuid.UUID) -> dict[str, HeldHost]:
    """The hosts that are not to be asked yet."""
    statement = sa.select(job_progress.c.pauses).where(_lane(job_id))
    stored: Mapping[str, Any] = (await connection.execute(statement)).scalar_one_or_none() or {}
    held = {
        host: HeldHost(datetime.fromisoformat(value["until"]), value["between_s"], value["asked"])
        for host, value in stored.items()
    }
    return {host: value for host, value in held.items() if value.until > datetime.now(UTC)}


async def keep_hosts(connection: AsyncConnection, job_id: uuid.UUID, held: Mapping[str, HeldHost]) -> None:
    """Adds hosts that are not to be asked yet, in a transaction that holds the lane; the longer pause holds."""
    before = await held_hosts(connection, job_id)
    longer = {host: value for host, value in held.items() if host not in before or value.until > before[host].until}
    stored = {
        host: {"until": value.until.isoformat(), "between_s": value.between_s, "asked": value.asked}
        for host, value in (before | longer).items()
    }
    await connection.execute(sa.update(job_progress).where(_lane(job_id)).values(pauses=stored))


def _lane(job_id: uuid.UUID) -> sa.ColumnElement[bool]:
    return (job_progress.c.job_id == job_id) & (job_progress.c.lane == Lane.COLLECT.value)
