"""Named entities as a project has them: mentions with one label and one merge key, counted when they are read.

Nothing of this is stored beside the mentions, so a deletion takes its share of every number with it, at once. What a
search may not show counts for nothing: mentions by a job, or in a source of a job, that is being cleaned up.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.errors import NotFound
from ke.contracts.jobs import Artifacts
from ke.contracts.merging import ALL_LABELS, VALUE_LABELS
from ke.storage.tables import entities, extractions, jobs, sources

MAX_ALIASES: Final = 10
"""Other spellings that an entity tells, the most frequent ones."""

_HIDDEN: Final = (Artifacts.CLEANING.value, Artifacts.CLEANUP_FAILED.value)


@dataclass(frozen=True, slots=True)
class EntityFilter:
    """Which entities are meant: those that fit all that is given."""

    project: str | None = None
    """The project that they are of; None: any."""
    label: str | None = None
    """Their label; None: those of names; `ALL_LABELS`: all."""
    prefix: str = ""
    """The beginning of their merge keys."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A place in the order of entities: most mentioned first."""

    mentions: int
    id: uuid.UUID


@dataclass(frozen=True, slots=True)
class MergedEntity:
    """An entity of a project."""

    id: uuid.UUID
    project: str
    name: str
    """The most frequent spelling."""
    label: str
    aliases: tuple[str, ...]
    """The other ones, the most frequent first, at most `MAX_ALIASES`."""
    mentions: int
    sources: int
    """Documents that mention it."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entity that is mentioned together with another."""

    entity: MergedEntity
    together: int
    """Chunks that mention both."""


@dataclass(frozen=True, slots=True)
class MentioningSource:
    """A document that mentions an entity."""

    seq: int
    id: uuid.UUID
    job_id: uuid.UUID
    url: str
    title: str | None
    mentions: int


async def _visible(connection: AsyncConnection) -> sa.ColumnElement[bool]:
    """The condition that a mention may be shown; while nothing is being cleaned up it costs nothing."""
    hidden = (await connection.execute(sa.select(jobs.c.id).where(jobs.c.artifacts.in_(_HIDDEN)))).scalars().all()
    if not hidden:
        return sa.true()
    chunk = extractions.alias("hidden")
    theirs = sa.or_(chunk.c.job_id.in_(hidden), chunk.c.owner_job_id.in_(hidden))
    return ~sa.exists().where(chunk.c.id == entities.c.extraction_id, theirs).correlate(entities)


def _is_labelled(label: sa.ColumnElement[str], wanted: str | None) -> sa.ColumnElement[bool]:
    """The condition that a label is the one that is wanted, one of names where none is, or any where all are."""
    if wanted == ALL_LABELS:
        return sa.true()
    return label.not_in(VALUE_LABELS) if wanted is None else label == wanted


async def list_entities(
    connection: AsyncConnection, which: EntityFilter, *, limit: int, after: Ranked | None = None
) -> list[MergedEntity]:
    """The entities that fit, most mentioned first, at most `limit`, from after the place in `after`."""
    number = sa.func.count()
    statement = (
        sa.select(entities.c.merged_id, number.label("mentions"))
        .where(
            entities.c.merged_id.is_not(None) if which.project is None else entities.c.project == which.project,
            _is_labelled(entities.c.label, which.label),
            await _visible(connection),
        )
        .group_by(entities.c.merged_id)
        .order_by(number.desc(), entities.c.merged_id)
        .limit(limit)
    )
    if which.prefix:
        statement = statement.where(entities.c.key.startswith(which.prefix, autoescape=True))
    if after is not None:
        later = sa.and_(number == after.mentions, entities.c.merged_id > after.id)
        statement = statement.having(sa.or_(number < after.mentions, later))
    found = [Ranked(record.mentions, record.merged_id) for record in await connection.execute(statement)]
    described = await _describe(connection, found)
    return [described[place.id] for place in found if place.id in described]


async def get_entity(connection: AsyncConnection, key: uuid.UUID) -> MergedEntity:
    """An entity that is mentioned somewhere.

    Raises:
        NotFound: There is no such entity, or nothing that may be shown mentions it any more.
    """
    number = sa.select(sa.func.count()).where(entities.c.merged_id == key, await _visible(connection))
    mentions = int((await connection.execute(number)).scalar_one())
    described = await _describe(connection, [Ranked(mentions, key)] if mentions else [])
    if key not in described:
        raise NotFound(f"There is no entity {key}.")
    return described[key]


async def check_entity(connection: AsyncConnection, key: uuid.UUID) -> None:
    """Makes sure that something mentions an entity.

    Raises:
        NotFound: Nothing does that may be shown.
    """
    mention = sa.select(sa.literal(1)).where(entities.c.merged_id == key, await _visible(connection)).limit(1)
    if (await connection.execute(mention)).first() is None:
        raise NotFound(f"There is no entity {key}.")


