"""How values read on a terminal, and which exit code an error gives."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from ke.cli import output
from ke.cli.errors import ExitCode, code_for_status, detail_of
from ke.cli.options import labels_of, parse_job_id, receipt_id
from ke.cli.text import age, clean, count, duration, local_time, moment, printable, shorten, size
from ke.cli.watch import summary
from ke.contracts.cleanup import STORES
from ke.contracts.jobs import JobStatus
from ke.contracts.naming import cleanup_id


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.421, "0.42 s"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (7800, "2 h 10 min"),
        (273_700, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_durations_read_in_the_unit_that_fits(seconds: float | None, text: str) -> None:
    """Seconds become what a person would say."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value_bytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 1024**2, "5.0 MiB"), (3 * 1024**4, "3.0 TiB"), (None, "-")],
)
def test_sizes_read_in_the_unit_that_fits(value_bytes: int | None, text: str) -> None:
    """Bytes become KiB, MiB and so on."""
    assert size(value_bytes) == text


def test_counts_are_grouped_and_absent_ones_are_a_dash() -> None:
    """A thousand has its comma."""
    assert (count(1234567), count(0), count(None)) == ("1,234,567", "0", "-")


@pytest.mark.parametrize(("ago_s", "text"), [(5, "5s"), (300, "5m"), (7200, "2h"), (259_200, "3d"), (-5, "0s")])
def test_ages_have_one_unit(ago_s: int, text: str) -> None:
    """How long ago, never negative when clocks differ."""
    now = datetime(2026, 1, 10, tzinfo=UTC)
    assert age((now - timedelta(seconds=ago_s)).isoformat(), now=now) == text


def test_a_time_that_is_none_reads_as_a_dash() -> None:
    """Garbage from outside is no traceback."""
    assert (age("yesterday"), age(None), local_time(3), moment("nonsense")) == ("-", "-", "-", None)


def test_text_from_a_page_cannot_steer_the_terminal() -> None:
    """Escape sequences, line breaks and marks that reorder text become spaces; indentation stays in `printable`."""
    assert clean("\x1b[2J a\r\nb\u202ec\x9b1m ") == "[2J a b c 1m"
    assert printable("    code\x1b") == "    code "


def test_long_text_ends_in_an_ellipsis() -> None:
    """Never longer than asked for."""
    assert shorten("one two  three", 9) == "one two…"
    assert shorten("short", 9) == "short"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.USAGE),
        (422, ExitCode.USAGE),
        (413, ExitCode.USAGE),
        (404, ExitCode.NOT_FOUND),
        (410, ExitCode.NOT_FOUND),
        (409, ExitCode.CONFLICT),
        (429, ExitCode.UNAVAILABLE),
        (500, ExitCode.UNAVAILABLE),
        (503, ExitCode.UNAVAILABLE),
    ],
)
def test_exit_codes_follow_the_http_status(status: int, code: ExitCode) -> None:
    """What a script branches on is stable."""
    assert code_for_status(status) is code


def test_a_problems_detail_passes_untouched_and_further_fields_follow() -> None:
    """The first wrong field is in the detail already; the others are named after it."""
    errors = [{"pointer": "/a", "detail": "No."}, {"pointer": "/b", "detail": "Too long."}]
    assert detail_of({"detail": "/a: No. (and 1 more)", "errors": errors}) == "/a: No. (and 1 more); /b: Too long."
    assert detail_of({"detail": "As it is."}) == "As it is."
    assert detail_of({}) == "the gateway refused, without saying why"


def test_job_ids_are_read_from_workflow_and_receipt_names() -> None:
    """Whatever name of a job was at hand can be pasted."""
    job = "0b7e2f0e-6a0f-4c1e-9a55-0d7f3f3f1c11"
    assert {parse_job_id(text) for text in (job, f"job-{job}", f"cleanup-{job}", job.upper())} == {job}


def test_the_receipts_id_is_the_contracts() -> None:
    """The CLI's own spelling of it cannot drift."""
    assert receipt_id("x") == cleanup_id("x")


def test_the_last_label_of_a_key_counts() -> None:
    """A value may hold an equals sign."""
    assert labels_of(["a=1", "b=2=3", "a=4"]) == {"a": "4", "b": "2=3"}
    assert labels_of(None) == {}


def test_a_summary_names_only_what_there_is() -> None:
    """Zeros are left out, and so is the waiting of a job that has ended."""
    progress = {"pages_fetched": 3, "pages_failed": 0, "bytes": 2048}
    assert summary({"status": "running", "progress": progress}) == "running: 3 pages, 2.0 KiB"
    assert summary({"status": "queued", "waiting_for": "no worker"}) == "queued: waiting for no worker"
    assert summary({"status": "failed", "waiting_for": "no worker", "progress": {}}) == "failed"


def test_every_state_of_a_job_has_a_colour() -> None:
    """A new state cannot be forgotten here."""
    assert set(JobStatus) <= set(output.STATUS_STYLE)


def test_a_receipt_shows_every_store() -> None:
    """A new store cannot be forgotten here."""
    text = rendered(output.cleanup_receipt, {"planned": dict.fromkeys(STORES, 7), "deleted": {}, "remaining": {}})
    assert all(store.replace("_", " ") in text for store in STORES)


def test_tables_in_a_pipe_are_not_cut() -> None:
    """A long URL stays whole, and markup in it is text."""
    url = f"https://example.com/[bold]{'x' * 300}"
    text = rendered(output.source_list, {"data": [{"id": "1", "url": url, "title": "t"}], "next_cursor": None})
    assert url in text


def rendered(view: Any, document: dict[str, Any]) -> str:
    stream = io.StringIO()
    view(Console(file=stream, width=output.PIPE_WIDTH, highlight=False), document)
    return stream.getvalue()
