"""What is said of values that do not fit: in the words of JSON, whatever is sent."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, TypeAdapter, ValidationError

from api.problems import from_validation
from api.schemas import (
    CancelBody,
    CleanupBody,
    CrawlBody,
    ExtractBody,
    ExtractOptions,
    LimitsBody,
    RateBody,
    ReconcileBody,
    RetryBody,
    ScopeBody,
    ScrapeBody,
    SubmitBody,
)
from api.search_body import SearchBody

RUBBISH = (
    *(None, True, 1, -1, 1.5, 2**70, float("nan"), float("inf"), "", "x", "a\x00b", "\x1b[31m", "\ud800", "x" * 5000),
    "2026-02-30",
    *([], [None], [[1]], ["x"] * 2000, {}, {"a": None}, {"\ud800": 1}, {str(n): "" for n in range(40)}),
)
OF_A_LIBRARY = ("Input", "input", "valid", "String", "UUID input", "Array", "Tuple", "pars", "pattern", "Value error")
WHOLE = (
    (ScrapeBody, {"kind": "scrape", "urls": ["https://e.com/"]}, ()),
    (CrawlBody, {"kind": "crawl", "seeds": ["https://e.com/"]}, ()),
    (ExtractBody, {"kind": "extract"}, ()),
    (LimitsBody, {"kind": "crawl", "seeds": ["https://e.com/"]}, ("limits",)),
    (ScopeBody, {"kind": "crawl", "seeds": ["https://e.com/"]}, ("scope",)),
    (RateBody, {"kind": "crawl", "seeds": ["https://e.com/"]}, ("rate",)),
    (ExtractOptions, {"kind": "scrape", "urls": ["https://e.com/"]}, ("extract",)),
)
ALONE = (CancelBody, CleanupBody, ReconcileBody, RetryBody, SearchBody)


def problems_of(shape: Any, body: dict[str, Any]) -> Iterator[str]:
    """What is said of each field of a body that does not fit."""
    try:
        TypeAdapter(shape).validate_python(body)
    except ValidationError as error:
        found = [{**wrong, "loc": ("body", *wrong["loc"])} for wrong in error.errors()]
        refused = from_validation(RequestValidationError(found))
        yield from (each["detail"] for each in refused.extra["errors"])


def bodies_of(
    model: type[BaseModel], body: dict[str, Any], within: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The body with each field of a model in turn as each kind of rubbish."""
    for name, field in model.model_fields.items():
        for value in RUBBISH:
            part: Any = {field.alias or name: value}
            yield name, body | ({within[0]: part} if within else part)


@pytest.mark.parametrize(("model", "body", "within"), WHOLE, ids=lambda value: getattr(value, "__name__", ""))
def test_wrong_members_of_a_job_are_told_without_the_words_of_a_library(
    model: type[BaseModel], body: dict[str, Any], within: tuple[str, ...]
) -> None:
    """One line for each, a sentence, with nothing of Python in it."""
    said = [(name, line) for name, sent in bodies_of(model, body, within) for line in problems_of(SubmitBody, sent)]
    assert said
    for name, line in said:
        assert_clear(name, line)


@pytest.mark.parametrize("model", ALONE)
def test_wrong_members_of_other_bodies_are_told_without_the_words_of_a_library(model: type[BaseModel]) -> None:
    """One line for each, a sentence, with nothing of Python in it."""
    body = {"query": "lamps"} if model is SearchBody else {}
    said = [(name, line) for name, sent in bodies_of(model, body) for line in problems_of(model, sent)]
    assert said
    for name, line in said:
        assert_clear(name, line)


def assert_clear(name: str, line: str) -> None:
    assert not any(word in line for word in OF_A_LIBRARY), (name, line)
    assert line.isprintable(), (name, line)
    assert (line[-1], len(line) < 120) == (".", True), (name, line)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"limit": 101}, "This must be at most 100."),
        ({"limit": 0}, "This must be at least 1."),
        ({"limit": "5"}, "This must be a whole number."),
        ({"limit": 2**70}, "This must be at most 100."),
        ({"query": ""}, "This must not be empty."),
        ({"query": "\ud800"}, "This has half of a surrogate pair, which is no character."),
        ({"mode": "fast"}, "This must be 'dense', 'text' or 'hybrid'."),
        ({"distinct_sources": 1}, "This must be true or false."),
        ({"date_from": "2026-02-30"}, "There is no such day."),
        ({"date_from": "tomorrow"}, "A day is written like 2026-03-31."),
        ({"language": "?"}, "A language is written like en or en-gb."),
        ({"job_ids": []}, "This must have at least 1 member."),
        ({"job_ids": ["7"]}, "This must be an id (a UUID)."),
        ({"url_prefix": "x" * 3000}, "This must have at most 2,048 characters."),
    ],
    ids=str,
)
def test_a_wrong_value_says_what_it_must_be(sent: dict[str, Any], told: str) -> None:
    """With the very limit that was passed."""
    assert list(problems_of(SearchBody, {"query": "lamps"} | sent)) == [told]
