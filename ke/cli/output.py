"""What commands print: one JSON document for machines, tables and short blocks for people.

stdout carries the answer and nothing else. Tables have no frames and are never cut off in a pipe, so `grep`, `awk`
and `cut` work on them too. Everything that came from a web page is cleaned before it reaches a terminal.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ke.cli.tables import PIPE_WIDTH, cell, new_table, print_table, print_unpadded
from ke.cli.text import age, clean, count, duration, local_time, moment, money, printable, shorten, size
from ke.cli.wording import option_of
from ke.contracts.counted import counted
from ke.contracts.jobs import Artifacts

Document = Mapping[str, Any]
STATUS_STYLE: Final[Mapping[str, str]] = {
    "queued": "dim",
    "running": "cyan",
    "paused": "yellow",
    "cancelling": "yellow",
    "cancelled": "magenta",
    "completed": "green",
    "completed_with_errors": "yellow",
    "failed": "red",
    "cleaned": "green",
    "cleanup_failed": "red",
}
SNIPPET_CHARS: Final = 320
_DRY_RUN: Final = "dry run: nothing was deleted"
_FATES: Final[Mapping[str, tuple[str, str]]] = {
    "planned": ("would lose", "would go"),
    "running": ("will lose", "will go"),
    "cleaned": ("lost", "went"),
    "failed": ("may have lost", "may have gone"),
}
"""What becomes of pages of other jobs, by the state of a cleanup: the document they have, or they themselves."""
_BLANKS: Final = re.compile(r"\s+")
_ROW_END: Final = "\x1e"
"""In the place of a line break behind a row of a table: these stay apart where line breaks go."""
STORES: Final = ("vectors", "sources", "extractions", "entities", "records", "dead_letters", "pages")
COUNTERS: Final = (
    ("pages fetched", "pages_fetched"),
    ("pages failed", "pages_failed"),
    ("pages skipped", "pages_skipped"),
    ("pages duplicate", "pages_duplicate"),
    ("pages new", "pages_new"),
    ("pages changed", "pages_changed"),
    ("pages unchanged", "pages_unchanged"),
    ("pages gone", "pages_gone"),
    ("sources", "sources"),
    ("sources extracted", "sources_extracted"),
    ("sources skipped", "sources_skipped"),
    ("extractions", "extractions"),
    ("entities", "entities"),
    ("sources searched for entities", "entity_sources"),
    ("sources not searched for entities", "entity_sources_skipped"),
    ("vectors", "vectors"),
    ("dead letters", "dead_letters"),
    ("records", "records"),
    ("records skipped", "records_skipped"),
    ("tokens in", "tokens_in"),
    ("tokens out", "tokens_out"),
)


def console() -> Console:
    """A console for stdout as it is now."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=False, width=width)


def note(message: str) -> None:
    """Say something beside the answer: on stderr."""
    sys.stderr.write(f"{clean(message)}\n")


def emit(document: Any, view: Callable[[Console, Any], None], *, as_json: bool) -> None:
    """Print an answer: the document itself, or what `view` makes of it."""
    if as_json:
        # ASCII only: nothing from a web page can reach a terminal unescaped, whatever its encoding.
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        return
    view(console(), document)


def _status(value: Any) -> Text:
    name = str(value or "-")
    return Text(name, style=STATUS_STYLE.get(name, ""))


def _facts(out: Console, facts: Iterable[tuple[str, Any]]) -> None:
    """Print `name  value` lines; what is None is left out."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            grid.add_row(name, value if isinstance(value, Text) else Text(clean(value) or "-"))
    print_unpadded(out, grid)


def counters_of(job: Document) -> Document:
    """A job's numbers: its result once it has one, its progress until then."""
    found = job.get("result") or job.get("progress") or {}
    return found if isinstance(found, Mapping) else {}


