"""What the tools answer, as agents see it in their output schemas.

Each is the API's own document. What is optional here may be absent there, and members that are not named here pass
through: a newer gateway never breaks a tool.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="allow")


class JobAnswer(_Answer):
    """A job as it is now."""

    id: str
    kind: str = Field(description="scrape, crawl or extract")
    status: str = Field(
        description="queued, running, paused and cancelling go on; cancelled, completed, completed_with_errors and "
        "failed are final"
    )
    artifacts: str = Field("present", description="present, cleaning, cleaned or cleanup_failed")
    progress: dict[str, Any] = Field(default_factory=dict, description="Counters so far")
    result: dict[str, Any] | None = Field(
        None,
        description="Counters once it has ended, of a re-crawl also `pages_new` and `pages_changed`; "
        "`limits_reached`: what cut it short; of a cancelled job `cancellation`, the receipt",
    )
    error: dict[str, Any] | None = Field(None, description="Type and message, when it failed")
    waiting_for: str | None = Field(None, description="Why it does not move, if it does not")
    earlier_pages: int | None = Field(
        None,
        description="Of a re-crawl: the earlier job's addresses that are asked for again; 0: a mistake, most likely",
    )
    previous_stored: int | None = Field(
        None,
        description="Of a re-crawl that has ended: its pages that have changed or are gone and whose earlier document "
        "is still stored, so that `search` finds it, and which no page of the job has now (of the first 10,000); "
        "`list_pages` names them",
    )
    forgetting: str | None = Field(
        None,
        description="Where there are such, with `forget_replaced`: whether their deletion is running, has ended, or is "
        "held, since so many are gone that the site may be broken (`max_gone_share`)",
    )


class JobsAnswer(_Answer):
    """A part of the list of jobs, newest first."""

    data: list[JobAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class EntityAnswer(_Answer):
    """A named entity of a project: all mentions that mean the same."""

    id: str
    project: str = ""
    name: str = Field(description="Its most frequent spelling")
    label: str = Field(description="What it is: PERSON, ORG, GPE, DATE, ...")
    aliases: list[str] = Field(default_factory=list, description="Other spellings")
    mentions: int = 0
    sources: int = Field(0, description="Documents that mention it")
    together: int | None = Field(None, description="Of a neighbour: passages that mention both")


class EntitiesAnswer(_Answer):
    """Entities, the most mentioned, or the closest neighbours, first."""

    data: list[EntityAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class DeadLetterAnswer(_Answer):
    """A page or a source that failed for good."""

    id: str
    subject: str = Field(description="page, source or record")
    url: str
    error_type: str = Field(description="The error's code, such as http-500")
    error_message: str = ""
    attempts: int = Field(0, description="How often it was tried")
    found_on: str | None = Field(
        None, description="Of a page: the first one that was found to link to it; null: a seed or a sitemap named it"
    )


class DeadLettersAnswer(_Answer):
    """A part of the list of a job's dead letters."""

    data: list[DeadLetterAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class LettersOfErrorAnswer(_Answer):
    """The dead letters of a job with one error."""

    subject: str = Field(description="page, source or record")
    error_type: str = Field(description="The error's code, such as http-404")
    letters: int = Field(description="How many there are")
    url: str = Field(description="Of the first of them")
    error_message: str = Field("", description="The same")


class LetterSummaryAnswer(_Answer):
    """A job's dead letters by their errors, the most frequent first."""

    letters: int = Field(description="All that fit")
    errors: int = Field(description="How many different errors they have")
    data: list[LettersOfErrorAnswer]


class RecordAnswer(_Answer):
    """What a language model read out of a page."""

    source_id: str
    url: str
    data: Any = Field(description="Valid against the job's schema")
    truncated: bool = Field(default=False, description="Whether the model was given less than the whole page")


class RecordsAnswer(_Answer):
    """A part of the list of a job's records."""

    data: list[RecordAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class SourceItemAnswer(_Answer):
    """A stored page, without its text."""

    id: str
    url: str
    title: str | None = None
    extraction_state: str | None = Field(None, description="How far this job is with extracting it")


class SourcesAnswer(_Answer):
    """A part of the list of a job's stored pages."""

    data: list[SourceItemAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class SourceAnswer(_Answer):
    """A stored page, or a part of it."""

    id: str
    job_id: str
    project: str = Field("", description="Of the job that stored it")
    url: str
    title: str | None = None
    fetched_at: str = ""
    text: str = Field(description="Markdown, from `offset` on")
    metadata: dict[str, Any] = Field(default_factory=dict, description="Author, date, language, ... where it says so")
    offset: int = Field(0, description="Characters of the text that come before")
    total_chars: int = Field(0, description="Characters of the whole text")
    next_offset: int | None = Field(None, description="For the next call, when there is more")


class PageAnswer(_Answer):
    """An address that a job has seen."""

    url: str
    state: str
    reason: str | None = Field(None, description="Why it was skipped or failed, or what it is the same as")
    found_on: str | None = Field(
        None, description="The first page that was found to link to it; null: a seed or a sitemap named it"
    )
    source_id: str | None = Field(None, description="The document that has its content")
    source_is_stored: bool | None = Field(
        None, description="Whether that is there; false: it was deleted since, and a re-crawl takes the page anew"
    )
    previous_source_id: str | None = Field(
        None, description="Of a re-crawl, where the page has changed or is gone: the document that it had"
    )
    previous_is_stored: bool | None = Field(None, description="Whether that is still there, and found by `search`")


class PagesAnswer(_Answer):
    """A part of the list of the addresses that a job has seen."""

    data: list[PageAnswer]
    next_cursor: str | None = Field(None, description="For the next call, when there is more")


class RetryAnswer(_Answer):
    """A retry of dead letters as it is now."""

    id: str
    job_id: str
    status: str = Field(description="running; completed, cancelled and failed are final")
    letters: int = Field(0, description="Dead letters that it took up")
    succeeded: int = Field(0, description="Those that are gone since")
    failed: int = Field(0, description="Those that failed again")


class Counts(_Answer):
    """A number for each store."""

    vectors: int = 0
    sources: int = 0
    extractions: int = 0
    entities: int = 0
    dead_letters: int = 0
    records: int = 0


class ExtractingJob(_Answer):
    """A job that has extracted another one's sources."""

    job_id: str
    project: str


class Relying(_Answer):
    """What other jobs have of the documents that go with a cleanup."""

    pages: int = Field(0, description="Pages of re-crawls that found them unchanged, whose document it is")
    jobs: int = Field(0, description="How many jobs these are of")
    job_ids: list[str] = Field(default_factory=list, description="The first ten of these")
    extractions: int = Field(0, description="What other jobs have extracted from them, which goes too")
    extract_jobs: int = Field(0, description="How many jobs have made these")
    extracted_by: list[ExtractingJob] = Field(default_factory=list, description="The first ten of these")


class OtherPage(_Answer):
    """A page whose document was stored for another one."""

    url: str
    job_id: str
    state: str = Field(description="duplicate, or in a re-crawl that found it as it was unchanged")


class OtherPages(_Answer):
    """Pages whose document was stored for another one."""

    pages: int = 0
    first: list[OtherPage] = Field(default_factory=list, description="The first twenty of these")


class ReceiptAnswer(_Answer):
    """What a cleanup has really deleted, and what is left."""

    id: str
    scope: str = Field("job", description="job, source or project")
    job_id: str | None = Field(None, description="The job; of a source the one that owns it")
    source_id: str | None = None
    project: str | None = None
    jobs: int | None = Field(None, description="Of a project: how many jobs were taken up")
    status: str = Field(description="planned (a dry run), running, cleaned or failed")
    planned: Counts = Field(default_factory=Counts, description="What there was before")
    deleted: Counts = Field(default_factory=Counts, description="What was deleted so far")
    remaining: Counts = Field(default_factory=Counts, description="What is there now; all zeros when cleaned")
    relying: Relying = Field(
        default_factory=Relying,
        description="What jobs that it leaves have of the documents that it takes: `pages`, which a re-crawl of such a "
        "job takes anew, and `extractions`, which go with it",
    )
    other_pages: OtherPages | None = Field(
        None,
        description="Of a dry run of `forget_source`: pages that have this document now, beside the one that it was "
        "stored for; they go with it",
    )
    error: str | None = None


class DeletionAnswer(_Answer):
    """What became of a job's record."""

    job_id: str
    deleted: bool = Field(description="True: the record is gone; false: its cleanup runs first, and then it goes")
    receipt: ReceiptAnswer | None = Field(None, description="Of the cleanup that was started")


class Hit(_Answer):
    """A passage that answers a query."""

    text: str
    score: float
    url: str
    date: str | None = Field(None, description="The day on which it was published, by its own word")
    language: str | None = Field(None, description="By its own word, as `en` or `en-gb`")
    fetched_at: str = Field("", description="When the document was fetched")
    source_id: str
    job_id: str
    project: str = Field("", description="Of the job that extracted it")
    snippet: dict[str, Any] = Field(
        default_factory=dict,
        description="The part of it with most of the query's words, as plain text; `marks` says where they are",
    )


class SearchAnswer(_Answer):
    """The passages that answer a query, best first."""

    data: list[Hit]
    complete: bool = Field(default=True, description="False: fewer than were asked for, and there may be more")
