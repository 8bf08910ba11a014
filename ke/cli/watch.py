"""Following a job until it ends: live on a terminal, a line for each change anywhere else."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.output import STATUS_STYLE, console, counters_of, has_artifacts, letters, limits_of
from ke.cli.text import clean, duration, money, size
from ke.contracts.counted import counted
from ke.contracts.jobs import TERMINAL
from ke.contracts.retries import RetryStatus

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

POLL_S: Final = 0.5
"""Seconds between two looks at a job."""
OUTAGE_S: Final = 30.0
"""Seconds that a gateway may be away while a job is watched: long enough for its restart."""
LEAST_INTERVAL_S: Final = 1.0
"""Seconds between two lines of a log that differ in their numbers only: at first, and"""
MOST_INTERVAL_S: Final = 64.0
"""in the end, after a doubling with each."""
_DIGITS: Final = re.compile(r"\d[\d.,]*")
_SECONDS: Final = re.compile(r"\d+ s\b")

Job = Mapping[str, Any]


class View(Protocol):
    """What shows a job as it goes on."""

    def show(self, job: Job) -> None:
        """Show the job as it is now."""


class SilentView:
    """Shows nothing: for `--wait` and `--json`."""

    def show(self, job: Job) -> None:
        """Do nothing."""


class LineView:
    """A line for each change, for logs and pipes; where only numbers grow, one at growing intervals."""

    def __init__(self, out: Console, indent: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._indent = indent
        self._clock = clock
        self._last = ""
        self._shape = ("", "")
        self._due_at = 0.0
        self._interval_s = LEAST_INTERVAL_S

    def show(self, job: Job) -> None:
        """Print one line when anything has changed that is worth one by now."""
        line, now = summary(job), self._clock()
        # Numbers within a reason, as of a host, are no counts: there only seconds grow.
        shape = _DIGITS.sub("", summary({**job, "waiting_for": None})), _SECONDS.sub("", job.get("waiting_for") or "")
        is_other = shape != self._shape
        if line == self._last or not (is_other or now >= self._due_at):
            return
        self._shape = shape
        self._interval_s = LEAST_INTERVAL_S if is_other else min(2 * self._interval_s, MOST_INTERVAL_S)
        self._last, self._due_at = line, now + self._interval_s
        took = counters_of(job).get("elapsed_s")
        timed = f"{line}  {duration(took)}" if took else line
        self._out.print(Text(f"{self._indent}{timed}"), overflow="ignore")


class LiveView(AbstractContextManager["LiveView"]):
    """A block of a terminal that is drawn again and again."""

    def __init__(self, out: Console) -> None:
        self._live = Live(console=out, refresh_per_second=8, transient=False)
        self._spinner = Spinner("dots")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def show(self, job: Job) -> None:
        """Draw the job as it is now."""
        status = str(job.get("status"))
        grid = Table.grid(padding=(0, 1))
        mark = Text("■", style=STATUS_STYLE.get(status, "")) if status in TERMINAL else self._spinner
        grid.add_row(mark, Text(summary(job), style=STATUS_STYLE.get(status, "")))
        took = counters_of(job).get("elapsed_s")
        grid.add_row("", Text(f"{job.get('kind')} {job.get('id')}  {duration(took)}", style="dim"))
        self._live.update(grid)


_NUMBERS: Final = (
    ("pages_fetched", "page", "pages"),
    ("pages_changed", "changed", "changed"),
    ("pages_unchanged", "unchanged", "unchanged"),
    ("pages_gone", "gone", "gone"),
    ("pages_failed", "failed", "failed"),
    ("sources", "source", "sources"),
    ("sources_extracted", "extracted", "extracted"),
    ("extractions", "chunk", "chunks"),
    ("entities", "entity", "entities"),
    ("records", "record", "records"),
)


def summary(job: Job) -> str:
    """One line: the state, and the numbers that are not zero."""
    done = counters_of(job)
    parts = [counted(done[key], one, many) for key, one, many in _NUMBERS if done.get(key)]
    if done.get("dead_letters") and has_artifacts(job):
        parts.append(letters(done["dead_letters"]))
    if done.get("bytes"):
        parts.append(size(done["bytes"]))
    if done.get("cost_micros"):
        parts.append(f"cost {money(done['cost_micros'])}")
    if limits := limits_of(job):
        parts.append(f"stopped by {limits}")
    waiting = job.get("waiting_for")
    if waiting and str(job.get("status")) not in TERMINAL:
        parts.append(f"waiting: {clean(waiting)}")
    return f"{job.get('status')}: {', '.join(parts)}" if parts else str(job.get("status"))


def view_for(*, quiet: bool, indent: str = "") -> AbstractContextManager[View]:
    """The view that fits stdout; `indent` comes before each of its plain lines."""
    if quiet:
        return nullcontext(SilentView())
    out = console()
    return LiveView(out) if sys.stdout.isatty() else nullcontext(LineView(out, indent))


async def follow(
    client: KnowledgeExtractionClient,
    job_id: str,
    view: View,
    *,
    timeout_s: float | None = None,
    until: Callable[[Job], bool] | None = None,
) -> Job:
    """Look at a job until it has ended.

    Args:
        client: An open client.
        job_id: The job.
        view: Is shown each reading.
        timeout_s: Seconds after which to give up; None: as long as it takes.
        until: What counts as the end; a terminal status when not given.

    Returns:
        The last reading.

    Raises:
        CommandFailed: The time was up.
        ApiError: The gateway refused.
        GatewayUnreachable: It was away for longer than `OUTAGE_S`.
    """
    from ke.client import ClientError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    ended = until or has_ended
    started_s = last_answer_s = time.monotonic()
    while True:
        try:
            job = await client.get_job(job_id)
        except ClientError as error:
            if not _may_pass(error) or time.monotonic() - last_answer_s > OUTAGE_S:
                raise
        else:
            last_answer_s = time.monotonic()
            view.show(job)
            if ended(job):
                return job
        if timeout_s is not None and time.monotonic() - started_s > timeout_s:
            raise CommandFailed(f"job {job_id} has not ended within {duration(timeout_s)}", ExitCode.NOT_DONE)
        await asyncio.sleep(POLL_S)


async def follow_cleanup(
    client: KnowledgeExtractionClient, receipt: str, *, timeout_s: float | None = None
) -> Mapping[str, Any]:
    """Look at a cleanup that was started until it has ended; its receipt is there when a worker has begun it.

    Args:
        client: An open client.
        receipt: The id of its receipt.
        timeout_s: Seconds after which to give up; None: as long as it takes.

    Returns:
        The receipt.

    Raises:
        CommandFailed: The time was up.
        ApiError: The gateway refused.
    """
    from ke.client import ApiError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    started_s = time.monotonic()
    while True:
        try:
            found = await client.get_cleanup(receipt)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
        else:
            if found["status"] != "running":
                return found
        if timeout_s is not None and time.monotonic() - started_s > timeout_s:
            raise CommandFailed(f"{receipt} has not ended within {duration(timeout_s)}", ExitCode.NOT_DONE)
        await asyncio.sleep(POLL_S)


async def follow_retry(
    client: KnowledgeExtractionClient, retry_id: str, *, timeout_s: float | None = None
) -> Mapping[str, Any]:
    """Look at a retry of dead letters until it has ended.

    Args:
        client: An open client.
        retry_id: The retry.
        timeout_s: Seconds after which to give up; None: as long as it takes.

    Returns:
        The last reading.

    Raises:
        CommandFailed: The time was up.
        ApiError: The gateway refused.
    """
    started_s = time.monotonic()
    while True:
        retry: Mapping[str, Any] = await client.get_retry(retry_id)
        if retry["status"] != RetryStatus.RUNNING:
            return retry
        if timeout_s is not None and time.monotonic() - started_s > timeout_s:
            raise CommandFailed(f"{retry_id} has not ended within {duration(timeout_s)}", ExitCode.NOT_DONE)
        await asyncio.sleep(POLL_S)


def has_ended(job: Job) -> bool:
    """Whether the job's status is terminal."""
    return str(job.get("status")) in TERMINAL


def _may_pass(error: Exception) -> bool:
    """Whether waiting a little may help: no answer at all, or 503."""
    return getattr(error, "status", HTTPStatus.SERVICE_UNAVAILABLE) == HTTPStatus.SERVICE_UNAVAILABLE
