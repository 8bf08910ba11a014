"""The entities lane's rows: which extracted sources are to do, and the mentions that were found in their chunks."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import Fenced
from ke.contracts.ids import entity_id, merged_entity_id
from ke.contracts.jobs import Artifacts, Counters, Lane
from ke.contracts.merging import merge_key
from ke.storage.arrays import among_found
from ke.storage.dead_letters import DeadLetter, settle_letters, write_dead_letters
from ke.storage.extracting import hold_fences, is_forgotten
from ke.storage.jobs import add_progress, hold_lease
from ke.storage.tables import entities, entity_tasks, extractions, jobs, sources


@dataclass(frozen=True, slots=True)
class SearchedSource:
    """An extracted source whose entities are to be found."""

    id: uuid.UUID
    owner_job_id: uuid.UUID
    owner_epoch: int
    """The write epoch of the owner when the source was claimed: a cleanup of the owner fences this work too."""
    url: str
    seq: int
    """Its place in the lane."""


@dataclass(frozen=True, slots=True)
class ReadyChunk:
    """A chunk of a claimed source that is searchable, and whose entities are not stored yet."""

    seq: int
    """The place of its source in the lane."""
    source_id: uuid.UUID
    id: uuid.UUID
    number: int
    text: str
    tokens: int


@dataclass(frozen=True, slots=True)
class EntityMention:
    """A named entity in a chunk, by characters into the chunk, as it is stored."""

    id: uuid.UUID
    extraction_id: uuid.UUID
    text: str
    label: str
    start: int
    end: int
    key: str
    """What all spellings of the entity have in common."""
    merged_id: uuid.UUID
    """The entity, in the job's project."""

    @classmethod
    def of(cls, project: str, chunk_id: uuid.UUID, text: str, label: str, span: tuple[int, int]) -> "EntityMention":
        """The mention at this place of a chunk."""
        key = merge_key(text)
        return cls(
            id=entity_id(chunk_id, *span, label),
            extraction_id=chunk_id,
            text=text,
            label=label,
            start=span[0],
            end=span[1],
            key=key,
            merged_id=merged_entity_id(project, label, key),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a source is."""

    next_chunk: int
    """The entities of the chunks before it are found."""
    done: bool
    """Whether these are all."""


async def project_of(connection: AsyncConnection, job_id: uuid.UUID) -> str:
    """The project of a job that exists."""
    project: str = (await connection.execute(sa.select(jobs.c.project).where(jobs.c.id == job_id))).scalar_one()
    return project


async def release_sources(connection: AsyncConnection, job_id: uuid.UUID, *, claim: uuid.UUID | None = None) -> None:
    """Gives back claimed sources: those of one slice, or all that a dead one left."""
    mine = sa.and_(entity_tasks.c.job_id == job_id, entity_tasks.c.state == "claimed")
    if claim is not None:
        mine = sa.and_(mine, entity_tasks.c.claim == claim)
    await connection.execute(sa.update(entity_tasks).where(mine).values(state="pending", claim=None))


async def claim_sources(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, *, limit: int
) -> list[SearchedSource]:
    """Takes sources, in the order in which they were extracted; one that is being forgotten is left out.

    Raises:
        Fenced: Some of them are being cleaned up by the job that owns them.
    """
    due = (
        sa.select(entity_tasks.c.source_id)
        .where(entity_tasks.c.job_id == job_id, entity_tasks.c.state == "pending", ~is_forgotten(entity_tasks))
        .order_by(entity_tasks.c.seq)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        sa.update(entity_tasks)
        .where(entity_tasks.c.job_id == job_id, among_found(entity_tasks.c.source_id, due))
        .values(state="claimed", claim=claim)
        .returning(entity_tasks.c.source_id, entity_tasks.c.seq)
        .cte("taken")
    )
    statement = (
        sa.select(sources.c.id, sources.c.job_id, jobs.c.write_epoch, sources.c.url, taken.c.seq, jobs.c.artifacts)
        .join_from(taken, sources, sources.c.id == taken.c.source_id)
        .join(jobs, jobs.c.id == sources.c.job_id)
        .order_by(taken.c.seq)
    )
    claimed: list[SearchedSource] = []
    for *values, artifacts in await connection.execute(statement):
        source = SearchedSource(*values)
        if artifacts != Artifacts.PRESENT.value:
            raise Fenced(f"The sources of job {source.owner_job_id} are being cleaned up.")
        claimed.append(source)
    return claimed


async def load_chunks(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    source_ids: Sequence[uuid.UUID],
    *,
    after: tuple[int, int],
    limit: int,
) -> list[ReadyChunk]:
    """The next chunks of claimed sources, source by source, in the order of the text.

    Args:
        connection: The transaction.
        job_id: The job.
        source_ids: The sources.
        after: The place of a source in the lane and the number of a chunk: where the ones before ended.
        limit: Chunks at most.
    """
    place = sa.tuple_(entity_tasks.c.seq, extractions.c.chunk_number)
    statement = (
        sa.select(
            entity_tasks.c.seq,
            entity_tasks.c.source_id,
            extractions.c.id,
            extractions.c.chunk_number,
            extractions.c.text,
            extractions.c.tokens,
        )
        .join(extractions, extractions.c.source_id == entity_tasks.c.source_id)
        .where(
            entity_tasks.c.job_id == job_id,
            entity_tasks.c.source_id.in_(source_ids),
            # Not by an index: the planner would sooner read the places of all chunks of the job than a few too many.
            sa.func.coalesce(extractions.c.job_id == job_id, sa.false()),
            extractions.c.state == "ready",
            extractions.c.chunk_number >= entity_tasks.c.next_chunk,
            place > sa.tuple_(*after),
        )
        .order_by(entity_tasks.c.seq, extractions.c.chunk_number)
        .limit(limit)
    )
    return [ReadyChunk(*record) for record in await connection.execute(statement)]


async def write_found(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    project: str,
    reached: Mapping[SearchedSource, Progress],
    found: Sequence[EntityMention],
) -> Counters:
    """Stores mentions with how far their sources are, and counts what is new: done twice it is done once.

    Args:
        connection: The transaction.
        job_id: The job.
        epoch: The write epoch under which the slice works.
        claim: Under which the sources were claimed.
        project: The job's project.
        reached: How far each source is.
        found: The mentions in the chunks in between.

    Returns:
        The lane's totals.

    Raises:
        Fenced: The job may not be written any more, or an owner was cleaned meanwhile.
        WorkLost: Another slice has taken the lane over.
    """
    await hold_fences(connection, job_id, epoch, list(reached))
    await hold_lease(connection, job_id, Lane.ENTITIES, claim)
    new = await _insert(connection, job_id, project, found)
    await _advance(connection, job_id, claim, reached)
    done = [source.id for source, progress in reached.items() if progress.done]
    await settle_letters(connection, job_id, "source", dict.fromkeys(done, False))
    delta = Counters(entities=new, entity_sources=len(done))
    return await add_progress(connection, job_id, Lane.ENTITIES, delta)


async def _insert(connection: AsyncConnection, job_id: uuid.UUID, project: str, found: Sequence[EntityMention]) -> int:
    """Inserts mentions in one statement; returns how many were not there before."""
    if not found:
        return 0
    names = [field.name for field in fields(EntityMention)]
    arrays = [
        sa.bindparam(f"m_{name}", [getattr(mention, name) for mention in found], type_=ARRAY(entities.c[name].type))
        for name in names
    ]
    rows = sa.func.unnest(*arrays).table_valued(*names, name="found").render_derived()
    chosen = sa.select(sa.literal(job_id), sa.literal(project), *(rows.c[name] for name in names))
    statement = insert(entities).from_select(["job_id", "project", *names], chosen).on_conflict_do_nothing()
    return (await connection.execute(statement)).rowcount


async def _advance(
    connection: AsyncConnection, job_id: uuid.UUID, claim: uuid.UUID, reached: Mapping[SearchedSource, Progress]
) -> None:
    if not reached:
        return
    task: sa.BindParameter[uuid.UUID] = sa.bindparam("task")
    statement = (
        sa.update(entity_tasks)
        .where(entity_tasks.c.job_id == job_id, entity_tasks.c.source_id == task, entity_tasks.c.claim == claim)
        .values(
            next_chunk=sa.bindparam("chunk"),
            state=sa.bindparam("new_state"),
            claim=sa.bindparam("new_claim", type_=entity_tasks.c.claim.type),
        )
    )
    values = [
        {
            "task": source.id,
            "chunk": progress.next_chunk,
            "new_state": "done" if progress.done else "claimed",
            "new_claim": None if progress.done else claim,
        }
        for source, progress in reached.items()
    ]
    await connection.execute(statement, values)


async def fail_source(
    connection: AsyncConnection,
    job_id: uuid.UUID,
    epoch: int,
    claim: uuid.UUID,
    source: SearchedSource,
    letter: DeadLetter,
) -> Counters:
    """Turns a source in which no entities can be found into a dead letter; what was found in it before stays.

    Raises:
        Fenced: The job may not be written any more, or the owner was cleaned meanwhile.
        WorkLost: Another slice has taken the lane over.
    """
    await hold_fences(connection, job_id, epoch, [source])
    await hold_lease(connection, job_id, Lane.ENTITIES, claim)
    statement = sa.update(entity_tasks).where(
        entity_tasks.c.job_id == job_id, entity_tasks.c.source_id == source.id, entity_tasks.c.claim == claim
    )
    found = await connection.execute(statement.values(state="failed", claim=None, attempts=letter.attempts))
    if not found.rowcount:
        return await add_progress(connection, job_id, Lane.ENTITIES, Counters())
    await settle_letters(connection, job_id, "source", {source.id: True})
    await write_dead_letters(connection, job_id, [letter])
    return await add_progress(connection, job_id, Lane.ENTITIES, Counters(dead_letters=1))
