"""The client's methods about the documents of all jobs, by their URLs."""

from collections.abc import AsyncIterator

from ke.client_http import Calls, each, segment
from ke.client_types import Page, Source, SourceItem


class SourceCalls(Calls):
    """What a client asks about documents, by whichever job they were stored."""

    async def find_sources(
        self, *, url: str | None = None, url_prefix: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[SourceItem]:
        """The documents with a URL, or with URLs that begin so, by URL and of each the newest first.

        Args:
            url: Exactly this one, in any spelling; or
            url_prefix: what the URL begins with.
            limit: Entries, at most 200.
            cursor: `next_cursor` of the answer before.
        """
        page: Page[SourceItem] = await self._list("/sources", limit, cursor, url=url, url_prefix=url_prefix)
        return page

    async def iterate_found_sources(self, *, url_prefix: str) -> AsyncIterator[SourceItem]:
        """All documents that `find_sources` would list, page by page."""
        async for item in each(lambda cursor: self.find_sources(url_prefix=url_prefix, limit=200, cursor=cursor)):
            yield item

    async def get_source(self, source_id: str) -> Source:
        """A stored document with its text."""
        source: Source = await self._call("GET", f"/sources/{segment(source_id)}")
        return source
