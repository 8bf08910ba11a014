"""The commands about what failed for good, and its retries."""

import uuid
from typing import get_args

import pytest

from ke.contracts.retries import Subject
from tests.integration.api_twin import ApiTwin, now
from tests.integration.cli.process import RunKe, document


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
    api.retry_end = {"status": "completed", "succeeded": 0, "failed": 4}
    none = ke("dead-letters", "retry", job, "--wait")
    assert (none.returncode, none.stderr) == (
        1,
        f"error: retry-{job}-1 completed, and none of its dead letters succeeded\n",
    )
    api.retry_end = {"status": "completed", "succeeded": 1, "failed": 3}
    assert ke("dead-letters", "retry", job, "--wait").returncode == 0
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


def test_a_dead_letter_tells_on_which_page_its_link_is(ke: RunKe, api: ApiTwin) -> None:
    """In a column of its own, where any of those that are listed has such a page."""
    job = api.add_job("completed_with_errors")
    letter = {"subject": "page", "url": "https://e.com/x", "error_type": "http-404", "error_message": "gone"}
    api.letters = [letter | {"found_on": None}]
    assert "FOUND ON" not in ke("dead-letters", "list", job).stdout
    api.letters.append(letter | {"found_on": "https://e.com/links"})
    header, first, second = ke("dead-letters", "list", job).stdout.splitlines()
    assert header.split()[-3:] == ["FOUND", "ON", "MESSAGE"]
    assert (first.split()[-2:], second.split()[-2:]) == (["-", "gone"], ["https://e.com/links", "gone"])


def test_dead_letters_are_counted_by_error(ke: RunKe, api: ApiTwin) -> None:
    """One line an error, with the first letter of each; filters reach the gateway; what is left out is told."""
    job = api.add_job("completed_with_errors")
    assert ke("dead-letters", "summary", job).stdout == "No dead letters.\n"
    lost = {"subject": "page", "error_type": "http-404", "error_message": "Not there."}
    api.letters = [lost | {"url": f"https://e.com/{number}"} for number in range(3)]
    api.letters.append({"subject": "source", "error_type": "broken", "url": "https://e.com/s"})
    shown = ke("dead-letters", "summary", job)
    rows = [line.split() for line in shown.stdout.splitlines()[1:]]
    assert [(row[0], *row[2:5]) for row in rows] == [
        ("3", "page", "http-404", "https://e.com/0"),
        ("1", "source", "broken", "https://e.com/s"),
    ]
    assert shown.stderr == ""
    api.errors_left_out = 5
    assert "of 7 errors, of 4 dead letters in all" in ke("dead-letters", "summary", job).stderr
    told = document(ke("dead-letters", "summary", job, "--subject", "page", "--url-prefix", "https://e.com/", "--json"))
    assert told["letters"] == 4
    assert api.calls[-1].query == {"subject": "page", "url_prefix": "https://e.com/"}
