"""Writes what a collect slice fetched: pages, sources, links and counters in one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import source_id
from ke.contracts.jobs import Counters, Lane
from ke.storage.dead_letters import DeadLetter, settle_letters, write_dead_letters
from ke.storage.frontier import FrontierEntry, add_pages
from ke.storage.jobs import add_progress, hold_fence, hold_lease
from ke.storage.record_queue import first_record_state
from ke.storage.tables import extraction_tasks, pages, sources


class PageState(StrEnum):
    """How an attempt to fetch a page ended."""

    FETCHED = "fetched"
    DUPLICATE = "duplicate"
    FAILED = "failed"
    SKIPPED = "skipped"
    RETRY = "retry"
    """Back into the frontier, for later."""


@dataclass(frozen=True, slots=True)
class Document:
    """What was read from a page."""

    url: str
    """Where it really is, after redirects; canonical."""
    title: str | None
    text: str
    """Markdown."""
    metadata: Mapping[str, Any]
    content_type: str
    content_hash: bytes
    """SHA-256 of the body."""


@dataclass(frozen=True, slots=True)
class PageOutcome:
    """One page of a batch."""

    entry: FrontierEntry
    state: PageState
    fetched_at: datetime
    reason: str | None = None
    error_type: str = ""
    """The error's code, for what failed."""
    http_status: int | None = None
    etag: str | None = None
    last_modified: str | None = None
    bytes: int = 0
    retry_after_s: float = 0.0
    document: Document | None = None
    links: Sequence[str] = field(default_factory=tuple)
    """Canonical links to follow, one level deeper."""


async def write_pages(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    batch: Sequence[PageOutcome],
    *,
    extract: bool,
) -> Counters:
    """Writes a batch; what someone else has taken over since is left out, so a page is stored once.

    Args:
        connection: The transaction.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the pages were claimed.
        batch: What became of them.
        extract: Whether new sources go to the extract lane.

    Returns:
        The lane's totals after this batch.

    Raises:
        Fenced: The job may not be written any more.
        WorkLost: Another slice has taken the lane over.
    """
    await hold_fence(connection, job_id, epoch)
    await hold_lease(connection, job_id, Lane.COLLECT, claim)
    mine = await _still_mine(connection, claim, batch)
    outcomes = await _without_duplicates(connection, job_id, [o for o in batch if o.entry.id in mine])
    await _store_sources(connection, job_id, outcomes, extract=extract)
    await add_pages(connection, job_id, ((url, o.entry.depth + 1) for o in outcomes for url in o.links))
    await _store_pages(connection, job_id, outcomes)
    tried = {o.entry.id: o.state is PageState.FAILED for o in outcomes if o.state is not PageState.RETRY}
    await settle_letters(connection, job_id, "page", tried)
    letters = [_dead_letter(o) for o in outcomes if o.state is PageState.FAILED]
    await write_dead_letters(connection, job_id, letters)
    return await add_progress(connection, job_id, Lane.COLLECT, _count(outcomes))


async def _still_mine(
    connection: AsyncConnection, claim: uuid.UUID, batch: Sequence[PageOutcome]
) -> frozenset[uuid.UUID]:
    statement = (
        sa.select(pages.c.id)
        .where(pages.c.id.in_([o.entry.id for o in batch]), pages.c.claim == claim, pages.c.state == "fetching")
        .order_by(pages.c.id)
        .with_for_update()
    )
    return frozenset((await connection.execute(statement)).scalars())


async def _without_duplicates(
    connection: AsyncConnection, job_id: uuid.UUID, outcomes: Sequence[PageOutcome]
) -> list[PageOutcome]:
    """Turns what the job has stored already, by content or by address, into duplicates."""
    documents = [o.document for o in outcomes if o.document]
    if not documents:
        return list(outcomes)
    known = await connection.execute(
        sa.select(sources.c.content_hash, sources.c.url).where(
            sources.c.job_id == job_id,
            sa.or_(
                sources.c.content_hash.in_([d.content_hash for d in documents]),
                sources.c.id.in_([source_id(job_id, d.url) for d in documents]),
            ),
        )
    )
    places: dict[bytes, str] = {}
    addresses: set[str] = set()
    for content_hash, url in known:
        places[content_hash] = url
        addresses.add(url)
    return [_as_duplicate(o, places, addresses) for o in outcomes]


