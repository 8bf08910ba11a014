"""Which pages of a batch say what the job has stored already."""

import hashlib
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from ke.contracts.ids import page_id, source_id
from ke.storage.arrays import among_found, among_given
from ke.storage.documents import PRESENT, READING, a_page_with, reading_of, unguessed
from ke.storage.tables import jobs, pages, sources

if TYPE_CHECKING:
    from ke.storage.collecting import Document, PageOutcome


_THIS_JOB: Final = sa.bindparam("job", type_=sources.c.job_id.type)


def _twins() -> sa.Executable:
    given = {"content_hash": "hashes", "id": "ids", "canonical_hash": "canonicals"}
    same = sa.or_(*(among_given(sources.c[name], values) for name, values in given.items()))
    columns = (sources.c[name] for name in ("id", "url", "content_hash", "canonical_hash"))
    return sa.select(*columns, READING.label("reading")).where(sources.c.job_id == unguessed(_THIS_JOB), same)


_TWINS: Final = _twins()


def _unchanged() -> sa.Executable:
    """Documents of an earlier job that pages of this one have, at addresses that are given."""
    at = sa.func.coalesce(pages.c.final_url, pages.c.url).label("url")
    return (
        sa.select(sources.c.id, at, READING.label("reading"), sources.c.canonical_hash)
        .select_from(pages.join(sources, sources.c.id == pages.c.source_id).join(jobs, PRESENT))
        .where(among_given(pages.c.id, "pages"), pages.c.state == "unchanged")
    )


def _unchanged_variants() -> sa.Executable:
    """Documents of an earlier job that this one has, and that name addresses that are given; or with ids that are."""
    is_had = a_page_with(sources.c.id, _THIS_JOB, pages.c.state == "unchanged").is_not(None)
    # Looked up first: the planner would sooner go through all sources of each job.
    named = sources.alias("named")
    found = sa.select(named.c.id).where(
        sa.or_(among_given(named.c.canonical_hash, "canonicals"), among_given(named.c.id, "ids"))
    )
    return (
        sa.select(sources.c.id, sources.c.url, READING.label("reading"), sources.c.canonical_hash)
        .join(jobs, PRESENT)
        .where(among_found(sources.c.id, found), sa.or_(among_given(sources.c.id, "ids"), is_had))
    )


_UNCHANGED: Final = _unchanged()
_UNCHANGED_VARIANTS: Final = _unchanged_variants()


@dataclass(frozen=True, slots=True)
class Twin:
    """A source that the job has, or that a page before in the batch will make."""

    id: uuid.UUID
    url: str
    reading: bytes
    """SHA-256 of its title and text."""


class _Said(NamedTuple):
    """How a page reads, and where it is said to be: by SHA-256 each, of an address together with the reading."""

    reading: bytes
    at_own: bytes | None
    """None: there is no text, which is the same as any other."""
    at_canonical: bytes | None
    """None: it names no other address, or there is no text."""

    @classmethod
    def of(cls, document: "Document", canonical: str | None) -> Self:
        reading = reading_of(document.title, document.text)

        def at(url: str | None) -> bytes | None:
            return hashlib.sha256(url.encode() + reading).digest() if url and document.text else None

        return cls(reading, at(document.url), at(canonical))


