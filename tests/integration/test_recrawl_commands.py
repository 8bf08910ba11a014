"""Re-crawls from the command line, against a small real HTTP server."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from ke.cli.main import run
from tests.integration.api_twin import COUNTERS, ApiTwin, serving


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        monkeypatch.setenv("KE_API_URL", twin.url)
        yield twin


@pytest.mark.parametrize("command", ["crawl", "scrape"])
def test_forget_replaced_is_sent(api: ApiTwin, command: str) -> None:
    """Only where it is asked for."""
    earlier = api.add_job("completed")
    assert run([command, "https://e.com/", "--recrawl-of", earlier, "--forget-replaced"]) == 0
    assert (api.calls[-1].body["recrawl_of"], api.calls[-1].body["forget_replaced"]) == (earlier, True)
    assert run([command, "https://e.com/", "--recrawl-of", earlier]) == 0
    assert "forget_replaced" not in api.calls[-1].body
    share = ["--max-gone-share", "0.8"]
    assert run([command, "https://e.com/", "--recrawl-of", earlier, "--forget-replaced", *share]) == 0
    assert api.calls[-1].body["max_gone_share"] == 0.8


def test_pages_are_listed_with_the_documents_they_had(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """What can be forgotten is named, what is forgotten is told; where there is neither, there is no such column."""
    job, before = api.add_job("completed"), str(uuid.uuid4())
    page = {"url": "https://e.com/a", "state": "gone", "http_status": 404, "reason": "HTTP 404"}
    known = {"previous_source_id": before, "previous_is_stored": True}
    forgotten = {"previous_source_id": str(uuid.uuid4()), "previous_is_stored": False}
    plain = {"url": "https://e.com/b", "state": "fetched", "http_status": 200}
    api.pages = [{**page, **known}, {**page, "url": "https://e.com/c", **forgotten}, plain]
    assert run(["jobs", "pages", job, "--state", "gone"]) == 0
    assert api.calls[-1].query["state"] == "gone"
    shown = capsys.readouterr().out
    head, first, second = shown.splitlines()
    assert head.split() == ["STATE", "HTTP", "EARLIER", "SOURCE", "URL", "REASON"]
    assert first.split()[:4] == ["gone", "404", before, "https://e.com/a"]
    assert second.split()[:4] == ["gone", "404", "forgotten", "https://e.com/c"]
    assert run(["jobs", "pages", job, "--state", "fetched"]) == 0
    assert "EARLIER" not in capsys.readouterr().out
    assert run(["jobs", "pages", job, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == api.pages


def test_recrawl_with_nothing_in_common_is_warned_of(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, beside the job; one that has pages in common says how many."""
    earlier = api.add_job("completed")
    job = api.add_job("completed", params={"recrawl_of": earlier}, earlier_pages=0)
    for command in (["jobs", "get", job], ["jobs", "watch", job]):
        assert run(command) == 0
        shown = capsys.readouterr()
        assert f"No page of job {earlier} is in this job's scope" in shown.err
        assert f"0 with job {earlier}" in shown.out
    job = api.add_job("completed", params={"recrawl_of": earlier}, earlier_pages=34)
    assert run(["jobs", "get", job]) == 0
    shown = capsys.readouterr()
    assert ("No page" in shown.err, f"34 with job {earlier}" in shown.out) == (False, True)


OUTDATED = [
    ({}, 3, "still finds what 3 pages said before they changed or went (ke sources forget deletes it, and so does ke"),
    ({}, 1, "still finds what 1 page said before it changed or went (ke sources forget deletes it, and so does ke"),
    ({"changed": 20_000}, 7, "still finds what 7 or more pages said before they changed or went"),
    ({"forgetting": "running"}, 3, "said before they changed or went is being deleted, with what re-crawls"),
    ({"forgetting": "ended"}, 3, "still finds what 3 pages said before they changed or went, as another page has it"),
    ({"forgetting": "held"}, 3, "changed or went (so much is gone that the site may be broken; ke crawl --recrawl-of"),
    ({"forgetting": None}, 3, "still finds what 3 pages said before they changed or went: ke jobs pages"),
    ({"forgetting": None}, 0, "No earlier document of a page that has changed or is gone is left, but for what"),
]


@pytest.mark.parametrize(("members", "left", "told"), OUTDATED)
def test_what_is_still_found_of_before_is_told(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], members: dict[str, Any], left: int, told: str
) -> None:
    """With how to see it, counted, and whether it is being deleted; only what is true.

    A re-crawl of this one deletes what this one has replaced.
    """
    params = {"recrawl_of": api.add_job("completed"), "forget_replaced": "forgetting" in members}
    members = dict(members)
    changed = members.pop("changed", 2)
    numbers = {"pages_new": 2, "pages_changed": changed, "pages_gone": 1}
    job = api.add_job("completed", params=params, result=numbers, previous_stored=left, **members)
    assert run(["jobs", "get", job]) == 0
    shown = capsys.readouterr()
    assert told in shown.err
    advice = f"so does ke crawl --recrawl-of {job} --forget-replaced"
    assert (advice in shown.err) == (not params["forget_replaced"])
    assert (f"ke jobs pages {job} --state changed, and ke jobs pages {job} --state gone" in shown.err) == (left > 0)
    assert [line.split()[-1] for line in shown.out.splitlines() if line.startswith("pages")] == [
        "2",
        f"{changed:,}",
        "1",
    ]


