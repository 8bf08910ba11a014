"""The command line as a person or a script meets it: as a process, against a small real HTTP server."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest

from ke.contracts.retries import Subject
from tests.integration.api_twin import COUNTERS, COUNTS, ZEROS, ApiTwin, now, serving

KE = [sys.executable, "-m", "ke"]
TIME_LIMIT_S = 60.0
RunKe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def api() -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        yield twin


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    return kept | {"NO_COLOR": "1", "COLUMNS": "200"} | extra


@pytest.fixture
def ke(api: ApiTwin, tmp_path: Path) -> RunKe:
    def run(*arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*KE, *arguments],
            env=environment(**({"KE_API_URL": api.url} | extra)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


def document(done: "subprocess.CompletedProcess[str]") -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
    assert ke("extract", "--job", job, "--source", source).returncode == 2
    assert not api.calls
    document(ke("extract", "--job", f"job-{job}", "--json"))
    assert api.calls[-1].body["source_job_id"] == job
    document(ke("extract", "--source", source, "--json"))
    assert api.calls[-1].body["source_ids"] == [source]


def test_watch_prints_a_line_for_each_change_and_ends_with_the_job(ke: RunKe) -> None:
    """Away from a terminal, progress is plain lines and the last block is the job as it ended."""
    done = ke("crawl", "https://example.com/", "--watch")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("running: 5 pages")
    assert lines[1].startswith("completed: 12 pages")
    assert "\x1b" not in done.stdout


def test_waiting_with_json_prints_one_document(ke: RunKe) -> None:
    """Standard output is the ended job as JSON and nothing else."""
    job = document(ke("crawl", "https://example.com/", "--watch", "--json"))
    assert job["status"] == "completed"


def test_watching_a_failed_job_gives_exit_code_1_and_its_reason(ke: RunKe, api: ApiTwin) -> None:
    """A script sees at the exit code that the job failed, a person sees why."""
    job = api.add_job("failed")
    done = ke("jobs", "watch", job)
    assert done.returncode == 1
    letters = f"What failed, and why: ke dead-letters list {job}\n"
    assert done.stderr == f"{letters}error: job {job} failed: it broke\n"


def test_watch_gives_up_when_its_time_is_up(ke: RunKe, api: ApiTwin) -> None:
    """With `--timeout`, a job that goes on is exit code 1."""
    done = ke("jobs", "watch", api.add_job("running"), "--timeout", "0.1")
    assert done.returncode == 1
    assert "has not ended within" in done.stderr


def test_ctrl_c_stops_watching_and_not_the_job(api: ApiTwin, tmp_path: Path) -> None:
    """Exit code 130, a word on how to cancel, and no cancel at the gateway."""
    job = api.add_job("running")
    watching = subprocess.Popen(
        [*KE, "jobs", "watch", job],
        env=environment(KE_API_URL=api.url),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline_s = time.monotonic() + TIME_LIMIT_S
        while not api.calls and time.monotonic() < deadline_s:
            time.sleep(0.05)
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=TIME_LIMIT_S)
    finally:
        watching.kill()
        watching.wait(TIME_LIMIT_S)
    assert watching.returncode == 130
    assert f"ke jobs cancel {job}" in stderr
    assert "Traceback" not in stderr
    assert {call.method for call in api.calls} == {"GET"}


def test_list_shows_jobs_and_filters_them(ke: RunKe, api: ApiTwin) -> None:
    """One line a job, whole ids also in a pipe; filters go to the gateway."""
    first, second = api.add_job("running"), api.add_job("completed")
    done = ke("jobs", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["ID", "KIND", "STATUS"]
    assert {line.split()[0] for line in lines[1:]} == {first, second}
    page = document(ke("jobs", "list", "--status", "completed", "--kind", "crawl", "--json"))
    assert [job["id"] for job in page["data"]] == [second]


def test_cancel_with_wait_returns_when_the_job_has_ended(ke: RunKe, api: ApiTwin) -> None:
    """Reason and cleanup reach the gateway; the answer is the cancelled job with its receipt."""
    job = api.add_job("running")
    ended = document(ke("jobs", "cancel", job, "--reason", "enough", "--cleanup", "--wait", "--json"))
    assert ended["status"] == "cancelled"
    assert ended["artifacts"] == "cleaned"
    assert ended["result"]["cancellation"]["reason"] == "enough"
    sent = next(call.body for call in api.calls if call.method == "POST")
    assert sent == {"cleanup": True, "reason": "enough"}


def test_a_cancel_that_came_too_late_is_exit_code_1(ke: RunKe, api: ApiTwin) -> None:
    """When the job completed first, what was asked for did not come true."""
    job = api.add_job("running")
    api.finish_at_cancel = {"status": "completed", "completed_at": now()}
    done = ke("jobs", "cancel", job, "--wait")
    assert done.returncode == 1
    assert "completed before the cancel took effect" in done.stderr


def test_cancelling_a_retry_waits_for_its_end_and_tells_its_numbers(ke: RunKe, api: ApiTwin) -> None:
    """The job stays what it is; a retry that ended by itself first is exit code 1; without --wait its id is told."""
    job = api.add_job("completed_with_errors", retry_id="retry-1")
    api.retry = {"id": "retry-1", "job_id": job, "letters": 5, "succeeded": 3, "failed": 1, "error": None}
    api.retry_end = {"status": "cancelled"}
    ended = document(ke("jobs", "cancel", job, "--wait", "--json"))
    assert (ended["status"], ended["retry_id"], ended["retry"]) == ("completed_with_errors", None, api.retry)
    api.jobs[job]["retry_id"] = "retry-1"
    told = ke("jobs", "cancel", job, "--wait")
    assert (told.returncode, told.stderr) == (0, "")
    assert {"cancelled", "succeeded", "3"} <= set(told.stdout.split())
    api.jobs[job]["retry_id"] = "retry-1"
    started = ke("jobs", "cancel", job)
    assert started.returncode == 0
    assert "ke retries get retry-1" in started.stderr
    api.jobs[job]["retry_id"], api.retry_end = "retry-1", {"status": "completed"}
    late = ke("jobs", "cancel", job, "--wait")
    assert (late.returncode, late.stderr) == (1, "error: retry-1 completed before the cancel took effect\n")
    api.jobs[job]["retry_id"] = "retry-1"
    assert ke("jobs", "cancel", job, "--cleanup", "--wait").returncode == 0, "all that it made is gone all the same"


def test_a_retry_is_read_by_its_id(ke: RunKe, api: ApiTwin) -> None:
    """Its numbers for people, its document for machines; what is no retry's id is exit code 2 and is not sent."""
    retry = f"retry-{uuid.uuid4()}-2"
    api.retry = {"id": retry, "job_id": str(uuid.uuid4()), "letters": 5, "succeeded": 3, "failed": 2, "error": None}
    assert document(ke("retries", "get", retry, "--json")) == api.retry
    assert api.calls[-1].path == f"/retries/{retry}"
    shown = ke("retries", "get", retry).stdout
    assert {retry, "succeeded", "3"} <= set(shown.split())
    sent = len(api.calls)
    assert ke("retries", "get", "../readyz").returncode == 2
    museum = ke("receipts", "get", "museum")
    assert museum.returncode == 2
    assert "cleanup-project-<name>-<run>" in museum.stderr
    assert len(api.calls) == sent


