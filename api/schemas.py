"""What the gateway takes: each body with its ranges. Out of range is refused, never clamped."""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from ke.contracts.errors import InvalidInput
from ke.contracts.jobs import (
    DEFAULT_PROJECT,
    MAX_GONE_SHARE,
    PROJECT_NAME,
    CollectSpec,
    CrawlLimits,
    CrawlScope,
    ExtractSpec,
    FetchRate,
    JobKind,
    Reading,
)
from ke.contracts.retries import LetterFilter, Subject
from ke.extraction.embed import DEFAULT_EMBEDDER, find_embedder
from ke.extraction.entities import check_entities
from ke.web.errors import BadPattern
from ke.web.query import MAX_DROPPED, MAX_NAME_CHARS
from ke.web.urls import MAX_PATTERN_CHARS, MAX_PATTERNS, MAX_URL_CHARS, Scope

MAX_URLS = 1000
MAX_LETTERS = 1000
MAX_BODY_BYTES = 256 * 1024


def _without_nul(text: str) -> str:
    if "\x00" in text:
        raise PydanticCustomError("nul", "This contains a NUL character")
    return text


def _pattern(text: str) -> str:
    try:
        Scope(CrawlScope(include=(text,), same_host=False), CrawlLimits(), frozenset())
    except BadPattern as error:
        raise PydanticCustomError("bad_pattern", "{why}", {"why": error.message}) from None
    return text


def _parameter(name: str) -> str:
    if any(sign in name for sign in "&=#"):
        raise PydanticCustomError("parameter_name", "A parameter's name contains no & = #; write it decoded")
    return name


def _project(text: str) -> str:
    if not PROJECT_NAME.fullmatch(text):
        raise PydanticCustomError(
            "project_name", "A project's name begins with a letter or digit and has letters, digits, . _ - only"
        )
    return text


def _embedder(name: str) -> str:
    try:
        find_embedder(name)
    except InvalidInput as error:
        raise PydanticCustomError("unknown_embedder", "{why}", {"why": error.message}) from None
    return name


def _entities(name: str) -> str:
    try:
        check_entities(name)
    except InvalidInput as error:
        raise PydanticCustomError("unknown_entities", "{why}", {"why": error.message}) from None
    return name


NoNul = AfterValidator(_without_nul)
Url = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS), NoNul]
Urls = Annotated[tuple[Url, ...], Field(min_length=1, max_length=MAX_URLS)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=MAX_PATTERN_CHARS), NoNul, AfterValidator(_pattern)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=MAX_PATTERNS)]
Parameter = Annotated[
    str, StringConstraints(min_length=1, max_length=MAX_NAME_CHARS), NoNul, AfterValidator(_parameter)
]
Parameters = Annotated[tuple[Parameter, ...], Field(max_length=MAX_DROPPED)]
ProjectName = Annotated[str, StringConstraints(min_length=1, max_length=64), AfterValidator(_project)]
LabelName = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul]
LabelValue = Annotated[str, StringConstraints(max_length=256), NoNul]
Labels = Annotated[dict[LabelName, LabelValue], Field(max_length=32)]
Reason = Annotated[str, StringConstraints(max_length=500), NoNul]
EmbedderName = Annotated[str, StringConstraints(max_length=64), AfterValidator(_embedder)]
FinderName = Annotated[str, StringConstraints(max_length=64), AfterValidator(_entities)]
EntityLabel = Annotated[str, StringConstraints(min_length=1, max_length=64), NoNul]
EntityName = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), NoNul]
ErrorType = Annotated[str, StringConstraints(min_length=1, max_length=100), NoNul]
UrlPrefix = Annotated[str, StringConstraints(min_length=1, max_length=MAX_URL_CHARS), NoNul]
Flag = Annotated[bool, Field(strict=True)]
MAX_BIGINT = 2**63 - 1
Instructions = Annotated[str, StringConstraints(max_length=8000), NoNul]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200), NoNul]