def pages_of(job: Document) -> int:
    """The pages of a crawl that count against `max_pages`, which is never passed."""
    done = counters_of(job)
    return sum(done.get(f"pages_{name}") or 0 for name in ("fetched", "duplicate", "unchanged"))


def has_artifacts(job: Document) -> bool:
    """Whether what a job's numbers count is there still, as far as is known."""
    return job.get("artifacts") != Artifacts.CLEANED


def limits_of(job: Document) -> str:
    """The limits that left something of a job undone, as options: `--max-pages 500`; "" when there are none.

    The parameters are those that were submitted, and the limits of a crawl can be changed while it runs: the number of
    pages is told where just as many were counted, those of bytes and seconds never.
    """
    params = job.get("params") or {}
    extract = params.get("extract") or params
    asked = (params.get("limits") or {}).get("max_pages")
    values = {"max_pages": asked if asked == pages_of(job) else None, "max_tokens": extract.get("max_tokens")}
    names = (job.get("result") or {}).get("limits_reached") or []
    return ", ".join(f"{option_of(name)} {values.get(name) or ''}".strip() for name in names)


def job_list(out: Console, page: Document) -> None:
    """One line a job."""
    jobs = page.get("data") or []
    if not jobs:
        out.print("No jobs.")
        return
    numbers = ("PAGES", "SOURCES", "CHUNKS", "AGE")
    table = new_table(("ID", "KIND", "STATUS", "ARTIFACTS", *numbers, "PROJECT"), numbers=numbers)
    for job in jobs:
        # Numbers of what is deleted would read as if it were there.
        done = counters_of(job) if has_artifacts(job) else {}
        table.add_row(
            cell(job.get("id")),
            cell(job.get("kind")),
            _status(job.get("status")),
            _status(job.get("artifacts")),
            count(done.get("pages_fetched")),
            count(done.get("sources")),
            count(done.get("extractions")),
            age(job.get("created_at")),
            cell(job.get("project")),
        )
    print_table(out, table)
    next_page(page)


def next_page(page: Document) -> None:
    """Say how to get the rest of a list, when there is one."""
    if page.get("next_cursor"):
        note(f"There is more: --cursor {page['next_cursor']}")


def job_detail(out: Console, job: Document) -> None:
    """All that is known of one job."""
    error = job.get("error") or {}
    cancellation = (job.get("result") or {}).get("cancellation") or {}
    done = counters_of(job)
    _facts(
        out,
        (
            ("job", job.get("id")),
            ("kind", job.get("kind")),
            ("status", _status(job.get("status"))),
            ("artifacts", _status(job.get("artifacts"))),
            ("project", job.get("project")),
            ("labels", ", ".join(f"{key}={value}" for key, value in (job.get("labels") or {}).items()) or None),
            ("pages in common", _in_common(job)),
            ("taken over", ", ".join(_taken_over(job)) or None),
            ("retry at work", job.get("retry_id")),
            ("waiting for", job.get("waiting_for") or None),
            ("error", f"{error.get('type')}: {error.get('message')}" if error else None),
            ("stopped by", limits_of(job) or None),
            ("created", local_time(job.get("created_at"))),
            ("started", local_time(job.get("started_at")) if job.get("started_at") else None),
            ("completed", local_time(job.get("completed_at")) if job.get("completed_at") else None),
            ("took", duration(done.get("elapsed_s")) if done.get("elapsed_s") is not None else None),
            ("workflow", job.get("workflow_id")),
        ),
    )
    numbers = [(name, count(done.get(key))) for name, key in COUNTERS if done.get(key)]
    if done.get("bytes"):
        numbers.append(("downloaded", size(done["bytes"])))
    if done.get("cost_micros"):
        numbers.append(("cost", money(done["cost_micros"])))
    if numbers:
        out.print("" if has_artifacts(job) else "\nWhat it had made, which is deleted:")
        _facts(out, numbers)
    if cancellation:
        out.print()
        cancellation_receipt(out, cancellation)
    if job.get("retry"):
        out.print()
        retry_detail(out, job["retry"])