def test_a_refused_cancel_is_exit_code_3_with_the_gateways_own_words(ke: RunKe, api: ApiTwin) -> None:
    """409 passes through: one line for people, the problem document for machines."""
    job = api.add_job("completed")
    done = ke("jobs", "cancel", job)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: The job is completed: it cannot be cancelled.\n"
    for_machines = ke("jobs", "cancel", job, "--json")
    assert (for_machines.returncode, for_machines.stdout) == (3, "")
    problem = json.loads(for_machines.stderr)
    assert problem["type"] == "urn:ke:problem:not-cancellable"
    assert problem["status"] == 409
    assert problem["current_status"] == "completed"
    assert problem["allowed_actions"] == ["cleanup", "delete"]


def test_pause_and_resume_act_on_the_job(ke: RunKe, api: ApiTwin) -> None:
    """Each gives the job as it is then; a wrong state is exit code 3."""
    job = api.add_job("running")
    assert document(ke("jobs", "pause", job, "--json"))["status"] == "paused"
    assert ke("jobs", "pause", job).returncode == 3
    assert document(ke("jobs", "resume", f"job-{job}", "--json"))["status"] == "running"


def test_cleanup_dry_run_counts_and_deletes_nothing(ke: RunKe, api: ApiTwin) -> None:
    """The plan is shown and no receipt exists afterwards."""
    job = api.add_job("completed")
    plan = document(ke("jobs", "cleanup", job, "--dry-run", "--json"))
    assert plan["planned"] == COUNTS
    assert not api.receipts


