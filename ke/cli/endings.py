"""How a job or a retry that was followed has ended, as an exit code and a line for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.text import count
from ke.contracts.jobs import ENDED_WELL, Artifacts, JobKind, JobStatus
from ke.contracts.retries import RetryStatus

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

READ_ONE_BY_ONE: Final = 20
"""Dead letters that are read as a list; more of them by their errors."""
_MADE: Final = ("sources", "pages_duplicate", "pages_unchanged", "pages_gone")
"""What a scrape or crawl was for: documents, or the finding that those of an earlier job are as they were, or gone."""
_LEFT: Final = (("pages_failed", "failed"), ("pages_skipped", "skipped"), ("sources_skipped", "not extracted"))

_NOT_FETCHED: Final = ("failed", "skipped", "gone")
"""States of a page that was not there, or was not asked for."""
MAX_NAMED: Final = 3
"""Pages that a line names."""
MAX_SEEDS_READ: Final = 200

Document = Mapping[str, Any]


def tell_of_letters(job: Document) -> None:
    """Say where to read what of a job failed, as long as that is there."""
    number = output.counters_of(job).get("dead_letters") or 0
    if number and job.get("artifacts") == Artifacts.PRESENT:
        command = "list" if number <= READ_ONE_BY_ONE else "summary"
        output.note(f"What failed, and why: ke dead-letters {command} {job['id']}")


async def not_fetched(ke: KnowledgeExtractionClient, job: Document) -> str | None:
    """Which pages a job that ended well was told to fetch and has not: those of a scrape, the start pages of a crawl.

    A sitemap or another seed may have led a crawl on without them. Seeds are the first pages that it has, so they are
    at the beginning of a list.

    Args:
        ke: An open client.
        job: The ended job.

    Returns:
        A line for people; None where there are none, or the gateway does not tell.
    """
    from ke.client import ClientError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    if job["status"] not in ENDED_WELL or job.get("kind") == JobKind.EXTRACT:
        return None
    done, is_scrape = output.counters_of(job), job.get("kind") == JobKind.SCRAPE
    lost: list[Mapping[str, Any]] = []
    try:
        for state in _NOT_FETCHED:
            if done.get(f"pages_{state}"):
                pages = (await ke.list_pages(job["id"], state=state, limit=MAX_SEEDS_READ))["data"]
                lost += [page for page in pages if page["depth"] == 0]
    except ClientError:
        return None  # The job has ended, and that is what was asked for.
    # All pages of a scrape are such, so that they are counted, however few of them are read.
    number = sum(done.get(f"pages_{state}") or 0 for state in _NOT_FETCHED) if is_scrape else len(lost)
    page = "page" if is_scrape else "start page"
    if number == 1 and lost:
        return f"The {page} {lost[0]['url']} was not fetched: {_why(lost[0])}"
    named = ", ".join(f"{page['url']} ({_why(page)})" for page in lost[:MAX_NAMED])
    more = f", and {count(number - MAX_NAMED)} more" if number > MAX_NAMED else ""
    return f"{count(number)} {page}s were not fetched: {named}{more}" if lost else None


def _why(page: Mapping[str, Any]) -> str:
    return str(page.get("reason") or page["state"])


def check_end(job: Document) -> None:
    """Make sure that a job which has ended did something of what it was for.

    Raises:
        CommandFailed: It failed, was cancelled, or nothing came of it.
    """
    status, job_id = job["status"], job["id"]
    if status == JobStatus.CANCELLED:
        reason = ((job.get("result") or {}).get("cancellation") or {}).get("reason")
        raise _not_done(f"job {job_id} was cancelled: {reason or 'no reason given'}", "job-cancelled")
    if status not in ENDED_WELL:
        error = job.get("error") or {}
        message = error.get("message") or "no reason given"
        raise _not_done(f"job {job_id} {status}: {message}", error.get("type") or "job-failed", message)
    done = output.counters_of(job)
    is_extract = job.get("kind") == JobKind.EXTRACT
    if not any(done.get(name) for name in (("sources_extracted",) if is_extract else _MADE)):
        left = [f"{count(done[name])} {word}" for name, word in _LEFT if done.get(name)]
        left += [output.letters(done["dead_letters"])] if done.get("dead_letters") else []
        what = "extracted" if is_extract else "stored"
        detail = f"job {job_id} {status}, and nothing was {what}: {', '.join(left) or 'there was nothing'}"
        raise _not_done(detail, f"nothing-{what}")


def check_retry(retry: Document) -> None:
    """Make sure that a retry of dead letters which has ended mended one of them.

    Raises:
        CommandFailed: It failed, was cancelled, or all of them failed again.
    """
    retry_id, status = retry["id"], retry["status"]
    if status in {RetryStatus.CANCELLED, RetryStatus.FAILED}:
        message = (retry.get("error") or {}).get("message") or "no reason given"
        raise _not_done(f"{retry_id} {status}: {message}", f"retry-{status}", message)
    if status == RetryStatus.COMPLETED and retry.get("failed") and not retry.get("succeeded"):
        raise _not_done(f"{retry_id} {status}, and none of its dead letters succeeded", "nothing-retried")


def _not_done(line: str, code: str, detail: str | None = None) -> CommandFailed:
    title = "What was asked for did not come true"
    problem = {"type": f"urn:ke:problem:{code}", "title": title, "detail": detail or line}
    return CommandFailed(line, ExitCode.NOT_DONE, problem)