async def list_mentioning(
    connection: AsyncConnection, key: uuid.UUID, *, limit: int, after: int | None = None
) -> list[MentioningSource]:
    """The documents that mention an entity, in the order in which they were stored."""
    statement = (
        sa.select(sources.c.seq, sources.c.id, sources.c.job_id, sources.c.url, sources.c.title, sa.func.count())
        .select_from(_in_sources().join(sources, sources.c.id == extractions.c.source_id))
        .where(entities.c.merged_id == key, extractions.c.state == "ready", await _visible(connection))
        .group_by(sources.c.id)
        .order_by(sources.c.seq)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(sources.c.seq > after)
    return [MentioningSource(*record) for record in await connection.execute(statement)]


async def list_neighbours(
    connection: AsyncConnection, key: uuid.UUID, *, limit: int, label: str | None = None
) -> list[Neighbour]:
    """The entities that are mentioned in the same chunks as this one, those with the most chunks first."""
    other = entities.alias("other")
    together = sa.func.count(sa.distinct(other.c.extraction_id))
    statement = (
        sa.select(other.c.merged_id, together.label("together"))
        .select_from(entities.join(other, other.c.extraction_id == entities.c.extraction_id))
        .where(
            entities.c.merged_id == key,
            other.c.merged_id != key,
            _is_labelled(other.c.label, label),
            await _visible(connection),
        )
        .group_by(other.c.merged_id)
        .order_by(together.desc(), other.c.merged_id)
        .limit(limit)
    )
    found = {record.merged_id: int(record.together) for record in await connection.execute(statement)}
    described = await _describe(connection, await _rank(connection, list(found)))
    return [Neighbour(described[near], number) for near, number in found.items() if near in described]


async def _rank(connection: AsyncConnection, keys: Sequence[uuid.UUID]) -> list[Ranked]:
    """How often these entities are mentioned."""
    statement = (
        sa.select(sa.func.count().label("mentions"), entities.c.merged_id)
        .where(entities.c.merged_id.in_(keys), await _visible(connection))
        .group_by(entities.c.merged_id)
    )
    return [Ranked(record.mentions, record.merged_id) for record in await connection.execute(statement)]


async def _describe(connection: AsyncConnection, ranked: Sequence[Ranked]) -> dict[uuid.UUID, MergedEntity]:
    """What is to be told of some entities."""
    keys = [place.id for place in ranked]
    if not keys:
        return {}
    visible = await _visible(connection)
    spellings = await _spellings(connection, keys, visible)
    n_sources = await _count_sources(connection, keys, visible)
    return {
        place.id: MergedEntity(
            id=place.id,
            project=spellings[place.id][0],
            label=spellings[place.id][1],
            name=spellings[place.id][2][0],
            aliases=tuple(spellings[place.id][2][1:]),
            mentions=place.mentions,
            sources=n_sources.get(place.id, 0),
        )
        for place in ranked
        if place.id in spellings
    }


async def _spellings(
    connection: AsyncConnection, keys: Sequence[uuid.UUID], visible: sa.ColumnElement[bool]
) -> dict[uuid.UUID, tuple[str, str, list[str]]]:
    """Project, label and spellings of each entity, the most frequent spelling first; line breaks make no spelling."""
    spelling = sa.func.regexp_replace(entities.c.text, r"\s+", " ", "g").label("spelling")
    mine = (
        sa.select(entities.c.merged_id, entities.c.project, entities.c.label, spelling, sa.func.count().label("number"))
        .where(entities.c.merged_id.in_(keys), visible)
        .group_by(entities.c.merged_id, entities.c.project, entities.c.label, spelling)
        .subquery()
    )
    order = (mine.c.number.desc(), mine.c.spelling)
    place = sa.func.row_number().over(partition_by=mine.c.merged_id, order_by=order).label("place")
    numbered = sa.select(mine, place).subquery()
    statement = sa.select(numbered).where(numbered.c.place <= MAX_ALIASES + 1)
    found: dict[uuid.UUID, tuple[str, str, list[str]]] = {}
    for record in await connection.execute(statement.order_by(numbered.c.merged_id, numbered.c.place)):
        found.setdefault(record.merged_id, (record.project, record.label, []))[2].append(record.spelling)
    return found


async def _count_sources(
    connection: AsyncConnection, keys: Sequence[uuid.UUID], visible: sa.ColumnElement[bool]
) -> dict[uuid.UUID, int]:
    number = sa.func.count(sa.distinct(extractions.c.source_id))
    statement = (
        sa.select(entities.c.merged_id, number)
        .select_from(_in_sources())
        .where(entities.c.merged_id.in_(keys), extractions.c.state == "ready", visible)
        .group_by(entities.c.merged_id)
    )
    return {record[0]: record[1] for record in await connection.execute(statement)}


def _in_sources() -> sa.FromClause:
    return entities.join(extractions, extractions.c.id == entities.c.extraction_id)
