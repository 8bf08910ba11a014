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
    from ke.storage.collecting import Document, PageOutcome


_SEPARATOR: Final = "\x1f"

_TWINS: Final = sa.select(
    sources.c.id,
    sources.c.url,
    sa.func.sha256(
        sa.func.convert_to(sa.func.coalesce(sources.c.title, "") + _SEPARATOR + sources.c.text, "UTF8")
    ).label("reading"),
    sources.c.content_hash,
    sources.c.canonical_hash,
).where(
    sources.c.job_id == sa.bindparam("job"),
    sa.or_(
        among_given(sources.c.content_hash, "hashes"),
        among_given(sources.c.id, "ids"),
        among_given(sources.c.canonical_hash, "canonicals"),
    ),
)


@dataclass(frozen=True, slots=True)
class Twin:
    """A source that the job has, or that a page before in the batch will make."""

    id: uuid.UUID
    url: str
    reading: bytes
    """SHA-256 of its title and text."""


class Twins:
    """What the job has stored of what a batch says, the batch itself included as far as it was gone through.

    A page is the same as a source when their bodies are, byte for byte, or when it was led to the source's address by
    a redirect. What it names as its canonical address is no proof: sites are known that name their home page on every
    page. It counts only between two that have the same title and the same text, and there is some: where one names
    the other's address, or both name the same. So it does not matter which of them comes first.
    """

    def __init__(self, job_id: uuid.UUID) -> None:
        self._job_id = job_id
        self._by_hash: dict[bytes, Twin] = {}
        self._by_url: dict[str, Twin] = {}
        self._by_canonical: dict[bytes, Twin] = {}

    @classmethod
    async def of(cls, connection: AsyncConnection, job_id: uuid.UUID, outcomes: "Sequence[PageOutcome]") -> "Twins":
        """The sources that this batch may be the same as."""
        twins = cls(job_id)
        read = [(o.document, o.canonical) for o in outcomes if o.document]
        if not read:
            return twins
        addresses = [(document, url) for document, canonical in read for url in (document.url, canonical) if url]
        values = {
            "job": job_id,
            "hashes": [document.content_hash for document, _ in read],
            "ids": [source_id(job_id, url) for url in {url for _, url in addresses}],
            "canonicals": [canonical_hash(document, url) for document, url in addresses if document.text],
        }
        for record in await connection.execute(_TWINS, values):
            twin = Twin(record.id, record.url, record.reading)
            twins._add(twin, record.content_hash, record.canonical_hash)
        return twins

    def of_page(self, outcome: "PageOutcome") -> Twin | None:
        """The source that this page is the same as; when there is none, the page is one from now on."""
        document = outcome.document
        if document is None:
            return None
        twin = self._by_hash.get(document.content_hash) or self._by_url.get(document.url)
        if twin is None and document.text:
            twin = self._by_its_word(document, outcome.canonical)
        if twin is None:
            mine = Twin(source_id(self._job_id, document.url), document.url, _reading(document))
            self._add(mine, document.content_hash, stored_canonical_hash(outcome))
        return twin

    def _by_its_word(self, document: "Document", canonical: str | None) -> Twin | None:
        """The source that reads the same, and names this page's address, or is named by it, or names what it names."""
        there = self._by_canonical.get(canonical_hash(document, document.url))
        if there is None and canonical:
            named = self._by_url.get(canonical)
            same = named is not None and named.reading == _reading(document)
            there = named if same else self._by_canonical.get(canonical_hash(document, canonical))
        return there

    def _add(self, twin: Twin, content_hash: bytes, named: bytes | None) -> None:
        self._by_hash[content_hash] = twin
        self._by_url[twin.url] = twin
        if named is not None:
            self._by_canonical[named] = twin


def stored_canonical_hash(outcome: "PageOutcome") -> bytes | None:
    """The `canonical_hash` of the source that this page makes; None where it names no other address, or has no text."""
    document, canonical = outcome.document, outcome.canonical
    return canonical_hash(document, canonical) if document and document.text and canonical else None


def canonical_hash(document: "Document", canonical: str) -> bytes:
    """SHA-256 of an address that this document is said to be at, and of how it reads."""
    return hashlib.sha256(canonical.encode() + _SEPARATOR.encode() + _reading(document)).digest()


def _reading(document: "Document") -> bytes:
    return hashlib.sha256(f"{document.title or ''}{_SEPARATOR}{document.text}".encode()).digest()