def _in_common(job: Document) -> str | None:
    earlier = (job.get("params") or {}).get("recrawl_of")
    number = job.get("earlier_pages")
    return f"{count(number)} with job {earlier}" if earlier and number is not None else None


def _taken_over(job: Document) -> list[str]:
    """The options that a re-crawl has from the earlier job, with their values where these are short."""
    params = job.get("params") or {}
    found = []
    for pointer in params.get("taken_over") or ():
        value: Any = params if pointer != "/project" else job
        for step in pointer.split("/")[1:]:
            value = (value or {}).get(step) if isinstance(value, Mapping) else None
        name = "--extract" if pointer == "/extract" else option_of(pointer)
        is_short = isinstance(value, int | float | str) and not isinstance(value, bool)
        found.append(f"{name} {shorten(value, 60)}" if is_short else name)
    return found


def cancellation_receipt(out: Console, receipt: Document) -> None:
    """When a cancelled job stood still, and why it was cancelled."""
    _facts(
        out,
        (
            ("cancelled after", duration(receipt.get("latency_s"))),
            ("activities drained", count(receipt.get("activities_drained"))),
            ("timed out", ", ".join(receipt.get("timed_out") or []) or None),
            ("reason", receipt.get("reason") or None),
        ),
    )


def _times(document: Document) -> list[tuple[str, str | None]]:
    """When something began and ended, and how long that took; without what is not known yet."""
    begun, ended = moment(document.get("started_at")), moment(document.get("completed_at"))
    return [
        ("started", local_time(document.get("started_at")) if begun else None),
        ("completed", local_time(document.get("completed_at")) if ended else None),
        ("took", duration((ended - begun).total_seconds()) if begun and ended else None),
    ]


def cleanup_receipt(out: Console, receipt: Document) -> None:
    """What a cleanup planned, deleted and left, store by store."""
    planned = receipt.get("planned") or {}
    deleted = receipt.get("deleted") or {}
    remaining = receipt.get("remaining") or {}
    _facts(
        out,
        (
            ("receipt", None if receipt.get("status") == "planned" else receipt.get("id")),
            ("project", receipt.get("project")),
            ("jobs", receipt.get("jobs")),
            ("source", receipt.get("source_id")),
            ("job", receipt.get("job_id")),
            ("status", _status(_DRY_RUN if receipt.get("status") == "planned" else receipt.get("status"))),
            ("other jobs", _relying(receipt)),
            ("error", receipt.get("error")),
            *_times(receipt),
        ),
    )
    out.print()
    numbers = ("PLANNED", "DELETED", "REMAINING")
    table = new_table(("STORE", *numbers), numbers=numbers)
    stores = [*STORES, *(name for name in planned if name not in STORES)]
    for store in stores:
        table.add_row(
            store.replace("_", " "), count(planned.get(store)), count(deleted.get(store)), count(remaining.get(store))
        )
    print_table(out, table)


def _relying(receipt: Document) -> str | None:
    """Whose pages lose their document by a cleanup, or go with it; None where no other job's do."""
    relying = receipt.get("relying") or {}
    pages, jobs, named = relying.get("pages"), relying.get("jobs"), relying.get("job_ids") or []
    if not pages or not jobs:
        return None
    lose, go = _FATES.get(str(receipt.get("status")), _FATES["running"])
    whose = f"{counted(pages, 'page')} of {counted(jobs, 'other job')}"
    fate = (
        f"{go} with it" if receipt.get("scope") == "source" else f"{lose} {'its' if pages == 1 else 'their'} document"
    )
    more = f" and {count(jobs - len(named))} more" if jobs > len(named) else ""
    return f"{whose} {fate}: {', '.join(named)}{more}"


