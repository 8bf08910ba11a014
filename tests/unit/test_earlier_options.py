"""What a re-crawl does not give is as the earlier job had it."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import TypeAdapter

from api.errors import ValidationFailed
from api.schemas import SubmitBody
from api.service.earlier_options import WholeBody, taking_over
from api.service.submit import job_input
from ke.contracts.jobs import Artifacts, JobKind, JobStatus
from ke.contracts.params import params_of, specs_of
from ke.storage.jobs import JobRow

SUBMIT: TypeAdapter[Any] = TypeAdapter(SubmitBody)
URL = "https://site.example/"
EARLIER = uuid.UUID("0b6b1c1e-7f0e-4f3a-9f0a-2f1d8f6f1a11")
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}}
CRAWL = {
    "kind": "crawl",
    "seeds": [URL, f"{URL}b"],
    "limits": {"max_pages": 1000, "max_depth": 2, "max_seconds": 60},
    "scope": {"include": ["/docs"], "exclude": ["/old"], "same_host": False, "drop_params": ["utm_*"]},
    "rate": {"concurrency": 2, "delay_s": 0.5},
    "reading": "fast",
    "browser": True,
    "project": "docs",
    "labels": {"run": "first"},
    "extract": {"chunk_tokens": 99, "entities": None, "schema": SCHEMA, "instructions": "Briefly.", "max_tokens": 9},
}


def a_job(body: dict[str, Any]) -> JobRow:
    """An ended job that was submitted with this body."""
    job = job_input(WholeBody.of(SUBMIT.validate_python(body)), None)
    now = datetime.now(UTC)
    ended = {"status": JobStatus.COMPLETED, "artifacts": Artifacts.PRESENT, "result": {}, "error": None}
    names = {"idempotency_key": None, "request_hash": "", "workflow_id": "w", "run_id": None, "namespace_id": None}
    numbers = {"seq": 1, "retries": 0, "write_epoch": 1, "retry_id": None, "cancel_reason": None}
    times = dict.fromkeys(("created_at", "started_at", "completed_at"), now)
    times |= dict.fromkeys(("cancel_requested_at", "deleted_at"))
    about = {"kind": job.kind, "project": job.project, "labels": job.labels, "params": params_of(job)}
    return JobRow(id=EARLIER, tenant="default", **ended, **names, **numbers, **times, **about)


def again(earlier: dict[str, Any], kind: str = "crawl", **given: Any) -> WholeBody:
    """A re-crawl of a job with this body."""
    body = SUBMIT.validate_python({"kind": kind, "recrawl_of": str(EARLIER), **given})
    return taking_over(body, a_job(earlier))


def test_nothing_given_is_the_earlier_job_again() -> None:
    """All but its labels; and the job tells what it has from there."""
    before, job = a_job(CRAWL), job_input(again(CRAWL), None)
    params = params_of(job)
    same = {name: value for name, value in before.params.items() if name != "recrawl_of"}
    assert {name: params[name] for name in same} == same
    assert (job.project, job.labels, params["recrawl_of"]) == ("docs", {}, str(EARLIER))
    assert params["taken_over"] == [
        "/project",
        "/seeds",
        *(f"/limits/{name}" for name in ("max_pages", "max_depth", "max_seconds")),
        *(f"/scope/{name}" for name in ("include", "exclude", "same_host", "drop_params")),
        *("/rate/concurrency", "/rate/delay_s", "/reading", "/browser", "/extract"),
    ]
    assert specs_of(job.kind, params) == (job.collect, job.extract)


def test_null_in_place_of_addresses_is_the_earlier_jobs() -> None:
    """As their default is written in the API's description, and a client may send it."""
    whole = again(CRAWL, seeds=None)
    assert (whole.body.seeds, "/seeds" in whole.taken_over) == ((URL, f"{URL}b"), True)


