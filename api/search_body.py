"""What a search takes, with its ranges."""

import re
from datetime import date
from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from api.schemas import Body, EmbedderName, EntityLabel, EntityName, Flag, NoNul, ProjectName, UrlPrefix
from ke.contracts.errors import InvalidInput
from ke.extraction.embed import DEFAULT_EMBEDDER
from ke.extraction.rerank import check_reranker
from ke.storage.search import ChunkFilter

LANGUAGE = re.compile(r"^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$")
_ISO_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


def _language(text: str) -> str:
    if not LANGUAGE.fullmatch(text):
        raise PydanticCustomError("language", "A language is written like en or en-gb")
    return text


def _reranker(name: str) -> str:
    try:
        check_reranker(name)
    except InvalidInput as error:
        raise PydanticCustomError("unknown_reranker", "{why}", {"why": error.message}) from None
    return name


def _day(value: object) -> object:
    if not isinstance(value, str) or not _ISO_DAY.fullmatch(value):
        raise PydanticCustomError("day", "A day is written like 2026-03-31")
    return value


RerankerName = Annotated[str, StringConstraints(max_length=64), AfterValidator(_reranker)]
Language = Annotated[
    str,
    StringConstraints(max_length=35),
    AfterValidator(_language),
    Field(json_schema_extra={"pattern": LANGUAGE.pattern}),
]
Day = Annotated[date, BeforeValidator(_day)]


class SearchBody(Body):
    """What to search for, and where."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"examples": [{"query": "how do I cancel a running job", "limit": 5}]}
    )

    query: Annotated[str, StringConstraints(min_length=1, max_length=4096, strip_whitespace=True), NoNul]
    mode: Literal["dense", "text", "hybrid"] = Field(
        "hybrid", description="`dense`: by meaning; `text`: by words (BM25); `hybrid`: by both, weighted"
    )
    limit: Annotated[int, Field(strict=True, ge=1, le=100, description="Hits, at most")] = 10
    distinct_sources: Flag = Field(
        default=True,
        description="One hit for each source, its best chunk, copies that several jobs of one project stored of a page "
        "counting as one; false: as many chunks as fit",
    )
    job_ids: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=100)] | None = Field(
        None, description="Only chunks that these jobs made"
    )
    project: ProjectName | None = Field(
        None, description="Only chunks that jobs of this project made; null: of all projects, which hits name"
    )
    url_prefix: UrlPrefix | None = Field(None, description="What the source's URL begins with")
    language: Language | None = Field(
        None, description="Of the source: `en` takes `en-gb` too; a source whose language is not known is left out"
    )
    date_from: Day | None = Field(
        None, description="The first day of publication; a source whose day is not known is left out"
    )
    date_to: Day | None = Field(None, description="The last day of publication; likewise")
    entity: EntityName | None = Field(None, description="A named entity that the chunk mentions, in whatever case")
    entity_label: EntityLabel | None = Field(None, description="What kind of entity that is, such as PERSON or ORG")
    embedder: EmbedderName = Field(DEFAULT_EMBEDDER, description="Whose vectors are asked; of no use to `text`")
    rerank: RerankerName | None = Field(None, description="What takes a second look at the 20 best chunks: `minilm`")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.entity_label is not None and self.entity is None:
            raise PydanticCustomError("label_alone", "entity_label says what kind of entity: give entity too")
        if self.date_from is not None and self.date_to is not None and self.date_from > self.date_to:
            raise PydanticCustomError("no_days", "date_from is after date_to")
        return self

    def to_filter(self) -> ChunkFilter:
        """The same as the stores have it."""
        return ChunkFilter(
            job_ids=self.job_ids,
            project=self.project,
            url_prefix=self.url_prefix,
            language=self.language,
            date_from=self.date_from,
            date_to=self.date_to,
            entity=self.entity,
            entity_label=self.entity_label,
        )