class Body(BaseModel):
    """A request's body, or a part of one: unknown fields are refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LimitsBody(Body):
    """Where a crawl stops; null means no limit."""

    max_pages: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 500
    max_depth: Annotated[int, Field(strict=True, ge=0, le=50)] = 5
    max_bytes: Annotated[int, Field(strict=True, ge=1, le=MAX_BIGINT)] | None = None
    max_seconds: Annotated[int, Field(strict=True, ge=1, le=31_536_000)] | None = None


class ScopeBody(Body):
    """Which of the links it finds a crawl follows."""

    include: Patterns = Field((), description="Regular expressions: a URL must match one of them, if there are any")
    exclude: Patterns = Field((), description="Regular expressions: a URL that matches one is not followed")
    same_host: Flag = Field(default=True, description="Stay on the hosts (with ports) of the seeds")
    sitemaps: Flag = Field(default=True, description="Read the sitemaps that robots.txt names, or /sitemap.xml")
    robots: Flag = Field(default=True, description="Obey robots.txt (RFC 9309)")
    drop_params: Parameters = Field(
        (),
        description="Names of query parameters that are left out of every URL, `*` for any characters: `utm_*`",
        examples=[["utm_*", "gclid", "fbclid"]],
    )


class RateBody(Body):
    """How hard a job may press one host."""

    concurrency: Annotated[int, Field(strict=True, ge=1, le=64, description="Requests at once")] = 8
    delay_s: Annotated[
        float, Field(strict=True, ge=0, le=3600, description="Seconds between the starts of two requests")
    ] = 0.0


class ExtractOptions(Body):
    """What to make of sources."""

    chunk_size: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        None, description="Sources in a batch; null: all in one pass"
    )
    chunk_tokens: Annotated[int, Field(strict=True, ge=16, le=2048)] = Field(
        256, description="The longest text chunk, in tokens"
    )
    embedder: EmbedderName = DEFAULT_EMBEDDER
    entities: FinderName | None = Field("spacy", description="The finder of named entities; null: none")
    # Under another name: pydantic's own `schema` is a method of every model.
    record_schema: dict[str, Any] | None = Field(
        None,
        alias="schema",
        description="JSON Schema (Draft 2020-12, at most 32 KiB) of what a language model reads out of each source: of "
        "an object, one record a source; of an array, any number. Null: no records",
        examples=[{"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}],
    )
    instructions: Instructions = Field("", description="What the model is told beside the schema")
    model: ModelName | None = Field(None, description="The model that is asked; null: the operator's own")
    max_tokens: Annotated[int, Field(strict=True, ge=1, le=MAX_BIGINT)] | None = Field(
        None, description="Tokens that the job may spend on the model, in questions and answers; null: no limit"
    )

    def to_spec(self) -> ExtractSpec:
        """The same as the job's input has it."""
        return ExtractSpec(
            chunk_size=self.chunk_size,
            chunk_tokens=self.chunk_tokens,
            embedder=self.embedder,
            entities=self.entities,
            schema=self.record_schema,
            instructions=self.instructions,
            model=self.model,
            max_tokens=self.max_tokens,
        )


class JobBody(Body):
    """What every job has."""

    labels: Labels = Field(default_factory=dict)


RecrawlOf = Annotated[
    UUID | None,
    Field(
        description="An ended scrape or crawl: what is as it was then is neither stored nor extracted again, and what "
        "is not there any more is `gone`. Every field that is not given is that job's, `labels`, "
        "`forget_replaced` and `max_gone_share` aside"
    ),
]


Rendered = Annotated[
    Flag,
    Field(
        description="Let the worker's Chromium run the pages' scripts before they are read: for sites that are empty "
        "without. Many times slower; the job fails where a worker has no Chromium"
    ),
]


ForgetReplaced = Annotated[
    Flag,
    Field(
        description="With `recrawl_of`: once the job has ended well, delete the earlier documents of pages that have "
        "changed or are gone, also of those that an earlier re-crawl of the chain had found so, with all that was made "
        "of them. Cannot be undone"
    ),
]


MaxGoneShare = Annotated[
    float,
    Field(
        strict=True,
        ge=0,
        le=1,
        description="With `forget_replaced`: how much of what is found, there or gone, may be gone for its documents "
        "to be deleted. Where more is, and more than 10 pages, the site is broken most likely: what they said is kept, "
        "and `forgetting` is `held`. 1: whatever is gone is deleted; 0: nothing that is gone",
    ),
]


class FetchingBody(JobBody):
    """What scrapes and crawls have."""

    project: ProjectName = DEFAULT_PROJECT
    recrawl_of: RecrawlOf = None
    forget_replaced: ForgetReplaced = False
    max_gone_share: MaxGoneShare = MAX_GONE_SHARE

    @model_validator(mode="after")
    def _forgets_only_what_is_crawled_again(self) -> Self:
        if self.forget_replaced and self.recrawl_of is None:
            raise PydanticCustomError("no_recrawl", "forget_replaced goes with recrawl_of only")
        if not self.forget_replaced and "max_gone_share" in self.model_fields_set:
            raise PydanticCustomError("no_forgetting", "max_gone_share goes with forget_replaced only")
        return self


