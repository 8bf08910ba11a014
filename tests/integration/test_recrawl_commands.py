"""Re-crawls from the command line, against a small real HTTP server."""

import json
import uuid
from collections.abc import Iterator

import pytest

from ke.cli.main import run
from tests.integration.api_twin import ApiTwin, serving


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


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_still_found_of_before_is_told(
    api: ApiTwin, capsys: pytest.CaptureFixture[str], *, asked: bool
) -> None:
    """After a re-crawl, with how to see it; where nothing has changed, or it goes on, there is nothing to tell."""
    params = {"recrawl_of": api.add_job("completed"), "forget_replaced": asked}
    numbers = {"pages_fetched": 2, "pages_gone": 1}
    job = api.add_job("completed", params=params, earlier_pages=34, result=numbers)
    assert run(["jobs", "get", job]) == 0
    told = capsys.readouterr().err
    assert f"ke jobs pages {job} --state changed" in told
    assert ("is being deleted" in told, "still finds" in told) == (asked, not asked)
    for quiet in (
        api.add_job("completed", params=params, earlier_pages=34, result={"pages_unchanged": 34}),
        api.add_job("running", params=params, earlier_pages=34, progress=numbers),
        api.add_job("completed", result=numbers),
    ):
        assert run(["jobs", "get", quiet]) == 0
        assert capsys.readouterr().err == ""


def test_source_is_shown_with_what_it_says_of_itself(api: ApiTwin, capsys: pytest.CaptureFixture[str]) -> None:
    """Author, date and language, where the document declares them."""
    source = {"id": str(uuid.uuid4()), "url": "https://e.com/a", "title": "Lights", "text": "Of lamps."}
    api.sources = [{**source, "metadata": {"author": "Ada", "date": "2026-03-31", "reader": "thorough"}}]
    assert run(["sources", "get", source["id"]]) == 0
    shown = capsys.readouterr().out
    words = shown.split()
    assert (words[words.index("author") + 1], words[words.index("date") + 1]) == ("Ada", "2026-03-31")
    assert ("language" in words, "reader" in words, "Of lamps." in shown) == (False, False, True)