def test_cleanup_with_wait_shows_the_receipt(ke: RunKe, api: ApiTwin) -> None:
    """What was deleted and that nothing remains, store by store; the receipt can be had again."""
    job = api.add_job("completed")
    done = ke("jobs", "cleanup", job, "--wait")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[-3:] for line in done.stdout.splitlines() if line.split()[-1:] == ["0"]}
    assert rows["vectors"] == ["40", "40", "0"]
    assert rows["entities"] == ["90", "90", "0"]
    assert document(ke("receipts", "get", job, "--json"))["remaining"] == ZEROS
    assert document(ke("jobs", "receipt", f"cleanup-{job}", "--json"))["job_id"] == job


def test_a_failed_cleanup_is_exit_code_1(ke: RunKe, api: ApiTwin) -> None:
    """Something remains: the receipt is printed, and the exit code says that it is not done."""
    job = api.add_job("completed")
    failed = {"status": "failed", "error": "3 vectors remain", "remaining": {**ZEROS, "vectors": 3}}
    api.receipts[f"cleanup-{job}"] = {
        "id": f"cleanup-{job}",
        "job_id": job,
        "planned": COUNTS,
        "deleted": ZEROS,
    } | failed
    done = ke("jobs", "cleanup", job, "--wait")
    assert done.returncode == 1
    assert "3 vectors remain" in done.stderr


def test_delete_asks_what_becomes_of_the_artifacts(ke: RunKe, api: ApiTwin) -> None:
    """Without a choice the gateway refuses (3); with one the job is gone, and then unknown (4)."""
    job = api.add_job("completed")
    refused = ke("jobs", "delete", job)
    assert refused.returncode == 3
    assert "delete with --cleanup, or keep them with --keep-artifacts" in refused.stderr
    assert document(ke("jobs", "delete", job, "--keep-artifacts", "--json")) == {"id": job, "deleted": True}
    assert ke("jobs", "get", job).returncode == 4


def test_delete_with_cleanup_waits_for_the_receipt(ke: RunKe, api: ApiTwin) -> None:
    """`--cleanup --wait` ends with the receipt of what was deleted."""
    job = api.add_job("cancelled")
    assert document(ke("jobs", "delete", job, "--cleanup", "--wait", "--json"))["deleted"] == COUNTS


def test_search_shows_hits_and_no_control_characters(ke: RunKe, api: ApiTwin) -> None:
    """A page cannot write to the terminal: escape sequences and markup come out as plain text."""
    api.hits = [
        {"text": "a \x1b[31mred\x1b[0m [bold]lamp[/bold]", "score": 0.5, "url": "https://e.com/\x07", "id": "1"}
    ]
    done = ke("search", "lamps", "--limit", "3", "--project", "docs")
    assert done.returncode == 0, done.stderr
    assert "[bold]lamp[/bold]" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07"}
    assert api.calls[-1].body == {"query": "lamps", "limit": 3, "project": "docs"}
    assert document(ke("search", "lamps", "--json"))["data"] == api.hits


def test_search_sends_every_filter_that_is_given(ke: RunKe, api: ApiTwin) -> None:
    """Each option is a member of the body, by the API's name; what is not given is not sent."""
    job = api.add_job("completed")
    options = {
        "mode": "text",
        "project": "docs",
        "url_prefix": "https://e.com/",
        "language": "en",
        "date_from": "2024-01-01",
        "date_to": "2024-12-31",
        "entity": "Ada",
        "entity_label": "PERSON",
        "embedder": "minilm",
        "rerank": "minilm",
    }
    api.hits = [{"text": "a lamp", "score": 0.5, "url": "https://e.com/", "id": "1"}]
    given = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert ke("search", "lamps", *given, "--job", job, "--every-chunk", "--json").returncode == 0
    expected = {"query": "lamps", "limit": 5, "job_ids": [job], "distinct_sources": False, **options}
    assert api.calls[-1].body == expected