def _as_duplicate(outcome: PageOutcome, places: dict[bytes, str], addresses: set[str]) -> PageOutcome:
    document = outcome.document
    if document is None:
        return outcome
    twin = places.get(document.content_hash) or (document.url if document.url in addresses else None)
    if twin is None:
        places[document.content_hash] = document.url
        addresses.add(document.url)
        return outcome
    return PageOutcome(
        entry=outcome.entry,
        state=PageState.DUPLICATE,
        fetched_at=outcome.fetched_at,
        reason=f"same as {twin}",
        http_status=outcome.http_status,
        etag=outcome.etag,
        last_modified=outcome.last_modified,
        bytes=outcome.bytes,
        document=document,
        links=outcome.links,
    )


async def _store_sources(
    connection: AsyncConnection, job_id: uuid.UUID, outcomes: Sequence[PageOutcome], *, extract: bool
) -> None:
    values = [
        {
            "id": source_id(job_id, o.document.url),
            "job_id": job_id,
            "url": o.document.url,
            "title": o.document.title,
            "text": o.document.text,
            "metadata": dict(o.document.metadata),
            "content_type": o.document.content_type,
            "content_hash": o.document.content_hash,
            "bytes": o.bytes,
            "fetched_at": o.fetched_at,
        }
        for o in outcomes
        if o.document and o.state is PageState.FETCHED
    ]
    if not values:
        return
    await connection.execute(insert(sources).on_conflict_do_nothing(), values)
    if extract:
        tasks = [{"job_id": job_id, "source_id": value["id"]} for value in values]
        queued = insert(extraction_tasks).values(record_state=first_record_state(job_id))
        await connection.execute(queued.on_conflict_do_nothing(), tasks)


async def _store_pages(connection: AsyncConnection, job_id: uuid.UUID, outcomes: Sequence[PageOutcome]) -> None:
    statement = (
        sa.update(pages)
        .where(pages.c.job_id == job_id, pages.c.id == sa.bindparam("page"))
        .values(
            state=sa.bindparam("new_state"),
            claim=None,
            reason=sa.bindparam("new_reason"),
            attempts=pages.c.attempts + sa.bindparam("failed", type_=sa.Integer),
            not_before=sa.bindparam("later", type_=pages.c.not_before.type),
            http_status=sa.bindparam("status"),
            final_url=sa.bindparam("final"),
            content_type=sa.bindparam("type"),
            content_hash=sa.bindparam("hash"),
            etag=sa.bindparam("new_etag"),
            last_modified=sa.bindparam("modified"),
            bytes=sa.bindparam("size"),
            fetched_at=sa.bindparam("at"),
        )
    )
    values = [_page_values(o) for o in outcomes]
    if values:
        await connection.execute(statement, values)


def _page_values(outcome: PageOutcome) -> dict[str, Any]:
    document, retry = outcome.document, outcome.state is PageState.RETRY
    return {
        "page": outcome.entry.id,
        "new_state": "pending" if retry else outcome.state.value,
        "new_reason": outcome.reason,
        "failed": int(retry or outcome.state is PageState.FAILED),
        "later": outcome.fetched_at + timedelta(seconds=outcome.retry_after_s) if retry else None,
        "status": outcome.http_status,
        "final": document.url if document and document.url != outcome.entry.url else None,
        "type": document.content_type if document else None,
        "hash": document.content_hash if document else None,
        "new_etag": outcome.etag,
        "modified": outcome.last_modified,
        "size": outcome.bytes,
        "at": outcome.fetched_at,
    }


def _dead_letter(outcome: PageOutcome) -> DeadLetter:
    return DeadLetter(
        subject="page",
        subject_id=outcome.entry.id,
        url=outcome.entry.url,
        error_type=outcome.error_type or "fetch-failed",
        error_message=outcome.reason or "",
        attempts=outcome.entry.attempts + 1,
        failed_at=outcome.fetched_at,
    )


def _count(outcomes: Sequence[PageOutcome]) -> Counters:
    def number(state: PageState) -> int:
        return sum(o.state is state for o in outcomes)

    return Counters(
        pages_fetched=number(PageState.FETCHED),
        pages_failed=number(PageState.FAILED),
        pages_skipped=number(PageState.SKIPPED),
        pages_duplicate=number(PageState.DUPLICATE),
        sources=sum(o.state is PageState.FETCHED and o.document is not None for o in outcomes),
        dead_letters=number(PageState.FAILED),
        bytes=sum(o.bytes for o in outcomes),
    )
