"""Bodies become the job's input, with their defaults."""

import hashlib
import json
import uuid
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from api.schemas import SubmitBody
from api.service.earlier_options import WholeBody
from api.service.submit import job_input
from ke.contracts.jobs import CollectSpec, CrawlLimits, CrawlScope, ExtractSpec, FetchRate, JobKind
from ke.contracts.params import params_of, specs_of

SUBMIT: TypeAdapter[Any] = TypeAdapter(SubmitBody)
URL = "https://site.example/"
EARLIER = "0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11"


def whole(body: dict[str, Any]) -> WholeBody:
    """A body that leaves nothing to an earlier job."""
    return WholeBody.of(SUBMIT.validate_python(body))


def test_defaults_of_a_body_are_those_of_the_contracts() -> None:
    """A crawl that says nothing has the limits, scope and rate that the contracts have, and extracts nothing."""
    job = job_input(whole({"kind": "crawl", "seeds": [URL]}), None)
    assert job.collect is not None
    assert (job.collect.limits, job.collect.scope, job.collect.rate) == (CrawlLimits(), CrawlScope(), FetchRate())
    assert (job.extract, job.project, job.idempotency_key) == (None, "default", None)


def test_empty_extract_means_all_defaults() -> None:
    """`extract: {}` extracts with the defaults of the contracts."""
    job = job_input(whole({"kind": "scrape", "urls": [URL], "extract": {}}), None)
    assert job.extract == ExtractSpec()


def test_params_read_as_they_were_submitted() -> None:
    """What a job shows as its parameters is the submitted body with its defaults."""
    body = {"kind": "crawl", "seeds": [URL], "limits": {"max_pages": 9}, "extract": {"chunk_size": 3}}
    params = params_of(job_input(whole(body), None))
    assert params["seeds"] == [URL]
    assert params["limits"] == {"max_pages": 9, "max_depth": 5, "max_bytes": None, "max_seconds": None}
    assert params["extract"] == {
        "chunk_size": 3,
        "chunk_tokens": 256,
        "embedder": "wordllama",
        "entities": "spacy",
        "schema": None,
        "instructions": "",
        "model": None,
        "max_tokens": None,
    }


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "scrape", "urls": [URL]},
        {"kind": "scrape", "urls": [URL], "extract": {"entities": None}},
        {"kind": "scrape", "urls": [URL], "recrawl_of": EARLIER},
        {"kind": "crawl", "seeds": [URL], "recrawl_of": EARLIER},
        {"kind": "crawl", "seeds": [URL], "recrawl_of": EARLIER, "forget_replaced": True},
        {"kind": "scrape", "urls": [URL], "recrawl_of": EARLIER, "forget_replaced": True},
        {"kind": "crawl", "seeds": [URL], "browser": True},
        {"kind": "scrape", "urls": [URL], "browser": True},
        {"kind": "crawl", "seeds": [URL], "scope": {"drop_params": ["utm_*", "s id"]}},
        {"kind": "scrape", "urls": [URL], "reading": "fast"},
        {"kind": "crawl", "seeds": [URL], "reading": "fast"},
        {"kind": "crawl", "seeds": [URL], "scope": {"include": ["/a"], "exclude": ["b$"]}, "limits": {"max_bytes": 9}},
        {"kind": "crawl", "seeds": [URL], "rate": {"delay_s": 0.5}, "extract": {"chunk_size": 3}},
        {"kind": "extract", "source_job_id": "0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11", "chunk_tokens": 99},
        {"kind": "extract", "source_ids": ["0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11"]},
        {"kind": "scrape", "urls": [URL], "extract": {"schema": {"type": "object"}, "model": "m", "max_tokens": 9}},
    ],
)
def test_parameters_tell_what_the_lanes_were_to_do(body: dict[str, Any]) -> None:
    """From the parameters as the database keeps them a job's lanes can be run again, exactly."""
    job = job_input(whole(body), None)
    kept = json.loads(json.dumps(params_of(job)))
    assert specs_of(job.kind, kept) == (job.collect, job.extract)


def test_parameters_of_jobs_of_before_are_understood() -> None:
    """A job that was submitted before there were dropped parameters and re-crawls can be retried, and crawled again."""
    params = params_of(job_input(whole({"kind": "crawl", "seeds": [URL]}), None))
    old = {**params, "scope": {name: value for name, value in params["scope"].items() if name != "drop_params"}}
    del old["recrawl_of"], old["forget_replaced"], old["browser"]
    assert specs_of(JobKind.CRAWL, old) == specs_of(JobKind.CRAWL, params)
    assert specs_of(JobKind.SCRAPE, {"urls": [URL], "extract": None})[0] == CollectSpec((URL,), follow=False)


