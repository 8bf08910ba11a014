"""Which pages of a batch say what the job has stored already."""

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import source_id
from ke.storage.arrays import among_given
from ke.storage.tables import sources

if TYPE_CHECKING:
    from ke.storage.collecting import PageOutcome


_TWINS: Final = sa.select(
    sources.c.id,
    sources.c.url,
    sources.c.title,
    sa.func.sha256(sa.func.convert_to(sources.c.text, "UTF8")).label("text_digest"),
    sources.c.content_hash,
).where(
    sources.c.job_id == sa.bindparam("job"),
    sa.or_(among_given(sources.c.content_hash, "hashes"), among_given(sources.c.id, "ids")),
)


@dataclass(frozen=True, slots=True)
class Twin:
    """A source that the job has, or that a page before in the batch will make."""

    id: uuid.UUID
    url: str
    title: str | None
    text_digest: bytes
    """SHA-256 of its text; of an empty one that is the same as of any other."""


class Twins:
    """What the job has stored of what a batch says, the batch itself included as far as it was gone through.

    A page is the same as a source when their bodies are, byte for byte, or when it was led to the source's address by
    a redirect. What it names as its canonical address is no proof: sites are known that name their home page on every
    page. It counts only where the source at that address has the same title and the same text, and there is some.
    """

    def __init__(self, job_id: uuid.UUID) -> None:
        self._job_id = job_id
        self._by_hash: dict[bytes, Twin] = {}
        self._by_url: dict[str, Twin] = {}

    @classmethod
    async def of(cls, connection: AsyncConnection, job_id: uuid.UUID, outcomes: "Sequence[PageOutcome]") -> "Twins":
        """The sources that this batch may be the same as."""
        twins = cls(job_id)
        documents = [o.document for o in outcomes if o.document]
        if not documents:
            return twins
        named = {d.url for d in documents} | {o.canonical for o in outcomes if o.document and o.canonical}
        values = {
            "job": job_id,
            "hashes": [d.content_hash for d in documents],
            "ids": [source_id(job_id, url) for url in named],
        }
        for record in await connection.execute(_TWINS, values):
            twins._add(Twin(record.id, record.url, record.title, record.text_digest), record.content_hash)
        return twins

    def of_page(self, outcome: "PageOutcome") -> Twin | None:
        """The source that this page is the same as; when there is none, the page is one from now on."""
        document = outcome.document
        if document is None:
            return None
        digest = hashlib.sha256(document.text.encode()).digest()
        twin = self._by_hash.get(document.content_hash) or self._by_url.get(document.url)
        if twin is None and outcome.canonical and document.text:
            named = self._by_url.get(outcome.canonical)
            if named is not None and (named.title, named.text_digest) == (document.title, digest):
                twin = named
        if twin is None:
            mine = Twin(source_id(self._job_id, document.url), document.url, document.title, digest)
            self._add(mine, document.content_hash)
        return twin

    def _add(self, twin: Twin, content_hash: bytes) -> None:
        self._by_hash[content_hash] = twin
        self._by_url[twin.url] = twin
