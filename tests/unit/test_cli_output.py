"""How values read on a terminal, and which exit code an error gives."""

import functools
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from rich.console import Console

from api.schemas import CrawlBody, ExtractBody, ExtractOptions, ScrapeBody
from api.search_body import SearchBody
from ke.cli import output
from ke.cli.errors import ExitCode, code_for, code_for_status, detail_of
from ke.cli.main import app
from ke.cli.options import labels_of, parse_job_id, receipt_id
from ke.cli.tables import PIPE_WIDTH
from ke.cli.telling import going_on
from ke.cli.text import age, clean, count, duration, local_time, moment, money, printable, shorten, size
from ke.cli.watch import summary
from ke.cli.wording import option_of
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


def test_what_a_body_names_and_is_not_there_is_not_found() -> None:
    """Though the gateway answers 422: for a script it is the same as a job that is asked for and is not there."""
    assert code_for(422, {"type": "urn:ke:problem:unknown-reference"}) is ExitCode.NOT_FOUND
    assert code_for(422, {"type": "urn:ke:problem:validation-failed"}) is ExitCode.USAGE


def test_what_cannot_be_crawled_again_comes_with_the_command_that_crawls_anew() -> None:
    """With as many addresses as a line can take, each a word of the shell's."""
    cleaned = "Job 1 is cleaned. Without recrawl_of its seeds can be submitted anew."
    told = "Job 1 is cleaned. Without --recrawl-of its seeds can be submitted anew: ke "
    assert detail_of({"detail": cleaned, "seeds": ["https://e.com/?a&b"]}) == f"{told}crawl 'https://e.com/?a&b'"
    many = [f"https://e.com/{number}" for number in range(21)]
    assert detail_of({"detail": cleaned, "urls": many}) == f"{told}scrape {' '.join(many[:20])} ..."
    assert detail_of({"detail": "As it is.", "seeds": []}) == "As it is."


def test_a_problems_detail_passes_untouched_and_further_fields_follow() -> None:
    """The first wrong field is in the detail already; the others are named after it."""
    errors = [{"pointer": "/a", "detail": "No."}, {"pointer": "/b", "detail": "Too long."}]
    assert detail_of({"detail": "/a: No. (and 1 more)", "errors": errors}) == "/a: No; /b: Too long."
    assert detail_of({"detail": "As it is."}) == "As it is."
    assert detail_of({}) == "the gateway refused, without saying why"


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        ({"pointer": "/limits/max_pages", "detail": "No."}, "--max-pages: No."),
        ({"pointer": "/extract/chunk_tokens", "detail": "No."}, "--chunk-tokens: No."),
        ({"pointer": "/rate/delay_s", "detail": "No."}, "--delay: No."),
        ({"pointer": "/scope/include/3", "detail": "No."}, "--include: No."),
        ({"pointer": "/seeds/2", "detail": "No."}, "URL 3: No."),
        ({"pointer": "/labels/team", "detail": "No."}, "--label team: No."),
        ({"parameter": "q", "detail": "No."}, "--name: No."),
        ({"pointer": "/frobnicate", "detail": "No."}, "/frobnicate: No."),
        ({"pointer": "", "detail": "date_from is after date_to."}, "--date-from is after --date-to."),
    ],
)
def test_fields_are_told_by_their_options(problem: dict[str, str], line: str) -> None:
    """Who typed options is not told of JSON pointers; what no option stands for keeps its name, as does the API's."""
    place = problem.get("pointer") or problem.get("parameter") or "the body"
    assert detail_of({"detail": f"{place}: {problem['detail']}", "errors": [problem]}) == line


def test_every_field_of_a_job_and_of_a_search_has_its_option() -> None:
    """A new field of the API is told by an option too, and each option that is told exists in a command."""
    commands = [typer.main.get_command(app).commands[name] for name in ("crawl", "scrape", "extract", "search")]
    known = {option for command in commands for parameter in command.params for option in _names(parameter)}
    fields = (
        set(names_of(CrawlBody)) | set(names_of(ScrapeBody)) | set(names_of(ExtractBody)) | set(names_of(SearchBody))
    )
    silent = {"kind", "browser", "mode", "distinct_sources", "extract"}  # flags and choices, which cannot be wrong
    assert {option_of(f"/{name}") for name in fields - silent} <= known


def _names(parameter: Any) -> list[str]:
    names = [*parameter.opts, *parameter.secondary_opts]
    return ["URL" if name == "urls" else name.upper() if name in {"job", "query"} else name for name in names]


def names_of(body: type[BaseModel]) -> Iterator[str]:
    for name, field in body.model_fields.items():
        default = field.get_default(call_default_factory=True)
        part = ExtractOptions if name == "extract" else type(default)
        if issubclass(part, BaseModel):
            yield from names_of(part)
        else:
            yield field.alias or name


def test_routes_are_told_by_their_commands() -> None:
    """What the API tells to ask for next is told as a command."""
    job = "0b7e2f0e-6a0f-4c1e-9a55-0d7f3f3f1c11"
    assert detail_of({"detail": f"To delete what it made: POST /jobs/{job}/cleanup."}) == (
        f"To delete what it made: ke jobs cleanup {job}."
    )
    assert detail_of({"detail": f"GET /cleanups/cleanup-{job} tells how far."}) == (
        f"ke receipts get cleanup-{job} tells how far."
    )


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
    recrawl = {"pages_fetched": 1, "pages_changed": 1, "pages_unchanged": 35, "pages_gone": 2, "extractions": 1}
    assert summary({"status": "completed", "result": recrawl}) == (
        "completed: 1 page, 1 changed, 35 unchanged, 2 gone, 1 chunk"
    )
    assert summary({"status": "queued", "waiting_for": "no worker"}) == "queued: waiting: no worker"
    assert summary({"status": "failed", "waiting_for": "no worker", "progress": {}}) == "failed"


