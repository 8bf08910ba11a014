"""Writes what a collect slice fetched: pages, sources, links and counters in one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import source_id
from ke.contracts.jobs import Counters, Lane
from ke.storage.arrays import among_given
from ke.storage.collect_shards import WHOLE, Shard, hold_shard, queue_up
from ke.storage.dead_letters import DeadLetter, settle_letters, write_dead_letters
from ke.storage.documents import StoredReading, present_sources, reading_of, stored_readings
from ke.storage.duplicates import Twins
from ke.storage.frontier import FrontierEntry, add_links
from ke.storage.jobs import add_progress, hold_fence
from ke.storage.record_queue import first_record_state
from ke.storage.tables import extraction_tasks, pages, sources


class PageState(StrEnum):
    """How an attempt to fetch a page ended."""

    FETCHED = "fetched"
    DUPLICATE = "duplicate"
    UNCHANGED = "unchanged"
    """As it was in the job that is crawled again: its document is there."""
    GONE = "gone"
    """It was there in the job that is crawled again."""
    FAILED = "failed"
    SKIPPED = "skipped"
    RETRY = "retry"
    """Back into the frontier, for later."""


REPLACING: Final = frozenset({PageState.FETCHED, PageState.DUPLICATE, PageState.GONE})
"""The states of a page that was crawled again in which what it said then is true no more."""


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
    content_hash: bytes | None = None
    """Where there is no document to say so."""
    bytes: int = 0
    retry_after_s: float = 0.0
    document: Document | None = None
    final_url: str | None = None
    """Where the answer came from, where there is no document to say so; canonical."""
    content_type: str | None = None
    """The same."""
    canonical: str | None = None
    """What the page names as its own URL, where that is another one."""
    source_id: uuid.UUID | None = None
    """The document that has its content, where that is not the page's own."""
    read_before: uuid.UUID | None = None
    """The document that it had in the job that is crawled again: still its own, where the page reads the same."""
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
    is_recrawl: bool = False,
    shard: Shard = WHOLE,
) -> Counters:
    """Writes a batch; what someone else has taken over since is left out, so a page is stored once.

    Args:
        connection: The transaction.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the pages were claimed.
        batch: What became of them.
        extract: Whether new sources go to the extract lane.
        is_recrawl: Whether pages may have documents of an earlier job.
        shard: The shard of the slice.

    Returns:
        The lane's totals after this batch.

    Raises:
        Fenced: The job may not be written any more.
        WorkLost: Another slice has taken the lane, or this shard, over.
    """
    await queue_up(connection, job_id, shard)
    await hold_fence(connection, job_id, epoch)
    await hold_shard(connection, job_id, shard, claim)
    mine = await _still_mine(connection, claim, batch)
    outcomes = await _still_unchanged(connection, [o for o in batch if o.entry.id in mine])
    outcomes = await _reading_as_before(connection, outcomes)
    twins = await Twins.of(connection, job_id, outcomes, is_recrawl=is_recrawl)
    outcomes = _without_duplicates(twins, outcomes)
    await _store_sources(connection, job_id, outcomes, twins, extract=extract)
    links = ((url, o.entry.depth + 1, o.entry.id) for o in outcomes for url in o.links)
    await add_links(connection, job_id, links)
    await _store_pages(connection, job_id, outcomes)
    tried = {o.entry.id: o.state is PageState.FAILED for o in outcomes if o.state is not PageState.RETRY}
    await settle_letters(connection, job_id, "page", tried)
    letters = [_dead_letter(o) for o in outcomes if o.state is PageState.FAILED]
    await write_dead_letters(connection, job_id, letters)
    return await add_progress(connection, job_id, Lane.COLLECT, _count(outcomes))


_STILL_MINE: Final = (
    sa.select(pages.c.id)
    .where(
        among_given(pages.c.id, "ids"),
        pages.c.claim == sa.bindparam("claim"),
        pages.c.state == "fetching",
    )
    .order_by(pages.c.id)
    .with_for_update()
)


async def _still_mine(
    connection: AsyncConnection, claim: uuid.UUID, batch: Sequence[PageOutcome]
) -> frozenset[uuid.UUID]:
    values = {"ids": [o.entry.id for o in batch], "claim": claim}
    return frozenset((await connection.execute(_STILL_MINE, values)).scalars())


async def _still_unchanged(connection: AsyncConnection, outcomes: Sequence[PageOutcome]) -> list[PageOutcome]:
    """Sends pages back whose earlier document was deleted meanwhile: the next attempt fetches and stores them."""
    named = [o.source_id for o in outcomes if o.state is PageState.UNCHANGED and o.source_id]
    there = await present_sources(connection, named) if named else frozenset()
    return [
        o
        if o.state is not PageState.UNCHANGED or o.source_id in there
        else PageOutcome(o.entry, PageState.RETRY, o.fetched_at, reason="what it was the same as is deleted")
        for o in outcomes
    ]


