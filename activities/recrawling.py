"""Crawling again what an earlier job has crawled: what is asked for, and what the answers mean."""

import uuid
from dataclasses import dataclass

from ke.contracts.jobs import CollectSpec
from ke.storage.frontier import HAD_CONTENT, NO_MORE, EarlierPage, FrontierEntry
from ke.web.response import Response
from ke.web.urls import host_key


@dataclass(frozen=True, slots=True)
class Recrawl:
    """How this job's pages relate to the earlier one's."""

    spec: CollectSpec
    earlier: CollectSpec | None
    """What the earlier job was to fetch; None when there is none, or what it made is deleted."""
    same_reach: bool = False
    """Whether the earlier job has followed every link that this one follows, depth aside."""
    same_text: bool = False
    """Whether both make the same text of the same page: read in the same way, and both or neither by a browser."""

    @classmethod
    def of(cls, spec: CollectSpec, earlier: CollectSpec | None) -> "Recrawl":
        """The relation of two jobs."""
        if earlier is None:
            return cls(spec, None)
        hosts, before = (frozenset(host_key(url) for url in s.urls) for s in (spec, earlier))
        followed = (
            earlier.follow and spec.scope == earlier.scope and spec.browser == earlier.browser and hosts <= before
        )
        same_text = spec.reading == earlier.reading and spec.browser == earlier.browser
        return cls(spec, earlier, same_reach=not spec.follow or followed, same_text=same_text)

    def knows_links(self, entry: FrontierEntry) -> bool:
        """Whether the links of this page are in the frontier, should it be the same as before.

        An answer that nothing has changed has no body, so links that the earlier job left aside would be lost.
        """
        before = entry.earlier
        if before is None or self.earlier is None or not self.same_reach:
            return False
        if before.state == "gone":
            return False
        if not self.spec.follow or entry.depth >= self.spec.limits.max_depth:
            return True
        return before.depth < self.earlier.limits.max_depth

    def conditions(self, entry: FrontierEntry) -> EarlierPage | None:
        """What the page is asked for against: its earlier self, where an answer without a body is enough."""
        before = entry.earlier
        if not self.same_text or self.spec.browser or before is None or before.source_id is None:
            # What scripts make of a page may change while the page itself does not.
            return None
        return before if self.knows_links(entry) else None

    def document(self, entry: FrontierEntry, url: str) -> uuid.UUID | None:
        """The document that a page had at this address, which is still stored, read as this job reads pages."""
        before = entry.earlier
        if not self.same_text or before is None:
            return None
        if before.state == "gone":
            # It may have been a redirect before. The hash is not known where its document was read in another way.
            is_known = before.content_hash is not None and url in {before.url, before.source_url}
            return before.source_id if is_known else None
        return before.source_id if before.url == url else None

    def is_same(self, entry: FrontierEntry, url: str, content_hash: bytes) -> bool:
        """Whether a page is at the address, and has the content, that it had, of which the document is still stored."""
        before = entry.earlier
        return before is not None and self.document(entry, url) is not None and before.content_hash == content_hash


def is_gone(entry: FrontierEntry, response: Response) -> bool:
    """Whether a page was there, or has a document from when it was, and is not there any more."""
    before = entry.earlier
    if before is None or response.status not in NO_MORE:
        return False
    return before.state in HAD_CONTENT or (before.state == "gone" and before.source_id is not None)


def was_gone(entry: FrontierEntry, response: Response) -> bool:
    """Whether a page that nobody asked for by its address was gone and forgotten before, and is not there still."""
    before = entry.earlier
    if before is None or entry.depth == 0 or response.status not in NO_MORE:
        return False
    return before.state == "gone" or (before.state == "skipped" and before.http_status in NO_MORE)