def test_a_job_that_was_cut_short_says_by_what_and_what_it_cost() -> None:
    """Limits and budgets that left something undone are told as options, and money without a currency."""
    params = {"limits": {"max_pages": 5}, "extract": {"max_tokens": 900}}
    result = {"pages_fetched": 5, "cost_micros": 12_300, "limits_reached": ["max_pages", "max_tokens"]}
    job = {"status": "completed", "params": params, "result": result}
    assert summary(job) == "completed: 5 pages, cost 0.0123, stopped by --max-pages 5, --max-tokens 900"
    shown = [line.split(maxsplit=2) for line in rendered(output.job_detail, job).splitlines()]
    assert ["stopped", "by", "--max-pages 5, --max-tokens 900"] in shown
    assert ["cost", "0.0123"] in shown
    of_extract = {"status": "completed", "params": {"max_tokens": 7}, "result": {"limits_reached": ["max_tokens"]}}
    assert summary(of_extract) == "completed: stopped by --max-tokens 7"


@pytest.mark.parametrize(
    ("counted", "told"),
    [({"pages_fetched": 6}, "--max-pages"), ({"pages_fetched": 400, "pages_unchanged": 100}, "--max-pages 500")],
)
def test_a_limit_is_told_with_its_number_where_that_is_known_to_have_held(counted: dict[str, int], told: str) -> None:
    """What `set_limits` changed is not in the parameters: pages tell it, bytes and seconds do not."""
    params = {"limits": {"max_pages": 500, "max_bytes": 1000, "max_seconds": 9}}
    result = {**counted, "limits_reached": ["max_pages", "max_bytes", "max_seconds"]}
    job = {"id": "1", "kind": "crawl", "artifacts": "present", "params": params, "result": result}
    assert output.limits_of(job) == f"{told}, --max-bytes, --max-seconds"
    assert f" --max-pages {2 * sum(counted.values())} " in str(going_on(job))


@pytest.mark.parametrize(
    ("micros", "text"), [(0, "0.00"), (1, "0.000001"), (2_500_000, "2.50"), (1_234_567_890, "1,234.56789"), (None, "-")]
)
def test_money_has_at_least_two_places(micros: int | None, text: str) -> None:
    """Millionths become a number without a currency, which the operator's prices have."""
    assert money(micros) == text


def test_a_dry_run_names_no_receipt() -> None:
    """There is none by that id, so nobody is told of it; a cleanup's receipt is named."""
    plan = {"id": "cleanup-x", "status": "planned", "planned": {"vectors": 1}}
    assert "cleanup-x" not in rendered(output.cleanup_receipt, plan)
    assert "dry run: nothing was deleted" in rendered(output.cleanup_receipt, plan)
    assert "cleanup-x" in rendered(output.cleanup_receipt, {**plan, "status": "cleaned"})


def test_every_state_of_a_job_has_a_colour() -> None:
    """A new state cannot be forgotten here."""
    assert set(JobStatus) <= set(output.STATUS_STYLE)


def test_a_receipt_shows_every_store() -> None:
    """A new store cannot be forgotten here."""
    text = rendered(output.cleanup_receipt, {"planned": dict.fromkeys(STORES, 7), "deleted": {}, "remaining": {}})
    assert all(store.replace("_", " ") in text for store in STORES)


def test_tables_in_a_pipe_are_not_cut() -> None:
    """A long URL stays whole, and markup in it is text."""
    sources = functools.partial(output.source_list, nothing="No sources.")
    url = f"https://example.com/[bold]{'x' * 300}"
    text = rendered(sources, {"data": [{"id": "1", "url": url, "title": "t"}], "next_cursor": None})
    assert url in text


def test_nothing_follows_the_last_word_of_a_line_in_a_pipe() -> None:
    """However wide another line is; what a value itself has within it stays."""
    relying = {"pages": 12, "jobs": 12, "job_ids": [str(number) * 36 for number in range(10)]}
    receipt = {"id": "cleanup-x", "status": "cleaned", "relying": relying, "planned": {"vectors": 1}}
    for view, shown in ((output.cleanup_receipt, receipt), (output.job_detail, {"id": "1", "labels": {"a": "b  c"}})):
        lines = rendered(view, shown).splitlines()
        assert [line for line in lines if line != line.rstrip()] == []
    assert "labels     a=b  c" in lines


def test_numbers_of_a_job_that_was_cleaned_are_told_as_gone() -> None:
    """Its dead letters are not told of at all where it is one line; nor where they could be read."""
    result = {"pages_fetched": 5, "dead_letters": 2}
    job = {"id": "1", "status": "cancelled", "artifacts": "present", "result": result}
    assert summary(job) == "cancelled: 5 pages, 2 dead letters"
    assert "deleted" not in rendered(output.job_detail, job)
    cleaned = {**job, "artifacts": "cleaned"}
    assert summary(cleaned) == "cancelled: 5 pages"
    assert "\nWhat it had made, which is deleted:\npages fetched  5\n" in rendered(output.job_detail, cleaned)


def rendered(view: Any, document: dict[str, Any]) -> str:
    stream = io.StringIO()
    view(Console(file=stream, width=PIPE_WIDTH, highlight=False), document)
    return stream.getvalue()