async def _reading_as_before(connection: AsyncConnection, outcomes: Sequence[PageOutcome]) -> list[PageOutcome]:
    """Finds those unchanged whose bodies are others, as of a counter in the page, but which read as they did."""
    named = [o.read_before for o in outcomes if o.read_before and o.document and o.document.text]
    stored = await stored_readings(connection, named) if named else {}

    def told(outcome: PageOutcome) -> PageOutcome:
        document, source = outcome.document, outcome.read_before
        before = stored.get(source) if source is not None else None
        if before is None or document is None or not _reads_as(document, before):
            return outcome
        return replace(
            outcome,
            state=PageState.UNCHANGED,
            document=None,
            content_hash=document.content_hash,
            final_url=document.url,
            source_id=source,
        )

    return [told(outcome) for outcome in outcomes]


def _reads_as(document: Document, before: StoredReading) -> bool:
    """Whether a document has the text and title of a stored one and, where that is of the same address, its metadata.

    What a duplicate has was read at another address, and stands for it by text and title alone. How a document was read
    (`reader`) is no word of its own.
    """
    if not document.text or before.reading != reading_of(document.title, document.text):
        return False
    said, says = ({**metadata, "reader": None} for metadata in (before.metadata, document.metadata))
    return said == says or before.url != document.url


def _without_duplicates(twins: Twins, outcomes: Sequence[PageOutcome]) -> list[PageOutcome]:
    """Turns what the job has stored already into duplicates; what a page had, and has, leaves it unchanged."""

    def told(outcome: PageOutcome) -> PageOutcome:
        twin = twins.of_page(outcome)
        if twin is None:
            return outcome
        if outcome.entry.earlier is not None and outcome.entry.earlier.source_id == twin.id:
            return replace(outcome, state=PageState.UNCHANGED, source_id=twin.id)
        return replace(outcome, state=PageState.DUPLICATE, reason=f"same as {twin.url}", source_id=twin.id)

    return [told(outcome) for outcome in outcomes]


async def _store_sources(
    connection: AsyncConnection, job_id: uuid.UUID, outcomes: Sequence[PageOutcome], twins: Twins, *, extract: bool
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
            "canonical_hash": twins.canonical_hash(o),
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


_STORE_PAGE: Final = (
    sa.update(pages)
    .where(pages.c.job_id == sa.bindparam("job"), pages.c.id == sa.bindparam("page"))
    .values(
        state=sa.bindparam("new_state"),
        claim=None,
        reason=sa.bindparam("new_reason"),
        attempts=pages.c.attempts + sa.bindparam("failed", type_=sa.Integer),
        not_before=sa.bindparam("later", type_=pages.c.not_before.type),
        http_status=sa.bindparam("status"),
        final_url=sa.bindparam("final"),
        canonical_url=sa.bindparam("canonical"),
        source_id=sa.bindparam("source"),
        previous_source_id=sa.bindparam("previous"),
        content_type=sa.bindparam("type"),
        content_hash=sa.bindparam("hash"),
        etag=sa.bindparam("new_etag"),
        last_modified=sa.bindparam("modified"),
        bytes=sa.bindparam("size"),
        fetched_at=sa.bindparam("at"),
    )
)


async def _store_pages(connection: AsyncConnection, job_id: uuid.UUID, outcomes: Sequence[PageOutcome]) -> None:
    values = [_page_values(job_id, o) for o in outcomes]
    if values:
        await connection.execute(_STORE_PAGE, values)


def _page_values(job_id: uuid.UUID, outcome: PageOutcome) -> dict[str, Any]:
    document, retry = outcome.document, outcome.state is PageState.RETRY
    final = document.url if document else outcome.final_url
    source = outcome.source_id
    if document and outcome.state is PageState.FETCHED:
        source = source_id(job_id, document.url)
    return {
        "job": job_id,
        "page": outcome.entry.id,
        "new_state": "pending" if retry else outcome.state.value,
        "new_reason": outcome.reason,
        "failed": int(retry or outcome.state is PageState.FAILED),
        "later": outcome.fetched_at + timedelta(seconds=outcome.retry_after_s) if retry else None,
        "status": outcome.http_status,
        "final": final if final != outcome.entry.url else None,
        "canonical": outcome.canonical,
        "source": source,
        "previous": _replaced_by(outcome),
        "type": document.content_type if document else outcome.content_type,
        "hash": document.content_hash if document else outcome.content_hash,
        "new_etag": outcome.etag,
        "modified": outcome.last_modified,
        "size": outcome.bytes,
        "at": outcome.fetched_at,
    }


def _replaced_by(outcome: PageOutcome) -> uuid.UUID | None:
    """The earlier document of a page that was crawled again, where it is not the page's document any more."""
    earlier = outcome.entry.earlier
    return earlier.source_id if earlier is not None and outcome.state in REPLACING else None


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
        pages_unchanged=number(PageState.UNCHANGED),
        pages_gone=number(PageState.GONE),
        sources=sum(o.state is PageState.FETCHED and o.document is not None for o in outcomes),
        dead_letters=number(PageState.FAILED),
        bytes=sum(o.bytes for o in outcomes),
    )