def test_search_shows_the_snippet_and_that_there_may_be_more(ke: RunKe, api: ApiTwin) -> None:
    """The part with the query's words is shown, not the beginning; an answer that is not complete says so."""
    snippet = {"text": "one\n lamp \x1b[0m more", "start": 100, "marks": [[5, 9]]}
    api.hits = [{"text": "beginning", "snippet": snippet, "score": 0.5, "url": "https://e.com/", "id": "1"}]
    api.complete = False
    done = ke("search", "lamps")
    assert "one lamp " in done.stdout
    assert "beginning" not in done.stdout
    assert "\x1b" not in done.stdout
    assert "There may be more" in done.stdout


def test_sources_and_dead_letters_are_listed_and_purged(ke: RunKe, api: ApiTwin) -> None:
    """The thin commands over what a job leaves behind."""
    job = api.add_job("completed")
    api.sources = [{"id": "s1", "url": "https://e.com/", "title": "Home", "bytes": 2048, "fetched_at": now()}]
    api.letters = [
        {
            "subject": "page",
            "url": "https://e.com/x",
            "error_type": "http-500",
            "error_message": "no",
            "attempts": 3,
            "last_failed_at": now(),
        }
    ]
    assert "2.0 KiB" in ke("sources", "list", job).stdout
    assert "http-500" in ke("dead-letters", "list", job).stdout
    assert document(ke("dead-letters", "purge", job, "--json")) == {"purged": 1}
    assert document(ke("dead-letters", "list", job, "--json"))["data"] == []


def test_entities_are_listed_and_followed(ke: RunKe, api: ApiTwin) -> None:
    """Filters reach the gateway; a table shows spellings without what would steer a terminal, and where to go on."""
    listed = ke("entities", "list", "--project", "docs", "--label", "GPE", "--name", "bell", "--limit", "5")
    assert api.calls[-1].query == {"project": "docs", "label": "GPE", "q": "bell", "limit": "5"}
    assert all(word in listed.stdout for word in ("Bell Rock", "1,234", "the Bell Rock"))
    assert "\x1b" not in listed.stdout
    assert "--cursor more" in listed.stderr
    entity = api.entity["id"]
    assert document(ke("entities", "get", entity, "--json")) == api.entity
    assert "https://e.com/light" in ke("entities", "sources", entity).stdout
    assert "Robert Stevenson" in ke("entities", "neighbours", entity, "--limit", "3").stdout
    assert (api.calls[-1].path, api.calls[-1].query["limit"]) == (f"/entities/{entity}/neighbours", "3")
    assert ke("entities", "get", "Bell Rock").returncode == 2


def test_dead_letters_are_retried_and_followed(ke: RunKe, api: ApiTwin) -> None:
    """What is chosen reaches the gateway; with --wait the end is told, and a retry that failed is exit code 1."""
    job = api.add_job("completed_with_errors")
    filters = ("--subject", "page", "--error-type", "http-500", "--url-prefix", "https://e.com/")
    options = ("--id", "a", "--id", "b", *filters)
    started = document(ke("dead-letters", "retry", job, *options, "--json"))
    assert started["status"] == "running"
    chosen = {"subject": "page", "error_type": "http-500", "url_prefix": "https://e.com/"}
    assert api.calls[-1].body == {"ids": ["a", "b"], **chosen}
    ended = ke("dead-letters", "retry", job, "--wait")
    assert (ended.returncode, api.calls[-1].path) == (0, f"/retries/retry-{job}-1")
    assert "completed" in ended.stdout
    api.retry_end = {"status": "failed", "error": {"type": "fenced", "message": "A cleanup took the job over."}}
    failed = ke("dead-letters", "retry", job, "--wait", "--json")
    assert failed.returncode == 1
    assert "A cleanup took the job over." in failed.stderr
    listed = ke("dead-letters", "list", job, "--subject", "source", "--url-prefix", "https://e.com/")
    assert listed.returncode == 0
    assert {name: api.calls[-1].query[name] for name in ("subject", "url_prefix")} == {
        "subject": "source",
        "url_prefix": "https://e.com/",
    }


