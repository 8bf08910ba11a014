"""The extract lane's rows: which sources are to do, and what was made of them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.cleanup import CleanupStatus
from ke.contracts.errors import Fenced
from ke.contracts.ids import extraction_id
from ke.contracts.jobs import Artifacts, Counters, Lane
from ke.storage.arrays import among, among_found
from ke.storage.dead_letters import DeadLetter, settle_letters, write_dead_letters
from ke.storage.jobs import add_progress, hold_fence, hold_lease
from ke.storage.tables import cleanups, entity_tasks, extraction_tasks, extractions, jobs, sources
from ke.storage.task_locks import locked

_OPEN: Final = ("pending", "claimed")


@dataclass(frozen=True, slots=True)
class ClaimedSource:
    """A source to extract."""

    id: uuid.UUID
    owner_job_id: uuid.UUID
    owner_epoch: int
    """The write epoch of the owner when the source was claimed: a cleanup of the owner fences this work too."""
    url: str
    title: str | None
    text: str
    content_hash: bytes


@dataclass(frozen=True, slots=True)
class NewExtraction:
    """A chunk to store; its id is its point's."""

    id: uuid.UUID
    source: ClaimedSource
    chunk_number: int
    text: str
    heading: str
    start: int
    end: int
    tokens: int


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """Chunks of one source whose ids are written and whose points are there."""

    source: ClaimedSource
    chunks: Sequence[NewExtraction]
    is_last: bool
    """Whether these and those before them are all the chunks that it has."""


class Owned(Protocol):
    """A source, as far as its owner matters: `ClaimedSource` is one."""

    @property
    def owner_job_id(self) -> uuid.UUID:
        """The job that owns it."""
        ...

    @property
    def owner_epoch(self) -> int:
        """The owner's write epoch when it was claimed."""
        ...


def new_extraction_id(job_id: uuid.UUID, source: ClaimedSource, chunk_number: int, embedder: str) -> uuid.UUID:
    """The id of a chunk of this source in this job."""
    return extraction_id(job_id, source.id, source.content_hash, chunk_number, embedder)


async def release_tasks(connection: AsyncConnection, job_id: uuid.UUID, *, claim: uuid.UUID | None = None) -> None:
    """Gives back claimed sources: those of one slice, or all that a dead one left."""
    tasks = extraction_tasks
    mine = [tasks.c.job_id == job_id, tasks.c.state == "claimed"]
    if claim is not None:
        mine.append(tasks.c.claim == claim)
    statement = sa.update(tasks).where(tasks.c.job_id == job_id, locked(tasks, *mine))
    await connection.execute(statement.values(state="pending", claim=None))


async def claim_tasks(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, *, limit: int
) -> list[ClaimedSource]:
    """Takes sources to extract, in the order in which they were stored.

    One that is being forgotten is left out: its task goes with it, or is skipped when the job ends before that.

    Raises:
        Fenced: Some of them are being cleaned up by the job that owns them.
    """
    claimed: list[ClaimedSource] = []
    for *values, artifacts in await connection.execute(_CLAIM, {"job": job_id, "new_claim": claim, "most": limit}):
        source = ClaimedSource(*values)
        if artifacts != Artifacts.PRESENT.value:
            raise Fenced(f"The sources of job {source.owner_job_id} are being cleaned up.")
        claimed.append(source)
    return claimed


def _claim() -> sa.Executable:
    due = (
        sa.select(extraction_tasks.c.source_id)
        .where(
            extraction_tasks.c.job_id == sa.bindparam("job"),
            extraction_tasks.c.state == "pending",
            ~is_forgotten(extraction_tasks),
        )
        .order_by(extraction_tasks.c.seq)
        .limit(sa.bindparam("most"))
        .with_for_update(skip_locked=True)
    )
    taken = (
        sa.update(extraction_tasks)
        .where(extraction_tasks.c.job_id == sa.bindparam("job"), among_found(extraction_tasks.c.source_id, due))
        .values(state="claimed", claim=sa.bindparam("new_claim"))
        .returning(extraction_tasks.c.source_id, extraction_tasks.c.seq)
        .cte("taken")
    )
    return (
        sa.select(
            sources.c.id,
            sources.c.job_id,
            jobs.c.write_epoch,
            sources.c.url,
            sources.c.title,
            sources.c.text,
            sources.c.content_hash,
            jobs.c.artifacts,
        )
        .join_from(taken, sources, sources.c.id == taken.c.source_id)
        .join(jobs, jobs.c.id == sources.c.job_id)
        .order_by(taken.c.seq)
    )