def search_hits(out: Console, answer: Document, *, with_project: bool) -> None:
    """Hits, best first: the score, where it is from, its day, the passage; with the project where all were searched."""
    hits = answer.get("data") or []
    if not hits:
        out.print("Nothing found.")
    if answer.get("embedders"):
        names = " or ".join(answer["embedders"])
        out.print(f"Nothing here was embedded by the embedder asked: try --embedder {names}.", style="yellow")
    for number, hit in enumerate(hits, start=1):
        score = hit.get("score")
        heading = Text(f"{number:>2}. ", style="dim")
        heading.append(f"{score:.3f}  " if isinstance(score, int | float) else "", style="green")
        heading.append(clean(hit.get("url")), style="bold")
        out.print(heading, no_wrap=True, overflow="ignore", crop=False)
        out.print(Padding(_snippet(hit), (0, 0, 0, 4), expand=False))
        place = Text(f"    source {clean(hit.get('source_id'))}", style="dim")
        place.append(f"  project {clean(hit.get('project'))}" if with_project else "")
        place.append(f"  {clean(hit['date'])}" if hit.get("date") else "")
        place.append(f"  {clean(hit['heading'])}" if hit.get("heading") else "")
        out.print(place, no_wrap=True, overflow="ignore", crop=False)
        out.print()
    if answer.get("complete") is False:
        out.print("There may be more: not all that fits could be looked at.", style="yellow")


def _snippet(hit: Document) -> Text:
    """The part of a passage with the query's words, these in bold; the passage's beginning when there is none."""
    snippet = hit.get("snippet") or {}
    text = str(snippet.get("text") or "")
    if not text:
        return Text(shorten(hit.get("text"), SNIPPET_CHARS))
    text = "".join(_with_row_end(line) for line in text.splitlines(keepends=True))
    shown, place = Text(), 0
    for first, last in snippet.get("marks") or []:
        shown.append(_line(text[place:first])).append(printable(text[first:last]), style="bold")
        place = last
    return shown.append(_line(text[place:]))


def _with_row_end(line: str) -> str:
    return f"{line[:-1]}{_ROW_END}" if " | " in line and line.endswith("\n") else line


def _line(text: str) -> str:
    return _BLANKS.sub(" ", printable(text.replace(_ROW_END, " / ")))


def project_list(out: Console, page: Document) -> None:
    """One line a project."""
    projects = page.get("data") or []
    if not projects:
        out.print("No projects.")
        return
    table = new_table(("PROJECT", "JOBS"), numbers=("JOBS",))
    for project in projects:
        table.add_row(cell(project.get("name")), count(project.get("jobs")))
    print_table(out, table)
    next_page(page)


def source_list(out: Console, page: Document, *, nothing: str) -> None:
    """One line a source; `nothing` where there is none."""
    sources = page.get("data") or []
    if not sources:
        out.print(Text(clean(nothing)), soft_wrap=True)
        return
    table = new_table(("ID", "SIZE", "AGE", "PROJECT", "URL", "TITLE"), numbers=("SIZE", "AGE"))
    for source in sources:
        table.add_row(
            cell(source.get("id")),
            size(source.get("bytes")),
            age(source.get("fetched_at")),
            cell(source.get("project")),
            cell(source.get("url")),
            cell(source.get("title")),
        )
    print_table(out, table)
    next_page(page)


def page_list(out: Console, page: Document) -> None:
    """One line a URL that a job has seen; of a re-crawl with the earlier document, as long as that is there."""
    pages = page.get("data") or []
    if not pages:
        out.print("No pages.")
        return
    has_earlier = any(item.get("previous_source_id") for item in pages)
    table = new_table(("STATE", "HTTP", *(("EARLIER SOURCE",) if has_earlier else ()), "URL", "REASON"))
    for item in pages:
        is_forgotten = item.get("previous_is_stored") is False
        earlier = ["forgotten" if is_forgotten else item.get("previous_source_id")] if has_earlier else []
        cells = (item.get("state"), item.get("http_status"), *earlier, item.get("url"), _reason(item))
        table.add_row(*map(cell, cells))
    print_table(out, table)
    next_page(page)