class Twins:
    """What the job has stored of what a batch says, the batch itself included as far as it was gone through.

    A page is the same as a source when their bodies are, byte for byte, or when it was led to the source's address by
    a redirect. What it names as its canonical address is no proof: sites are known that name their home page on every
    page. It counts only between two of which one names the other's address, whichever of them comes first, and that
    have the same title and the same text, and there is some.
    """

    def __init__(self, job_id: uuid.UUID) -> None:
        self._job_id = job_id
        self._by_hash: dict[bytes, Twin] = {}
        self._by_url: dict[str, Twin] = {}
        self._by_canonical: dict[bytes | None, Twin] = {}
        self._said: dict[uuid.UUID, _Said] = {}
        """Of the pages of the batch that have a document."""

    @classmethod
    async def of(
        cls, connection: AsyncConnection, job_id: uuid.UUID, outcomes: "Sequence[PageOutcome]", *, is_recrawl: bool
    ) -> "Twins":
        """The sources that this batch may be the same as; in a re-crawl also those that its unchanged pages have."""
        twins = cls(job_id)
        twins._said = {o.entry.id: _Said.of(o.document, o.canonical) for o in outcomes if o.document}
        if not twins._said:
            return twins
        read = [(o.document, o.canonical) for o in outcomes if o.document]
        urls = {url for document, canonical in read for url in (document.url, canonical) if url}
        canonicals = [said.at_own for said in twins._said.values() if said.at_own]
        values = {
            "job": job_id,
            "hashes": [document.content_hash for document, _ in read],
            "ids": [source_id(job_id, url) for url in urls],
            "canonicals": canonicals,
        }
        if is_recrawl:
            await twins._add_unchanged(connection, outcomes, urls, canonicals)
        for record in await connection.execute(_TWINS, values):
            twin = Twin(record.id, record.url, record.reading)
            twins._add(twin, record.content_hash, record.canonical_hash)
        return twins

    async def _add_unchanged(
        self,
        connection: AsyncConnection,
        outcomes: "Sequence[PageOutcome]",
        urls: Iterable[str],
        canonicals: Sequence[bytes],
    ) -> None:
        """What unchanged pages have, those of the batch included: the document of an earlier job, at their address."""
        here: defaultdict[uuid.UUID, list[PageOutcome]] = defaultdict(list)
        for outcome in outcomes:
            if outcome.state == "unchanged" and outcome.source_id is not None:
                here[outcome.source_id].append(outcome)
        variants = {"job": self._job_id, "canonicals": canonicals, "ids": list(here)}
        for record in await connection.execute(_UNCHANGED_VARIANTS, variants):
            for page in here[record.id]:
                twin = Twin(record.id, page.final_url or page.entry.url, record.reading)
                self._add(twin, page.content_hash, record.canonical_hash)
            if not here[record.id]:
                # Only by its word: at its address there may be something else by now.
                self._by_canonical[record.canonical_hash] = Twin(record.id, record.url, record.reading)
        ids = [page_id(self._job_id, url) for url in urls]
        for record in await connection.execute(_UNCHANGED, {"pages": ids}):
            self._add(Twin(record.id, record.url, record.reading), None, record.canonical_hash)

    def of_page(self, outcome: "PageOutcome") -> Twin | None:
        """The source that this page is the same as; when there is none, the page is one from now on."""
        document = outcome.document
        if document is None:
            return None
        said = self._said[outcome.entry.id]
        twin = self._by_hash.get(document.content_hash) or self._by_url.get(document.url)
        if twin is None and document.text:
            twin = self._by_its_word(said, outcome.canonical)
        if twin is None:
            mine = Twin(source_id(self._job_id, document.url), document.url, said.reading)
            self._add(mine, document.content_hash, said.at_canonical)
        return twin

    def _by_its_word(self, said: _Said, canonical: str | None) -> Twin | None:
        """The source that reads the same, and names this page's address, or is named by it."""
        named = self._by_url.get(canonical) if canonical else None
        if named is not None and named.reading == said.reading:
            return named
        return self._by_canonical.get(said.at_own)

    def canonical_hash(self, outcome: "PageOutcome") -> bytes | None:
        """SHA-256 of the canonical URL that a page of the batch names, and of how it reads; None without either."""
        return self._said[outcome.entry.id].at_canonical if outcome.document else None

    def _add(self, twin: Twin, content_hash: bytes | None, named: bytes | None) -> None:
        if content_hash is not None:
            self._by_hash[content_hash] = twin
        self._by_url[twin.url] = twin
        if named is not None:
            self._by_canonical[named] = twin