async def hold_fences(connection: AsyncConnection, job_id: uuid.UUID, epoch: int, claimed: Sequence[Owned]) -> None:
    """Holds the job's fence, and that of every other job whose sources these are.

    Raises:
        Fenced: The job may not be written any more, or an owner was cleaned meanwhile.
    """
    await hold_fence(connection, job_id, epoch)
    owners = {s.owner_job_id: s.owner_epoch for s in claimed if s.owner_job_id != job_id}
    if not owners:
        return
    statement = (
        sa.select(jobs.c.id, jobs.c.write_epoch)
        .where(among(jobs.c.id, owners))
        .order_by(jobs.c.id)
        .with_for_update(read=True)
    )
    epochs = {record.id: record.write_epoch for record in await connection.execute(statement)}
    for owner, expected in owners.items():
        if epochs.get(owner) != expected:
            raise Fenced(f"The sources of job {owner} were cleaned up meanwhile.")


async def write_extractions(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claimed: Sequence[ClaimedSource],
    batch: Sequence[NewExtraction],
    *,
    embedder: str,
    collection: str,
) -> None:
    """Writes chunks as `pending`: rows first, so that no point is ever without its row.

    Only what they are known by: a row that becomes `ready` is written anew, and its text and its stems with it.

    Raises:
        Fenced: The job may not be written any more.
    """
    await hold_fences(connection, job_id, epoch, claimed)
    if not batch:
        return
    columns = {
        "all_id": [e.id for e in batch],
        "all_owner_job_id": [e.source.owner_job_id for e in batch],
        "all_source_id": [e.source.id for e in batch],
        "all_chunk_number": [e.chunk_number for e in batch],
    }
    same = {"job_id": job_id, "embedder": embedder, "collection": collection, "epoch": epoch}
    await connection.execute(_WRITE_EXTRACTIONS, columns | same)


def _incoming(*names: str) -> sa.TableValuedAlias:
    """Chunks as an array for each column: the same rows one by one cost the event loop twice as much."""
    arrays = (sa.bindparam(f"all_{name}", type_=ARRAY(extractions.c[name].type)) for name in names)
    columns = (sa.column(name, extractions.c[name].type) for name in names)
    return sa.func.unnest(*arrays).table_valued(*columns, with_ordinality="place").render_derived()


def _write_extractions() -> sa.Executable:
    arrays = ("id", "owner_job_id", "source_id", "chunk_number")
    incoming = _incoming(*arrays)
    same = ("job_id", "embedder", "collection", "epoch")
    values = [sa.bindparam(name, type_=extractions.c[name].type) for name in same]
    rows = sa.select(*(incoming.c[name] for name in arrays), *values, *map(sa.literal_column, _NO_TEXT.values()))
    into = insert(extractions).from_select([*arrays, *same, *_NO_TEXT], rows.order_by(incoming.c.place))
    return into.on_conflict_do_nothing()


_NO_TEXT: Final = {"text": "''", "start": "0", "end": "0", "tokens": "0"}
_OF_A_TEXT: Final = ("text", "heading", "start", "end", "tokens")
_WRITE_EXTRACTIONS: Final = _write_extractions()


async def finish_pieces(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    stored: Sequence[StoredPiece],
    *,
    find_entities: bool,
) -> Counters:
    """Marks chunks `ready`, now that their points are there, ends the sources that have no more, and counts both.

    A chunk is counted when it becomes `ready`, so that none which an earlier attempt stored is counted twice.

    Args:
        connection: The transaction.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the sources were claimed.
        stored: What is stored of each source, each once.
        find_entities: Whether the entities lane is told of the sources that end here.

    Returns:
        The lane's totals.
    """
    await hold_fences(connection, job_id, epoch, [piece.source for piece in stored])
    # Before the lease, so that the lane's commits take turns only at the little that follows.
    ready = await _make_ready(connection, [chunk for piece in stored for chunk in piece.chunks])
    await hold_lease(connection, job_id, Lane.EXTRACT, claim)
    ids = [piece.source.id for piece in stored if piece.is_last]
    ended = {"job": job_id, "sources": ids, "of_claim": claim}
    mine = set((await connection.execute(_DONE, ended)).scalars()) if ids else set()
    if find_entities and mine:
        queued = [{"job_id": job_id, "source_id": source} for source in ids if source in mine]
        await connection.execute(insert(entity_tasks).on_conflict_do_nothing(), queued)
    await settle_letters(connection, job_id, "source", dict.fromkeys(mine, False))
    made = Counters(sources_extracted=len(mine), extractions=ready, vectors=ready)
    return await add_progress(connection, job_id, Lane.EXTRACT, made)


