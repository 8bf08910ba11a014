"""`ke doctor`: whether the stores agree with each other and with Temporal, and what to do when they do not."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.text import Text

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.options import ApiUrl, Json
from ke.cli.session import call
from ke.cli.tables import new_table, print_table
from ke.cli.text import clean, count
from ke.web.chromium import find_chromium
from ke.web.errors import NoBrowser

if TYPE_CHECKING:
    from rich.console import Console

    from ke.client import KnowledgeExtractionClient
    from ke.client_types import Finding, Reconciliation

WAIT_S: Final = 20.0
"""Seconds that the gateway waits for the end, before this asks again and again."""
POLL_S: Final = 0.5
RUNS: Final = 3
"""Reconciliations that are waited for: the one that is joined may have been asked to do something else."""
DEFAULT_TIMEOUT_S: Final = 600.0


def doctor(
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what is found.")] = False,
    max_share: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="The largest share of a store that --repair may delete; 1: anything goes.",
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Stop waiting after so long (exit code 1).")
    ] = DEFAULT_TIMEOUT_S,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Compare the stores with each other and with Temporal. Exit code 0: they agree; 1: something is left wrong."""
    record = call(api_url, lambda ke: _examine(ke, repair=repair, max_share=max_share, timeout_s=timeout))
    browser, why = _find_browser()
    output.emit({**record, "browser": browser}, lambda out, _: _show(out, record), as_json=as_json)
    if browser is not None and not as_json:
        output.note(f"Jobs with --browser have {browser}, as far as their workers are on this machine.")
    if browser is None:
        output.note(f"{why} Until then jobs with --browser fail, unless their workers are on other machines.")
    if not _is_healthy(record):
        raise typer.Exit(ExitCode.NOT_DONE)


def _find_browser() -> tuple[str | None, str]:
    """The Chromium that a worker with this environment would run, here; or None, and why there is none."""
    try:
        return find_chromium(os.environ.get("KE_CHROMIUM")), ""
    except NoBrowser as error:
        return None, error.message


async def _examine(
    ke: KnowledgeExtractionClient, *, repair: bool, max_share: float | None, timeout_s: float
) -> Reconciliation:
    deadline = time.monotonic() + timeout_s
    # What is down is said in one line, by the gateway, and not by a reconciliation that waits for it.
    await ke.check_ready()
    for _ in range(RUNS):
        record = await ke.reconcile(repair=repair, max_share=max_share, wait_s=min(WAIT_S, timeout_s))
        while record["status"] == "running":
            if time.monotonic() >= deadline:
                raise CommandFailed(
                    f"{record['id']} has not ended after {timeout_s:g} s and goes on; if it never began, no worker "
                    "serves ke-cleanup",
                    ExitCode.NOT_DONE,
                )
            await asyncio.sleep(POLL_S)
            record = await ke.get_reconciliation(record["id"])
        is_as_asked = record["repair"] >= repair and (not repair or max_share in {None, record["max_share"]})
        if is_as_asked:
            break
    return record


def _is_healthy(record: Reconciliation) -> bool:
    return record["status"] == "completed" and not any(_is_left(finding) for finding in record["findings"])


def _is_left(finding: Finding) -> bool:
    return finding["found"] > finding["repaired"]


def _show(out: Console, record: Reconciliation) -> None:
    """One line a finding, what is healthy included; under them what else there is to say."""
    numbers = ("CHECKED", "FOUND", "REPAIRED")
    table = new_table(("FINDING", *numbers, ""), numbers=numbers)
    for finding in record["findings"]:
        counts = (count(finding[name]) for name in ("checked", "found", "repaired"))
        table.add_row(clean(finding["kind"]), *counts, _verdict(finding))
    print_table(out, table)
    for finding in record["findings"]:
        if finding["found"] and (finding["examples"] or finding["note"]):
            examples = ", ".join(finding["examples"])
            out.print(Text(clean(f"{finding['kind']}: {examples}. {finding['note']}")), soft_wrap=True)
    if record["error"]:
        out.print(Text(clean(record["error"]), style="red"), soft_wrap=True)
    if _is_healthy(record):
        out.print("All consistent.")
    elif record["status"] == "completed" and not record["repair"]:
        out.print("Nothing was changed; `ke doctor --repair` repairs this.")


def _verdict(finding: Finding) -> Text:
    if not finding["found"]:
        return Text("ok", style="green")
    return Text("wrong", style="red") if _is_left(finding) else Text("repaired", style="yellow")
