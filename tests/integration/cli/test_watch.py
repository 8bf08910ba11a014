"""Following a job to its end: what is shown, and the exit code."""

import json
import os
import pty
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ke.cli.main import run
from tests.integration.api_twin import COUNTERS, ApiTwin, now
from tests.integration.cli.process import KE, TIME_LIMIT_S, RunKe, document, environment


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


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ([("failed", "HTTP 404")], "The start page https://e.com/0 was not fetched: HTTP 404"),
        (
            [("failed", "HTTP 404"), ("skipped", "disallowed by robots.txt")],
            "2 start pages were not fetched: https://e.com/0 (HTTP 404), https://e.com/1 (disallowed by robots.txt)",
        ),
        ([("failed", None)] * 5, "https://e.com/1 (failed), https://e.com/2 (failed), and 2 more"),
        ([], None),
    ],
    ids=["one", "two", "many", "none"],
)
def test_start_pages_that_were_not_fetched_are_named(
    ke: RunKe, api: ApiTwin, lost: list[tuple[str, str | None]], told: str | None
) -> None:
    """Also where a sitemap led on and something was stored, which is exit code 0; other pages are not named."""
    pages = [{"url": f"https://e.com/{n}", "depth": 0, "state": s, "reason": why} for n, (s, why) in enumerate(lost)]
    api.pages = [*pages, {"url": "https://e.com/deep", "depth": 1, "state": "failed", "reason": "HTTP 404"}]
    job = api.add_job("completed_with_errors")
    for options in ([], ["--json"]):
        done = ke("jobs", "watch", job, *options)
        assert done.returncode == 0
        lines = [line for line in done.stderr.splitlines() if "start page" in line]
        assert len(lines) == (told is not None)
        assert "deep" not in done.stderr
        if told is not None:
            assert told in lines[0]
            assert done.stderr.splitlines()[0] == lines[0]


def test_pages_of_a_scrape_that_were_not_fetched_are_named(ke: RunKe, api: ApiTwin) -> None:
    """Beside those that were: a script that asked for a page learns that it has not got it."""
    api.pages = [{"url": f"https://e.com/{n}", "depth": 0, "state": "failed", "reason": "HTTP 404"} for n in range(4)]
    result = {**COUNTERS, "pages_failed": 4, "pages_skipped": 0}
    done = ke("jobs", "watch", api.add_job("completed_with_errors", kind="scrape", result=result))
    assert done.returncode == 0
    named = ", ".join(f"https://e.com/{n} (HTTP 404)" for n in range(3))
    assert done.stderr.splitlines()[0] == f"4 pages were not fetched: {named}, and 1 more"
    del api.pages[1:]
    done = ke(
        "jobs", "watch", api.add_job("completed_with_errors", kind="scrape", result={**result, "pages_failed": 1})
    )
    assert done.stderr.splitlines()[0] == "The page https://e.com/0 was not fetched: HTTP 404"


@pytest.mark.parametrize("artifacts", ["cleaning", "cleaned", "cleanup_failed"])
def test_dead_letters_that_are_deleted_are_not_pointed_to(ke: RunKe, api: ApiTwin, artifacts: str) -> None:
    """A job that was cancelled and cleaned has none to read."""
    done = ke("jobs", "watch", api.add_job("cancelled", artifacts=artifacts))
    assert done.returncode == 1
    assert "dead-letters" not in done.stderr


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


NOTHING = dict.fromkeys(COUNTERS, 0)


@pytest.mark.parametrize(
    ("members", "code", "said"),
    [
        ({"status": "completed"}, 0, "ke dead-letters list"),
        ({"status": "completed", "result": NOTHING | {"sources": 1}}, 0, ""),
        ({"status": "completed_with_errors", "result": COUNTERS | {"dead_letters": 400}}, 0, "ke dead-letters summary"),
        (
            {"status": "completed_with_errors", "result": NOTHING | {"pages_failed": 2, "dead_letters": 2}},
            1,
            "completed_with_errors, and nothing was stored: 2 failed, 2 dead letters",
        ),
        ({"status": "completed", "result": NOTHING | {"pages_skipped": 3}}, 1, "nothing was stored: 3 skipped"),
        ({"status": "completed", "result": NOTHING}, 1, "nothing was stored: there was nothing"),
        ({"status": "completed", "result": NOTHING | {"pages_unchanged": 4}}, 0, ""),
        ({"status": "completed", "result": NOTHING | {"pages_gone": 1}}, 0, ""),
        ({"status": "completed", "kind": "extract", "result": NOTHING | {"sources_extracted": 1}}, 0, ""),
        (
            {"status": "completed_with_errors", "kind": "extract", "result": NOTHING | {"dead_letters": 1}},
            1,
            "nothing was extracted: 1 dead letter",
        ),
        ({"status": "cancelled", "result": COUNTERS}, 1, "was cancelled: no reason given"),
        ({"status": "cancelled", "result": {**COUNTERS, "cancellation": {"reason": "enough"}}}, 1, "cancelled: enough"),
        ({"status": "failed", "error": None}, 1, "failed: no reason given"),
    ],
)
def test_exit_code_says_whether_anything_came_of_the_job(
    api: ApiTwin,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    members: dict[str, Any],
    code: int,
    said: str,
) -> None:
    """0 where something is stored or was found out, whatever failed beside it; 1 where nothing is, and why."""
    monkeypatch.setenv("KE_API_URL", api.url)
    job = api.add_job(**members)
    assert run(["jobs", "watch", job]) == code
    told = capsys.readouterr().err
    assert said in told
    assert ("error: " in told) == (code == 1)


def test_waiting_for_a_job_that_stores_nothing_is_exit_code_1(ke: RunKe, api: ApiTwin) -> None:
    """Of `--wait` as of `ke jobs watch`; the job is printed all the same, and for machines the problem beside it."""
    lost = {"status": "completed_with_errors", "result": NOTHING | {"pages_failed": 1, "dead_letters": 1}}
    api.ends = lost
    done = ke("scrape", "https://example.com/", "--wait", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["status"] == "completed_with_errors"
    assert json.loads(done.stderr.splitlines()[-1])["type"] == "urn:ke:problem:nothing-stored"
