"""What lists and sources answer: the entries of what a job has stored."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, ClassVar, Final, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from ke.contracts.retries import Subject
from ke.storage.dead_letters import DeadLetterRow, LetterSummary
from ke.storage.listing import EntityRow, ExtractionRow, PageRow, RecordRow, SourceDocument, SourceRow
from ke.storage.merged_entities import MentioningSource, MergedEntity, Neighbour


class SourceItem(BaseModel):
    """A stored document, without its text."""

    id: UUID
    job_id: UUID = Field(description="The job that stored it")
    project: str = Field(description="That job's")
    url: str
    title: str | None
    content_type: str
    content_hash: str = Field(description="SHA-256 of its body, in hex")
    bytes: int
    fetched_at: datetime
    extraction_state: str | None = Field(
        description="How far this job is with extracting it; null: it does not, or no job is asked about"
    )
    entities_state: str | None = Field(description="The same of its entities, once it is extracted")
    record_state: str | None = Field(None, description="How far it is with records of it; null: it asks for none")
    record_reason: str | None = Field(None, description="Why no record was made of it")

    @classmethod
    def of(cls, row: SourceRow) -> Self:
        """A source in a list."""
        values = asdict(row)
        return cls.model_validate(values | {"content_hash": row.content_hash.hex()})


class SourceView(BaseModel):
    """A stored document."""

    id: UUID
    job_id: UUID = Field(description="The job that stored it")
    project: str = Field(description="That job's")
    url: str
    title: str | None
    text: str = Field(description="Markdown")
    metadata: dict[str, Any]
    content_type: str
    content_hash: str
    bytes: int
    fetched_at: datetime

    @classmethod
    def of(cls, row: SourceDocument) -> Self:
        """A source with its text."""
        return cls.model_validate(asdict(row) | {"content_hash": row.content_hash.hex()})


class _Item(BaseModel):
    """An entry that reads as its row does."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)


_FOUND_ON: Final = (
    "The first page that was found to link to it, of what a re-crawl asks for again by the earlier job; null: a seed "
    "or a sitemap named it, or that page is deleted, or out of this job's scope"
)


class PageItem(_Item):
    """A URL that a job has seen."""

    id: UUID
    url: str
    depth: int = Field(description="Links between a seed (0) and this page")
    state: str
    reason: str | None = Field(description="Why it was skipped or failed, or what it is the same as")
    attempts: int = Field(description="Those that failed")
    http_status: int | None
    final_url: str | None = Field(description="Where its redirects led")
    canonical_url: str | None = Field(description="What the page names as its own URL, where that is another one")
    source_id: UUID | None = Field(
        description="The document that has its content: its own, that of the page it is the same as, or, where it is "
        "`unchanged` or `gone`, that of the earlier job"
    )
    source_is_stored: bool | None = Field(
        None,
        description="Whether that is there; false: it was deleted since, as by the cleanup of the earlier job. A "
        "re-crawl of this job then fetches and extracts the page anew",
    )
    previous_source_id: UUID | None = Field(
        None, description="Of a re-crawl, where the page has changed or is gone: the document that it had"
    )
    previous_is_stored: bool | None = Field(
        None, description="Whether that is still there, and found by a search; false: it was forgotten"
    )
    content_type: str | None
    bytes: int | None
    fetched_at: datetime | None
    found_on: str | None = Field(None, description=_FOUND_ON)

    @classmethod
    def of(cls, row: PageRow) -> Self:
        """A page in a list."""
        return cls.model_validate(row)


class ExtractionItem(_Item):
    """A chunk; its id is also that of its point in the vector store."""

    id: UUID
    job_id: UUID
    source_id: UUID
    chunk_number: int
    heading: str
    text: str
    start: int = Field(description="In characters into the source's text")
    end: int
    tokens: int
    embedder: str
    state: str = Field(description="`ready`: its vector can be found; `pending`: it has no text yet")

    @classmethod
    def of(cls, row: ExtractionRow) -> Self:
        """A chunk in a list."""
        return cls.model_validate(row)


class EntityItem(_Item):
    """A mention of a named entity."""

    id: UUID
    job_id: UUID
    source_id: UUID
    extraction_id: UUID
    text: str
    label: str
    start: int = Field(description="In characters into the chunk's text")
    end: int

    @classmethod
    def of(cls, row: EntityRow) -> Self:
        """An entity in a list."""
        return cls.model_validate(row)


class MergedEntityItem(_Item):
    """A named entity of a project: all mentions with its label whose names come to the same."""

    id: UUID
    project: str
    name: str = Field(description="Its most frequent spelling")
    label: str
    aliases: list[str] = Field(description="Other spellings, the most frequent first, at most 10")
    mentions: int
    sources: int = Field(description="Documents that mention it")

    @classmethod
    def of(cls, row: MergedEntity) -> Self:
        """An entity of a project."""
        return cls.model_validate(row)


class NeighbourItem(MergedEntityItem):
    """An entity that is mentioned in the same chunks as another."""

    together: int = Field(description="Chunks that mention both")

    @classmethod
    def near(cls, row: Neighbour) -> Self:
        """A neighbour of an entity."""
        return cls.model_validate(asdict(row.entity) | {"together": row.together})


class NeighbourList(BaseModel):
    """The neighbours of an entity, those with the most common chunks first."""

    data: list[NeighbourItem]


class MentioningSourceItem(_Item):
    """A document that mentions an entity."""

    id: UUID
    job_id: UUID
    url: str
    title: str | None
    mentions: int = Field(description="Of this entity")

    @classmethod
    def of(cls, row: MentioningSource) -> Self:
        """A document in a list."""
        return cls.model_validate(row)


class RecordItem(_Item):
    """What a language model read out of a source; valid against the job's schema."""

    id: UUID
    job_id: UUID
    source_id: UUID
    url: str = Field(description="The source's")
    number: int = Field(description="Its place among the source's records, from 0")
    data: Any
    truncated: bool = Field(description="Whether the model was given less than the whole source")
    model: str
    tokens_in: int = Field(description="Of all calls for the source, on its first record")
    tokens_out: int

    @classmethod
    def of(cls, row: RecordRow) -> Self:
        """A record in a list."""
        return cls.model_validate(row)


class DeadLetterItem(_Item):
    """A page or a source that failed for good."""

    id: UUID
    job_id: UUID
    subject: Subject
    subject_id: UUID = Field(description="Of a page; else of a source")
    url: str
    error_type: str
    error_message: str
    attempts: int
    first_failed_at: datetime
    last_failed_at: datetime
    found_on: str | None = Field(None, description=f"Of a page: {_FOUND_ON[0].lower()}{_FOUND_ON[1:]}")

    @classmethod
    def of(cls, row: DeadLetterRow) -> Self:
        """A dead letter in a list."""
        return cls.model_validate(row)


class LettersOfErrorItem(_Item):
    """The dead letters of a job with one error."""

    subject: Subject
    error_type: str
    letters: int = Field(description="How many there are")
    last_failed_at: datetime
    url: str = Field(description="Of the first of them")
    error_message: str = Field(description="The same")


class LetterSummaryView(_Item):
    """A job's dead letters by their errors, the most frequent first."""

    letters: int = Field(description="All that fit")
    errors: int = Field(description="How many different errors they have; `data` has the first hundred, at most")
    data: list[LettersOfErrorItem]

    @classmethod
    def of(cls, summary: LetterSummary) -> Self:
        """What a summary says."""
        data = [LettersOfErrorItem.model_validate(group) for group in summary.most]
        return cls(letters=summary.letters, errors=summary.errors, data=data)