class ScrapeBody(FetchingBody):
    """Fetches a list of URLs."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"examples": [{"kind": "scrape", "urls": ["https://example.com/"], "extract": {}}]}
    )

    kind: Literal["scrape"]
    urls: Urls | None = Field(None, description="Required, unless `recrawl_of` is a scrape too")
    reading: Reading = Field(
        Reading.THOROUGH,
        description="How a page's content is told from what is around it: `thorough`, or `fast`: less exact on news "
        "and blogs, in a third of the time there",
    )
    browser: Rendered = False
    extract: ExtractOptions | None = Field(None, description="{}: with all defaults; null: only fetch")

    def to_specs(self) -> tuple[CollectSpec | None, ExtractSpec | None]:
        """What the two lanes are to do."""
        collect = CollectSpec(
            urls=self.urls or (),
            follow=False,
            recrawl_of=_text_of(self.recrawl_of),
            forget_replaced=self.forget_replaced,
            max_gone_share=self.max_gone_share,
            reading=self.reading,
            browser=self.browser,
        )
        return collect, self.extract.to_spec() if self.extract else None


class CrawlBody(FetchingBody):
    """Fetches a site, from seeds and sitemaps, within limits."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {"kind": "crawl", "seeds": ["https://example.com/"], "limits": {"max_pages": 100}, "extract": {}}
            ]
        }
    )

    kind: Literal["crawl"]
    seeds: Urls | None = Field(None, description="Required, unless `recrawl_of` is a crawl too")
    limits: LimitsBody = LimitsBody()
    scope: ScopeBody = ScopeBody()
    rate: RateBody = RateBody()
    reading: Reading = Field(
        Reading.THOROUGH,
        description="How a page's content is told from what is around it: `thorough`, or `fast`: less exact on news "
        "and blogs, in a third of the time there",
    )
    browser: Rendered = False
    extract: ExtractOptions | None = Field(None, description="{}: with all defaults; null: only fetch")

    def to_specs(self) -> tuple[CollectSpec | None, ExtractSpec | None]:
        """What the two lanes are to do."""
        collect = CollectSpec(
            urls=self.seeds or (),
            follow=True,
            limits=CrawlLimits(**self.limits.model_dump()),
            scope=CrawlScope(**self.scope.model_dump()),
            rate=FetchRate(**self.rate.model_dump()),
            recrawl_of=_text_of(self.recrawl_of),
            forget_replaced=self.forget_replaced,
            max_gone_share=self.max_gone_share,
            reading=self.reading,
            browser=self.browser,
        )
        return collect, self.extract.to_spec() if self.extract else None


class ExtractBody(JobBody, ExtractOptions):
    """Turns stored sources into chunks, vectors and entities."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [{"kind": "extract", "source_job_id": "0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11", "chunk_size": 50}]
        }
    )

    kind: Literal["extract"]
    project: ProjectName | None = Field(
        None, description="Null: that of the job which stored the sources; where they are of several projects, name one"
    )
    source_job_id: UUID | None = Field(None, description="Extract the sources that this job stored")
    source_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_URLS)] | None = Field(
        None, description="Extract exactly these sources"
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.source_job_id is None) == (self.source_ids is None):
            raise PydanticCustomError("exactly_one", "Give exactly one of source_job_id and source_ids")
        return self

    def to_specs(self) -> tuple[CollectSpec | None, ExtractSpec | None]:
        """What the two lanes are to do: there is only the one."""
        spec = replace(
            self.to_spec(),
            source_job_id=str(self.source_job_id) if self.source_job_id else None,
            source_ids=tuple(dict.fromkeys(map(str, self.source_ids))) if self.source_ids else None,
        )
        return None, spec


def _text_of(job_id: UUID | None) -> str | None:
    return str(job_id) if job_id is not None else None


SubmitBody = Annotated[ScrapeBody | CrawlBody | ExtractBody, Field(discriminator="kind")]


def urls_of(body: ScrapeBody | CrawlBody | ExtractBody) -> tuple[str, tuple[str, ...] | None]:
    """The name of the field with URLs, and the URLs; None where they are not given."""
    match body:
        case ScrapeBody():
            return "urls", body.urls
        case CrawlBody():
            return "seeds", body.seeds
        case ExtractBody():
            return "", ()


def options_of(body: ScrapeBody | CrawlBody | ExtractBody) -> tuple[str, ExtractOptions | None]:
    """Where in a body the options of extraction are, as the beginning of a pointer, and the options."""
    return ("", body) if isinstance(body, ExtractBody) else ("/extract", body.extract)


def kind_of(body: ScrapeBody | CrawlBody | ExtractBody) -> JobKind:
    """The kind of job that a body asks for."""
    return JobKind(body.kind)


class CancelBody(Body):
    """How to cancel."""

    reason: Reason | None = Field(None, description="For the record", examples=["Wrong site"])
    cleanup: Flag = Field(default=False, description="Delete all the job made when it stands still")


class CleanupBody(Body):
    """How to clean up."""

    dry_run: Flag = Field(default=False, description="Only count what would go")
    delete_record: Flag = Field(default=False, description="Delete the job's record too")


class ReconcileBody(Body):
    """What a reconciliation may do."""

    repair: Flag = Field(default=True, description="Repair what is found; false: only tell")
    max_share: Annotated[float, Field(strict=True, ge=0, le=1)] | None = Field(
        default=None,
        description="The largest share of a store that it may delete; more, and it stops. 1: anything goes, jobs that "
        "were started in another Temporal included. The gateway's own when it is not given",
    )


class RetryBody(Body):
    """Which dead letters to retry: those that fit all that is given; all by default."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"examples": [{"subject": "page", "error_type": "http-503"}]}
    )

    ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=MAX_LETTERS)] | None = None
    subject: Subject | None = None
    error_type: ErrorType | None = Field(None, description="The code of the error, such as `http-500`")
    url_prefix: UrlPrefix | None = Field(None, description="What the URL begins with")

    def to_filter(self) -> LetterFilter:
        """The same as the retry's input has it."""
        ids = tuple(dict.fromkeys(map(str, self.ids))) if self.ids else None
        return LetterFilter(ids, self.subject, self.error_type, self.url_prefix)
