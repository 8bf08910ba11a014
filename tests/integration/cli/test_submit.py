"""The commands that submit jobs: what they send, and what they refuse."""

import uuid

from tests.integration.api_twin import ApiTwin
from tests.integration.cli.process import RunKe, document


def test_crawl_sends_only_what_was_asked_for(ke: RunKe, api: ApiTwin) -> None:
    """The gateway's defaults hold for whatever no option named."""
    job = document(ke("crawl", "https://example.com/", "--json"))
    assert job["kind"] == "crawl"
    body = api.calls[-1].body
    assert body == {
        "kind": "crawl",
        "seeds": ["https://example.com/"],
        "extract": {},
        "labels": {},
    }


def test_crawl_passes_every_option_on(ke: RunKe, api: ApiTwin) -> None:
    """Limits, scope, rate, reading, extraction, project, labels and key reach the gateway where it expects them."""
    options = "--max-pages 9 --max-depth 2 --include a --include b --exclude c --no-robots --delay 0.5 --concurrency 3"
    options += " --reading fast --max-bytes 10 --max-seconds 20 --any-host --no-sitemaps"
    more = "--chunk-size 7 --chunk-tokens 99 --embedder minilm --no-entities --project docs"
    more += " --label team=x --label k=v=w --key k1"
    earlier = str(uuid.uuid4())
    anew = f"--recrawl-of job-{earlier} --browser --drop-param utm_* --drop-param gclid"
    ke("crawl", "https://example.com/", *options.split(), *more.split(), *anew.split())
    call = api.calls[-1]
    assert call.body == {
        "kind": "crawl",
        "seeds": ["https://example.com/"],
        "limits": {"max_pages": 9, "max_depth": 2, "max_bytes": 10, "max_seconds": 20},
        "scope": {
            "include": ["a", "b"],
            "exclude": ["c"],
            "drop_params": ["utm_*", "gclid"],
            "same_host": False,
            "sitemaps": False,
            "robots": False,
        },
        "recrawl_of": earlier,
        "browser": True,
        "rate": {"concurrency": 3, "delay_s": 0.5},
        "reading": "fast",
        "extract": {"chunk_size": 7, "chunk_tokens": 99, "embedder": "minilm", "entities": None},
        "project": "docs",
        "labels": {"team": "x", "k": "v=w"},
    }
    assert call.headers["Idempotency-Key"] == "k1"


def test_scrape_without_extraction_asks_for_none(ke: RunKe, api: ApiTwin) -> None:
    """`--no-extract` is an explicit null."""
    document(ke("scrape", "https://example.com/a", "https://example.com/b", "--no-extract", "--json"))
    body = api.calls[-1].body
    assert (body["kind"], body["urls"], body["extract"]) == (
        "scrape",
        ["https://example.com/a", "https://example.com/b"],
        None,
    )


def test_extract_takes_a_job_or_sources_and_not_both(ke: RunKe, api: ApiTwin) -> None:
    """Without one of the two, or with both, nothing is sent and the exit code is 2."""
    job, source = str(uuid.uuid4()), str(uuid.uuid4())
    assert ke("extract").returncode == 2
    assert ke("extract", job, "--source", source).returncode == 2
    assert not api.calls
    document(ke("extract", f"job-{job}", "--json"))
    assert api.calls[0].body["source_job_id"] == job
    document(ke("extract", "--source", source, "--json"))
    assert api.calls[-1].body["source_ids"] == [source]


def test_extract_of_a_job_that_goes_on_says_what_it_leaves_out(ke: RunKe, api: ApiTwin) -> None:
    """In a line on stderr, the answer as ever; of a job that has ended there is nothing to say."""
    going, ended = api.add_job("running"), api.add_job("completed")
    said = (
        f"Job {going} is running: what it has stored as this begins is extracted, and nothing that it stores later.\n"
    )
    done = ke("extract", going, "--json")
    assert document(done)["kind"] == "extract"
    assert said in done.stderr
    assert ended not in ke("extract", ended).stderr


def test_refused_input_is_exit_code_2_and_says_which_field(ke: RunKe) -> None:
    """422 passes through with the place that is wrong."""
    done = ke("crawl", "ftp://example.com/")
    assert done.returncode == 2
    assert done.stderr == "error: URL 1: Only http and https URLs are fetched.\n"