@pytest.mark.parametrize("name", ["", "a=b", "a&b", "#a", "x" * 65, "a\x00"])
def test_parameter_name_that_can_be_none_is_refused(name: str) -> None:
    """What no query can have as a name, or is endless, is told with its place."""
    body = {"kind": "crawl", "seeds": [URL], "scope": {"drop_params": ["fine", name]}}
    with pytest.raises(ValidationError) as refused:
        SUBMIT.validate_python(body)
    assert refused.value.errors()[0]["loc"] == ("crawl", "scope", "drop_params", 1)


@pytest.mark.parametrize("body", [{"kind": "scrape", "urls": [URL]}, {"kind": "crawl", "seeds": [URL]}])
def test_parameters_of_before_the_choice_of_reading_are_thorough(body: dict[str, Any]) -> None:
    """Rows of jobs that were submitted when there was only one."""
    job = job_input(whole(body), None)
    kept = {name: value for name, value in params_of(job).items() if name != "reading"}
    assert specs_of(job.kind, kept) == (job.collect, job.extract)


def test_hash_of_a_body_of_before_is_what_it_always_was() -> None:
    """A submit that is repeated after an upgrade is the same submit; one with a schema is another."""
    extract = {"chunk_size": None, "chunk_tokens": 256, "embedder": "wordllama", "entities": "spacy"}
    body = {"project": "default", "labels": {}, "kind": "scrape", "urls": [URL], "extract": extract}
    expected = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    plain = whole({"kind": "scrape", "urls": [URL], "extract": {}})
    asked = whole({"kind": "scrape", "urls": [URL], "extract": {"schema": {"type": "object"}}})
    assert job_input(plain, None).request_hash == expected != job_input(asked, None).request_hash


def test_hash_of_an_extraction_without_a_project_is_what_it_always_was() -> None:
    """None given meant `default` once."""
    extract = {"chunk_size": None, "chunk_tokens": 256, "embedder": "wordllama", "entities": "spacy"}
    sources = {"source_job_id": str(uuid.UUID(int=7)), "source_ids": None}
    body = {"project": "default", "labels": {}, "kind": "extract", **sources, **extract}
    expected = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    given = {"kind": "extract", "source_job_id": str(uuid.UUID(int=7))}
    hashes = [
        job_input(whole(given | more), None).request_hash
        for more in ({}, {"project": None}, {"project": "default"}, {"project": "lights"})
    ]
    assert hashes[:3] == [expected] * 3
    assert hashes[3] != expected


@pytest.mark.parametrize(
    "later",
    [
        {"reading": "fast"},
        {"browser": True},
        {"recrawl_of": "00000000-0000-4000-8000-000000000000"},
        {"scope": {"drop_params": ["utm_*"]}},
        {"extract": {"schema": {"type": "object"}}},
        {"extract": {"schema": {"type": "object"}, "max_tokens": 1000}},
    ],
    ids=str,
)
def test_each_field_that_came_later_makes_another_submit(later: dict[str, Any]) -> None:
    """Only its default is left out of the hash."""
    body = {"kind": "crawl", "seeds": [URL], "extract": {}}
    plain, other = (job_input(whole(given), None) for given in (body, {**body, **later}))
    assert plain.request_hash != other.request_hash


def test_same_meaning_has_the_same_hash() -> None:
    """A body with its defaults spelled out, in another order, is the same submit; another value is not."""
    short = {"kind": "scrape", "urls": [URL]}
    spelled = {"labels": {}, "extract": None, "project": "default", "urls": [URL], "kind": "scrape"}
    other = {**short, "project": "other"}
    hashes = [job_input(whole(body), "key").request_hash for body in (short, spelled, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_key_names_the_job() -> None:
    """The same key gives the same id, no key a new one each time."""
    body = whole({"kind": "scrape", "urls": [URL]})
    assert job_input(body, "key").job_id == job_input(body, "key").job_id
    assert job_input(body, None).job_id != job_input(body, None).job_id


@pytest.mark.parametrize(
    ("members", "count"),
    [({"urls": [URL] * 1000}, 1000), ({"urls": [URL + "a" * (2048 - len(URL))]}, 1)],
)
def test_limits_themselves_are_allowed(members: dict[str, Any], count: int) -> None:
    """A thousand URLs, and one of 2,048 characters, are still taken."""
    assert len(SUBMIT.validate_python({"kind": "scrape", **members}).urls) == count


def test_source_ids_are_taken_once_each() -> None:
    """A source that is named twice is extracted once."""
    key = "0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11"
    job = job_input(whole({"kind": "extract", "source_ids": [key, key.upper()]}), None)
    assert job.extract is not None
    assert job.extract.source_ids == (key,)
