"""The named entities of a project: what all its jobs have found, merged by name."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query

from api.items import MentioningSourceItem, MergedEntityItem, NeighbourList
from api.pagination import Cursor, Limit, rank_slice_of, slice_of
from api.resources import GatewayDep
from api.schemas import EntityLabel, EntityName, ProjectName
from api.service import entities
from api.views import PageOf

router = APIRouter(prefix="/entities", tags=["entities"])

EntityId = Annotated[UUID, Path(description="The entity")]
Project = Annotated[ProjectName | None, Query(description="Only those of this project; without it: of all projects")]
Label = Annotated[
    EntityLabel | None,
    Query(description="Only this label: PERSON, ORG, DATE, ...; `all`: all; without it: names, no values"),
]
Q = Annotated[EntityName | None, Query(description="The beginning of a name, in any case")]


@router.get("", operation_id="listMergedEntities", summary="List entities")
async def list_merged_entities(
    gateway: GatewayDep,
    project: Project = None,
    label: Label = None,
    q: Q = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> PageOf[MergedEntityItem]:
    """Shows the entities that jobs have found, most mentioned first; one name in two projects is two entities.

    Without `label` those that are names: no CARDINAL, DATE, MONEY, ORDINAL, PERCENT, QUANTITY or TIME.
    Numbers are those of now: while jobs find more, an entity may move past the place of a cursor.
    """
    part = rank_slice_of(gateway.cursor_key, limit, cursor, "merged-entities", project, label, q)
    return await entities.entities(gateway, part, project=project, label=label, q=q)


@router.get("/{entity_id}", operation_id="getMergedEntity", summary="Read an entity")
async def get_merged_entity(gateway: GatewayDep, entity_id: EntityId) -> MergedEntityItem:
    """Reads an entity with its spellings and numbers; 404 as soon as nothing mentions it."""
    return await entities.entity(gateway, entity_id)


@router.get("/{entity_id}/sources", operation_id="listMentioningSources", summary="List what mentions an entity")
async def list_mentioning_sources(
    gateway: GatewayDep, entity_id: EntityId, limit: Limit = 50, cursor: Cursor = None
) -> PageOf[MentioningSourceItem]:
    """Shows the documents that mention an entity, in the order in which they were stored."""
    part = slice_of(gateway.cursor_key, limit, cursor, "mentioning", entity_id)
    return await entities.mentioning(gateway, entity_id, part)


@router.get("/{entity_id}/neighbours", operation_id="listNeighbours", summary="List an entity's neighbours")
async def list_neighbours(
    gateway: GatewayDep, entity_id: EntityId, label: Label = None, limit: Limit = 50
) -> NeighbourList:
    """Shows the entities that are mentioned in the same chunks, those with the most common chunks first.

    Without `label` those that are names, as in the list.
    """
    return await entities.neighbours(gateway, entity_id, limit=limit, label=label)
