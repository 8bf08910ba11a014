"""The client's methods about the named entities of a project."""

from collections.abc import AsyncIterator

from ke.client_http import Calls, each, segment
from ke.client_types import MentioningSource, MergedEntity, Neighbour, Page


class EntityCalls(Calls):
    """What a client asks about entities: mentions, by all jobs of a project, that mean the same."""

    async def list_merged_entities(
        self,
        *,
        project: str | None = None,
        label: str | None = None,
        q: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[MergedEntity]:
        """The entities that jobs have found, most mentioned first.

        Args:
            project: Only those of this project; None: of all, in each of which a name is an entity of its own.
            label: Only this label, such as `PERSON`; `all`: all; None: names, and no values such as `DATE`.
            q: The beginning of a name, in any case.
            limit: Entries, at most 200.
            cursor: `next_cursor` of the answer before.
        """
        page: Page[MergedEntity] = await self._list("/entities", limit, cursor, project=project, label=label, q=q)
        return page

    async def iterate_merged_entities(
        self, *, project: str | None = None, label: str | None = None, q: str | None = None
    ) -> AsyncIterator[MergedEntity]:
        """All entities that `list_merged_entities` would list, page by page."""

        async def fetch(cursor: str | None) -> Page[MergedEntity]:
            return await self.list_merged_entities(project=project, label=label, q=q, limit=200, cursor=cursor)

        async for item in each(fetch):
            yield item

    async def get_merged_entity(self, entity_id: str) -> MergedEntity:
        """One entity, with its spellings and numbers."""
        entity: MergedEntity = await self._call("GET", f"/entities/{segment(entity_id)}")
        return entity

    async def list_mentioning_sources(
        self, entity_id: str, *, limit: int = 50, cursor: str | None = None
    ) -> Page[MentioningSource]:
        """The documents that mention an entity."""
        page: Page[MentioningSource] = await self._list(f"/entities/{segment(entity_id)}/sources", limit, cursor)
        return page

    async def list_neighbours(self, entity_id: str, *, label: str | None = None, limit: int = 50) -> list[Neighbour]:
        """The entities that are mentioned in the same chunks, those with the most common chunks first.

        `label` is that of `list_merged_entities`.
        """
        params = {"label": label, "limit": limit}
        found = await self._call("GET", f"/entities/{segment(entity_id)}/neighbours", params=params)
        neighbours: list[Neighbour] = found["data"]
        return neighbours
