"""The named entities of a project, and which are mentioned together."""

import uuid

from api.items import MentioningSourceItem, MergedEntityItem, NeighbourItem, NeighbourList
from api.pagination import RankSlice, Slice
from api.resources import Gateway
from api.views import PageOf
from ke.contracts.merging import merge_key
from ke.storage import merged_entities
from ke.storage.merged_entities import EntityFilter, MergedEntity, Ranked


def _rank(entity: MergedEntity) -> tuple[int, uuid.UUID]:
    return entity.mentions, entity.id


async def entities(
    gateway: Gateway, part: RankSlice, *, project: str | None, label: str | None, q: str | None
) -> PageOf[MergedEntityItem]:
    """The entities of a project, or of all, most mentioned first."""
    which = EntityFilter(project, label, merge_key(q) if q is not None else "")
    after = Ranked(*part.after) if part.after is not None else None
    async with gateway.database.transaction() as connection:
        rows = await merged_entities.list_entities(connection, which, limit=part.fetch, after=after)
    data = [MergedEntityItem.of(row) for row in rows[: part.limit]]
    return PageOf(data=data, next_cursor=part.next_cursor(rows, _rank))


async def entity(gateway: Gateway, entity_id: uuid.UUID) -> MergedEntityItem:
    """One entity.

    Raises:
        NotFound: Nothing mentions it.
    """
    async with gateway.database.transaction() as connection:
        return MergedEntityItem.of(await merged_entities.get_entity(connection, entity_id))


async def mentioning(gateway: Gateway, entity_id: uuid.UUID, part: Slice) -> PageOf[MentioningSourceItem]:
    """The documents that mention an entity.

    Raises:
        NotFound: None does.
    """
    async with gateway.database.transaction() as connection:
        await merged_entities.check_entity(connection, entity_id)
        rows = await merged_entities.list_mentioning(connection, entity_id, limit=part.fetch, after=part.after)
    data = [MentioningSourceItem.of(row) for row in rows[: part.limit]]
    return PageOf(data=data, next_cursor=part.next_cursor(rows, lambda row: row.seq))


async def neighbours(gateway: Gateway, entity_id: uuid.UUID, *, limit: int, label: str | None) -> NeighbourList:
    """What is mentioned together with an entity.

    Raises:
        NotFound: Nothing mentions the entity.
    """
    async with gateway.database.transaction() as connection:
        await merged_entities.check_entity(connection, entity_id)
        rows = await merged_entities.list_neighbours(connection, entity_id, limit=limit, label=label)
    return NeighbourList(data=[NeighbourItem.near(row) for row in rows])