@pytest.mark.parametrize("subject", get_args(Subject))
def test_every_subject_of_dead_letters_can_be_chosen(ke: RunKe, api: ApiTwin, subject: str) -> None:
    """What the gateway knows as a subject, the command line takes."""
    assert ke("dead-letters", "list", api.add_job("completed"), "--subject", subject).returncode == 0
    assert api.calls[-1].query["subject"] == subject


def test_a_word_that_is_no_id_is_refused_before_anything_is_sent(ke: RunKe, api: ApiTwin) -> None:
    """Exit code 2, one line, no request."""
    done = ke("jobs", "get", "../readyz")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not api.calls


def test_an_unknown_job_is_exit_code_4(ke: RunKe) -> None:
    """404 passes through."""
    assert ke("jobs", "get", str(uuid.uuid4())).returncode == 4


def test_refused_input_is_exit_code_2_and_says_which_field(ke: RunKe) -> None:
    """422 passes through with the place that is wrong."""
    done = ke("crawl", "ftp://example.com/")
    assert done.returncode == 2
    assert done.stderr == "error: URL 1: Only http and https URLs are fetched.\n"


def test_a_dependency_that_is_down_is_exit_code_5(ke: RunKe, api: ApiTwin) -> None:
    """503 passes through."""
    api.broken = True
    done = ke("jobs", "list")
    assert done.returncode == 5
    assert done.stderr == "error: The database did not answer in time.\n"


def test_no_gateway_is_exit_code_5_and_says_how_to_start_one(ke: RunKe, tmp_path: Path) -> None:
    """Nothing listens, or nothing says where: one line each, no traceback."""
    refused = ke("jobs", "list", KE_API_URL="http://127.0.0.1:1")
    assert refused.returncode == 5
    assert "Traceback" not in refused.stderr
    unnamed = ke("jobs", "list", KE_API_URL="", KE_DATA_DIR=str(tmp_path / "none"))
    assert unnamed.returncode == 5
    assert "ke up" in unnamed.stderr
    assert ke("jobs", "list", "--api-url", "not a url").returncode == 2


def test_the_gateway_is_found_by_endpoints_json(ke: RunKe, api: ApiTwin, tmp_path: Path) -> None:
    """Without KE_API_URL the running embedded stack of KE_DATA_DIR is asked."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "endpoints.json").write_text(json.dumps({"api": api.url}))
    job = api.add_job("running")
    found = document(ke("jobs", "get", job, "--json", KE_API_URL="", KE_DATA_DIR=str(tmp_path / "data")))
    assert found["id"] == job


def test_wrong_usage_is_one_line_and_exit_code_2(ke: RunKe) -> None:
    """An unknown command or option, for people and for machines."""
    done = ke("jobs", "lst")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    problem = json.loads(ke("jobs", "list", "--json", "--limit", "many").stderr)
    assert problem["type"] == "urn:ke:problem:usage"


def test_help_names_the_exit_codes(ke: RunKe) -> None:
    """A script's author finds them without reading the source."""
    text = " ".join(ke("--help").stdout.split())
    for code in ("0 done", "1 the job failed", "2 wrong usage", "3 conflict", "4 not found", "5 the gateway", "130"):
        assert code in text


def test_watch_is_live_on_a_terminal(api: ApiTwin, tmp_path: Path) -> None:
    """On a terminal the same block is drawn again and again, and what it ends with stays."""
    job = api.add_job("running")
    api.script[job] = [{}, {}, {"status": "completed", "result": COUNTERS, "completed_at": now()}]
    ours, theirs = pty.openpty()
    watching = subprocess.Popen(
        [*KE, "jobs", "watch", job],
        env=environment(KE_API_URL=api.url, TERM="xterm"),
        cwd=tmp_path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    try:
        shown = b""
        with suppress(OSError):  # EIO is how a terminal says that its other end is closed
            while chunk := os.read(ours, 65536):
                shown += chunk
        assert watching.wait(TIME_LIMIT_S) == 0
    finally:
        watching.kill()
        watching.wait(TIME_LIMIT_S)
        os.close(ours)
    text = shown.decode()
    assert "running: 12 pages" in text
    assert "completed: 12 pages" in text
    assert "\x1b[" in text