async def _make_ready(connection: AsyncConnection, chunks: Sequence[NewExtraction]) -> int:
    """Writes the texts of chunks that are `pending`, which makes them `ready`; returns how many were."""
    if not chunks:
        return 0
    # The plan is kept. One that is made while the table is small would read all of it, and its successors, each time.
    await connection.execute(_BY_INDEX)
    columns = {f"all_{name}": [getattr(chunk, name) for chunk in chunks] for name in ("id", *_OF_A_TEXT)}
    return (await connection.execute(_READY, columns)).rowcount


def _ready() -> sa.Executable:
    incoming = _incoming("id", *_OF_A_TEXT)
    return (
        sa.update(extractions)
        .where(extractions.c.id == incoming.c.id, extractions.c.state == "pending")
        .values(state="ready", **{name: incoming.c[name] for name in _OF_A_TEXT})
    )


def _done() -> sa.Executable:
    tasks = extraction_tasks
    of_job = tasks.c.job_id == sa.bindparam("job")
    these = sa.bindparam("sources", type_=ARRAY(tasks.c.source_id.type))
    is_mine = [tasks.c.claim == sa.bindparam("of_claim"), tasks.c.state == "claimed"]
    ended = locked(tasks, of_job, tasks.c.source_id == sa.any_(these), *is_mine)
    done = sa.update(tasks).where(of_job, ended).values(state="done", claim=None)
    return done.returning(tasks.c.source_id)


_BY_INDEX: Final = sa.text("SET LOCAL enable_seqscan = off")
_READY: Final = _ready()
_DONE: Final = _done()


async def fail_task(
    connection: AsyncConnection, job_id: uuid.UUID, epoch: int, claim: uuid.UUID, letter: DeadLetter
) -> Counters:
    """Turns a source that cannot be extracted into a dead letter."""
    await hold_fence(connection, job_id, epoch)
    await hold_lease(connection, job_id, Lane.EXTRACT, claim)
    statement = sa.update(extraction_tasks).where(
        extraction_tasks.c.job_id == job_id,
        extraction_tasks.c.source_id == letter.subject_id,
        extraction_tasks.c.claim == claim,
    )
    found = await connection.execute(statement.values(state="failed", claim=None, attempts=letter.attempts))
    if not found.rowcount:
        return await add_progress(connection, job_id, Lane.EXTRACT, Counters())
    await settle_letters(connection, job_id, "source", {letter.subject_id: True})
    await write_dead_letters(connection, job_id, [letter])
    return await add_progress(connection, job_id, Lane.EXTRACT, Counters(dead_letters=1))


async def open_tasks(connection: AsyncConnection, job_id: uuid.UUID, tasks: sa.Table = extraction_tasks) -> int:
    """How many sources a lane has still to do, claimed ones included.

    Those that are being forgotten do not count, as nobody may claim them: a cleanup that was terminated can leave its
    receipt running for as long as nobody reads it, and the lane is not to wait for that.
    """
    statement = (
        sa.select(sa.func.count())
        .select_from(tasks)
        .where(tasks.c.job_id == job_id, tasks.c.state.in_(_OPEN), ~is_forgotten(tasks))
    )
    return int((await connection.execute(statement)).scalar_one())


def is_forgotten(tasks: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a cleanup that forgets the task's source has begun and is not closed."""
    receipt = sa.select(sa.literal(1)).where(
        cleanups.c.source_id == tasks.c.source_id, cleanups.c.status == CleanupStatus.RUNNING.value
    )
    return sa.exists(receipt)


_CLAIM: Final = _claim()