def _reason(item: Document) -> str | None:
    """Why a page is as it is, and that its document was deleted since; of one that is gone another column tells."""
    is_deleted = item.get("source_is_stored") is False and item.get("state") != "gone"
    told = [item.get("reason"), "its document was deleted since" if is_deleted else None]
    return "; ".join(filter(None, told)) or None


def record_list(out: Console, page: Document) -> None:
    """One line a record."""
    records = page.get("data") or []
    if not records:
        out.print("No records.")
        return
    table = new_table(("URL", "NUMBER", "DATA"), numbers=("NUMBER",))
    for record in records:
        data = json.dumps(record.get("data"), ensure_ascii=True)
        table.add_row(cell(record.get("url")), cell(record.get("number")), cell(data))
    print_table(out, table)
    next_page(page)


def dead_letter_list(out: Console, page: Document) -> None:
    """One line for each page or source that failed for good."""
    letters = page.get("data") or []
    if not letters:
        out.print("No dead letters.")
        return
    has_origin = any(letter.get("found_on") for letter in letters)
    origin = ("FOUND ON",) if has_origin else ()
    table = new_table(("ID", "SUBJECT", "TRIES", "AGE", "ERROR", "URL", *origin, "MESSAGE"), numbers=("TRIES", "AGE"))
    for letter in letters:
        table.add_row(
            cell(letter.get("id")),
            cell(letter.get("subject")),
            count(letter.get("attempts")),
            age(letter.get("last_failed_at")),
            cell(letter.get("error_type")),
            cell(letter.get("url")),
            *((cell(letter.get("found_on")),) if has_origin else ()),
            cell(letter.get("error_message")),
        )
    print_table(out, table)
    next_page(page)


def dead_letter_summary(out: Console, summary: Document) -> None:
    """One line for each error, the most frequent first."""
    groups = summary.get("data") or []
    if not groups:
        out.print("No dead letters.")
        return
    numbers = ("LETTERS", "AGE")
    table = new_table((*numbers, "SUBJECT", "ERROR", "FIRST URL", "ITS MESSAGE"), numbers=numbers)
    for group in groups:
        table.add_row(
            count(group.get("letters")),
            age(group.get("last_failed_at")),
            cell(group.get("subject")),
            cell(group.get("error_type")),
            cell(group.get("url")),
            cell(group.get("error_message")),
        )
    print_table(out, table)
    errors = summary.get("errors") or len(groups)
    if errors > len(groups):
        note(f"These are the most frequent of {count(errors)} errors, of {letters(summary['letters'])} in all.")


def retry_detail(out: Console, retry: Document) -> None:
    """How a retry of dead letters stands."""
    error = retry.get("error") or {}
    _facts(
        out,
        (
            ("retry", retry.get("id")),
            ("job", retry.get("job_id")),
            ("status", _status(retry.get("status"))),
            ("error", f"{error.get('type')}: {error.get('message')}" if error else None),
            ("dead letters", count(retry.get("letters"))),
            ("succeeded", count(retry.get("succeeded"))),
            ("failed again", count(retry.get("failed"))),
        ),
    )


def source_text(out: Console, source: Document) -> None:
    """A source's title, address, what it says of itself, and its text."""
    metadata = source.get("metadata") or {}
    out.print(Text(clean(source.get("title") or source.get("url")), style="bold"))
    out.print(Text(clean(source.get("url")), style="dim"), overflow="ignore")
    _facts(out, ((name, metadata.get(name)) for name in ("author", "date", "language")))
    out.print()
    for line in str(source.get("text") or "").splitlines():
        out.print(Text(printable(line)))


def letters(number: int) -> str:
    """A number of dead letters, in words."""
    return counted(number, "dead letter")