def test_only_what_became_of_pages_is_named(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none is gone, none that is gone is spoken of."""
    params = {"recrawl_of": api.add_job("completed")}
    job = api.add_job("completed", params=params, result={"pages_changed": 2}, previous_stored=2)
    assert run(["jobs", "get", job]) == 0
    told = capsys.readouterr().err
    assert ("before they changed (" in told, f"ke jobs pages {job} --state changed\n" in told) == (True, True)
    assert "gone" not in told


def test_nothing_is_told_where_nothing_is_left(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Nor where only new pages came, the re-crawl goes on, or an older gateway does not count."""
    params = {"recrawl_of": api.add_job("completed")}
    numbers = {"pages_fetched": 3, "pages_changed": 2, "pages_gone": 1}
    for quiet in (
        api.add_job("completed", params=params, result={"pages_fetched": 3, "pages_new": 3, "pages_unchanged": 34}),
        api.add_job("completed", params=params, result=numbers, previous_stored=0),
        api.add_job("completed", params=params, result=numbers),
        api.add_job("running", params=params, progress=numbers),
        api.add_job("completed", result={"pages_fetched": 3}),
    ):
        assert run(["jobs", "get", quiet]) == 0
        assert capsys.readouterr().err == ""


def test_how_to_go_on_beyond_a_limit_is_told(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """By a re-crawl under twice the limits that were reached, where there can be one."""
    limits = {"max_pages": 500, "max_depth": 5, "max_bytes": 1000, "max_seconds": None}
    result = {"pages_fetched": 500, "limits_reached": ["max_pages", "max_bytes", "max_tokens"]}
    job = api.add_job("completed", params={"limits": limits}, result=result)
    assert run(["jobs", "get", job]) == 0
    told = capsys.readouterr().err
    assert told == f"To go on beyond the limit: ke crawl --recrawl-of {job} --max-pages 1000 --max-bytes 2000\n"
    command = told.split(": ke ")[1].split()
    assert run(command) == 0
    asked = {"limits": {"max_pages": 1000, "max_bytes": 2000}, "recrawl_of": job}
    assert api.calls[-1].body == {"kind": "crawl", "labels": {}, **asked}
    capsys.readouterr()
    most = {**limits, "max_pages": 1_000_000}
    for quiet in (
        api.add_job("completed", params={"limits": limits}, result=result, artifacts="cleaned"),
        api.add_job("completed", params={"limits": most}, result={"limits_reached": ["max_pages"]}),
        api.add_job("completed", params={"limits": limits}, result={"limits_reached": ["max_tokens"]}),
        api.add_job("running", params={"limits": limits}),
    ):
        assert run(["jobs", "get", quiet]) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("command", ["crawl", "scrape"])
def test_only_what_is_given_is_sent_of_a_recrawl(api: ApiTwin, command: str) -> None:
    """Addresses, extraction and project included: the rest is the earlier job's. Each can be turned on or off."""
    earlier = api.add_job("completed")
    assert run([command, "--recrawl-of", earlier]) == 0
    assert api.calls[-1].body == {"kind": command, "recrawl_of": earlier, "labels": {}}
    assert run([command, "--recrawl-of", earlier, "--entities", "--no-browser", "--instructions", "Briefly."]) == 0
    body = api.calls[-1].body
    assert (body["extract"], body["browser"]) == ({"entities": "spacy", "instructions": "Briefly."}, False)
    assert run([command, "--recrawl-of", earlier, "--extract"]) == 0
    assert api.calls[-1].body["extract"] == {}
    assert run([command, "--recrawl-of", earlier, "--no-extract"]) == 0
    assert api.calls[-1].body["extract"] is None
    if command == "crawl":
        assert run([command, "--recrawl-of", earlier, "--same-host", "--sitemaps", "--robots"]) == 0
        assert api.calls[-1].body["scope"] == {"same_host": True, "sitemaps": True, "robots": True}


def test_what_was_taken_over_is_shown(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """With its values, as options."""
    taken = ["/seeds", "/limits/max_pages", "/scope/exclude", "/browser", "/extract/chunk_tokens", "/project"]
    params = {"recrawl_of": api.add_job("completed"), "seeds": ["https://e.com/"], "limits": {"max_pages": 1000}}
    params |= {"scope": {"exclude": ["a"]}, "browser": True, "extract": {"chunk_tokens": 99}, "taken_over": taken}
    job = api.add_job("running", params=params, project="docs")
    assert run(["jobs", "get", job]) == 0
    told = "URL, --max-pages 1000, --exclude, --browser, --chunk-tokens 99, --project docs"
    assert told in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("relying", "told"),
    [
        ({"pages": 1, "jobs": 1}, ("1 page of 1 other job", "its document")),
        ({"pages": 1200, "jobs": 12}, ("1,200 pages of 12 other jobs", "their document")),
    ],
)
def test_cleanup_names_jobs_whose_pages_rely_on_what_goes(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], relying: dict[str, int], told: tuple[str, str]
) -> None:
    """Before and after, with how their pages come back; where there are none, nothing is said."""
    job = api.add_job("completed")
    assert run(["jobs", "cleanup", job, "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert ("other job" in shown.out, shown.err) == (False, "")
    names = [str(uuid.uuid4()) for _ in range(min(relying["jobs"], 10))]
    api.relying = {**relying, "job_ids": names}
    more = " and 2 more" if relying["jobs"] == 12 else ""
    for options, lose in ((["--dry-run"], "would lose"), ([], "will lose"), (["--wait"], "lost")):
        assert run(["jobs", "cleanup", job, *options]) == 0
        shown = capsys.readouterr()
        assert f"{told[0]} {lose} {told[1]}: {', '.join(names)}{more}" in " ".join(shown.out.split())
        assert "A re-crawl of such a job (--recrawl-of) fetches and extracts these pages anew." in shown.err


def test_forgetting_names_jobs_whose_pages_go_too(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """They go with their document."""
    api.relying = {"pages": 2, "jobs": 1, "job_ids": [str(uuid.uuid4())]}
    assert run(["sources", "forget", str(uuid.uuid4()), "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert "2 pages of 1 other job would go with it: " in " ".join(shown.out.split())
    assert "re-crawl" not in shown.err


def test_page_whose_document_was_deleted_says_so(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside its reason, if it has one; of a page that is gone it is the earlier source that is forgotten."""
    job, source = api.add_job("completed"), str(uuid.uuid4())
    page = {"url": "https://e.com/a", "state": "unchanged", "http_status": 304, "source_id": source}
    api.pages = [{**page, "source_is_stored": False}, {**page, "source_is_stored": True}]
    api.pages += [{**page, "state": "duplicate", "reason": "same as b", "source_is_stored": False}]
    assert run(["jobs", "pages", job]) == 0
    lines = [line.split("https://e.com/a")[1].strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == ["its document was deleted since", "-", "same as b; its document was deleted since"]


def test_source_is_shown_with_what_it_says_of_itself(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Author, date and language, where the document declares them."""
    source = {"id": str(uuid.uuid4()), "url": "https://e.com/a", "title": "Lights", "text": "Of lamps."}
    api.sources = [{**source, "metadata": {"author": "Ada", "date": "2026-03-31", "reader": "thorough"}}]
    assert run(["sources", "get", source["id"]]) == 0
    shown = capsys.readouterr().out
    words = shown.split()
    assert (words[words.index("author") + 1], words[words.index("date") + 1]) == ("Ada", "2026-03-31")
    assert ("language" in words, "reader" in words, "Of lamps." in shown) == (False, False, True)


def test_what_the_job_before_has_not_extracted_is_named(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """A re-crawl leaves what is unchanged as it is: the command that extracts it is said, where there is something."""
    earlier = api.add_job("cancelled", result=COUNTERS | {"sources_skipped": 7})
    params = {"recrawl_of": earlier, "extract": {}}
    job = api.add_job("completed", params=params, result=COUNTERS | {"pages_unchanged": 8})
    assert run(["jobs", "watch", job]) == 0
    line = f"Job {earlier} left 7 documents not extracted, and what is unchanged is not extracted here"
    assert f"{line}: ke extract {earlier}" in capsys.readouterr().err.replace("\n", " ")
    whole = api.add_job("completed", result=dict(COUNTERS))
    for others in ({"recrawl_of": whole}, {"extract": None}, {"recrawl_of": None}, {"recrawl_of": str(uuid.uuid4())}):
        job = api.add_job("completed", params=params | others, result=COUNTERS | {"pages_unchanged": 8})
        assert run(["jobs", "watch", job]) == 0
        assert "not extracted" not in capsys.readouterr().err


def test_recrawl_that_does_not_go_on_from_the_newest_is_told(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Which job to name; nothing where it is named, where it left nothing, or where it is this very job."""

    def told(earlier: str, *options: str) -> str:
        assert run(["crawl", "https://e.com/", "--recrawl-of", earlier, *options]) == 0
        return capsys.readouterr().err

    first = api.add_job("completed")
    assert "crawled this again" not in told(first)
    for job in api.jobs.values():
        job["status"] = "completed"
    second = list(api.jobs)[-1]
    third = api.add_job("completed_with_errors", params={"recrawl_of": second})
    api.add_job("cancelled", params={"recrawl_of": third})
    api.add_job("completed", params={"recrawl_of": third}, artifacts="cleaned")
    assert f"Job {third} has crawled this again since" in told(first)
    assert f"Job {third} has crawled this again since" in told(second)
    assert "crawled this again" not in told(third)