def test_what_is_given_wins_one_by_one() -> None:
    """Also where it is the default, nothing, or null; what stands beside it in its group is still the earlier job's."""
    whole = again(
        CRAWL,
        seeds=[URL],
        limits={"max_pages": 500, "max_seconds": None},
        scope={"exclude": []},
        browser=False,
        project="default",
        labels={"run": "second"},
        extract={"entities": "spacy", "chunk_size": 3},
    )
    params = params_of(job_input(whole, None))
    assert params["limits"] == {"max_pages": 500, "max_depth": 2, "max_bytes": None, "max_seconds": None}
    assert (params["scope"]["include"], params["scope"]["exclude"]) == (("/docs",), ())
    assert (params["seeds"], params["browser"], params["reading"]) == ([URL], False, "fast")
    extract = params["extract"]
    assert (extract["entities"], extract["chunk_size"], extract["chunk_tokens"]) == ("spacy", 3, 99)
    assert (extract["schema"], extract["instructions"]) == (SCHEMA, "Briefly.")
    assert whole.taken_over == (
        "/limits/max_depth",
        *(f"/scope/{name}" for name in ("include", "same_host", "drop_params")),
        *("/rate/concurrency", "/rate/delay_s", "/reading"),
        *(f"/extract/{name}" for name in ("chunk_tokens", "schema", "instructions", "max_tokens")),
    )


@pytest.mark.parametrize(
    ("had", "given", "expected"),
    [
        ({"chunk_tokens": 99}, {"extract": None}, None),
        (None, {}, None),
        (None, {"extract": {}}, 256),
        ({"chunk_tokens": 99}, {"extract": {}}, 99),
        ({"chunk_tokens": 99}, {}, 99),
    ],
)
def test_extraction_is_as_before_unless_it_is_named(
    had: dict[str, Any] | None, given: dict[str, Any], expected: int | None
) -> None:
    """Null is none, whatever there was; {} is as before or, where there was none, by default."""
    job = job_input(again({**CRAWL, "extract": had}, **given), None)
    assert (job.extract and job.extract.chunk_tokens) == expected


def test_what_goes_with_a_schema_goes_with_it() -> None:
    """Without a schema there are no records, and nothing that is said of them is taken over."""
    job = job_input(again(CRAWL, extract={"schema": None}), None)
    assert job.extract is not None
    assert (job.extract.schema, job.extract.instructions, job.extract.max_tokens) == (None, "", None)
    job = job_input(again(CRAWL, extract={"instructions": "At length."}), None)
    assert job.extract is not None
    assert (job.extract.schema, job.extract.instructions, job.extract.max_tokens) == (SCHEMA, "At length.", 9)


def test_only_what_both_kinds_have_is_taken_over() -> None:
    """A scrape of a crawl's pages has its reading and extraction, and names its own URLs; and the other way round."""
    whole = again(CRAWL, "scrape", urls=[URL])
    assert whole.taken_over == ("/project", "/reading", "/browser", "/extract")
    assert again(CRAWL, "scrape").body.urls is None
    scrape = {"kind": "scrape", "urls": [URL], "reading": "fast"}
    assert again(scrape, seeds=[URL]).taken_over == ("/reading",)
    assert again(scrape).body.seeds is None
    assert again(scrape, "scrape").body.urls == (URL,)


def test_key_tells_what_was_given_and_nothing_else() -> None:
    """So that a repeat is known again when the earlier job is deleted; a default that is given is not left out."""
    hashes = {
        name: job_input(again(earlier, **given), "key").request_hash
        for name, earlier, given in (
            ("one", CRAWL, {}),
            ("same", {"kind": "crawl", "seeds": [URL]}, {}),
            ("default", CRAWL, {"limits": {"max_pages": 500}}),
        )
    }
    assert hashes["one"] == hashes["same"] != hashes["default"]


def test_what_cannot_be_used_any_more_is_refused_with_its_place() -> None:
    """As an embedder that this gateway does not know."""
    row = a_job(CRAWL)
    row.params["extract"]["embedder"] = "of yesterday"
    body = SUBMIT.validate_python({"kind": "crawl", "recrawl_of": str(EARLIER)})
    with pytest.raises(ValidationFailed, match=f"It is taken over from job {EARLIER}: give another") as refused:
        taking_over(body, row)
    assert refused.value.extra["errors"][0]["pointer"] == "/extract/embedder"


def test_jobs_of_before_are_taken_over() -> None:
    """What their parameters do not have yet has its default."""
    row = a_job({"kind": "crawl", "seeds": [URL], "limits": {"max_pages": 7}})
    for name in ("reading", "browser", "recrawl_of", "forget_replaced"):
        del row.params[name]
    del row.params["scope"]["drop_params"]
    body = SUBMIT.validate_python({"kind": "crawl", "recrawl_of": str(EARLIER)})
    assert taking_over(body, row).taken_over == ("/seeds", "/limits/max_pages")
    assert row.kind is JobKind.CRAWL
