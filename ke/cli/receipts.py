"""What commands that clean up have in common: the wait, the receipt, and the exit code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.session import call
from ke.cli.watch import follow_cleanup
from ke.contracts.cleanup import CleanupScope, CleanupStatus
from ke.contracts.counted import counted

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

Start = Callable[["KnowledgeExtractionClient"], Awaitable[Mapping[str, Any]]]
_GO: Final[Mapping[str, str]] = {"planned": "would go", "cleaned": "went", "failed": "may have gone"}
"""What becomes of extractions of other jobs, by the state of a cleanup that does not run."""


def clean_up(start: Start, *, wait: bool, timeout_s: float | None, as_json: bool, api_url: str | None) -> None:
    """Start a cleanup, wait for its end when that is wanted, and show the receipt.

    Args:
        start: Starts it, or joins the one that runs; or makes a dry run.
        wait: Whether to wait for the end.
        timeout_s: Seconds after which to stop waiting; None: as long as it takes.
        as_json: Print the receipt as JSON.
        api_url: The gateway; None: look for it.

    Raises:
        CommandFailed: The gateway refused, the cleanup failed, or the time was up.
    """

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        started = await start(ke)
        is_at_work = started["status"] == CleanupStatus.RUNNING
        return await follow_cleanup(ke, started["id"], timeout_s=timeout_s) if wait and is_at_work else started

    show(call(api_url, work), as_json=as_json)


def show(receipt: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the receipt of a cleanup that was asked for.

    Raises:
        CommandFailed: It is of a cleanup that failed.
    """
    show_kept(receipt, as_json=as_json)
    if (receipt.get("relying") or {}).get("pages") and receipt.get("scope") != CleanupScope.SOURCE:
        output.note("A re-crawl of such a job (--recrawl-of) fetches and extracts these pages anew.")
    if receipt["status"] == CleanupStatus.RUNNING:
        output.note(f"The cleanup is running. To see its receipt: ke receipts get {receipt['id']}")
    if receipt["status"] == CleanupStatus.FAILED:
        why = receipt.get("error") or "something remains"
        raise CommandFailed(f"{receipt['id']} failed: {why}", ExitCode.NOT_DONE)


def show_kept(receipt: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a receipt as it stands, with a line on what other jobs had extracted from what it deletes."""
    output.emit(receipt, output.cleanup_receipt, as_json=as_json)
    relying = receipt.get("relying") or {}
    if relying.get("extractions"):
        output.note(_extractions(relying, _GO.get(receipt["status"], "will go")))


def _extractions(relying: Mapping[str, Any], go: str) -> str:
    jobs, named = relying["extract_jobs"], relying["extracted_by"]
    names = ", ".join(f"{each['job_id']} (project {each['project']})" for each in named)
    more = f" and {jobs - len(named):,} more" if jobs > len(named) else ""
    whose = f"{counted(relying['extractions'], 'extraction')} of {counted(jobs, 'other job')}"
    return f"{whose} {go} too, out of every search: {names}{more}"
