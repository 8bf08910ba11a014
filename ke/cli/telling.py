"""What is said beside a job: what a re-crawl has left of before, and how to go on where a limit was reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ke.cli import output
from ke.cli.text import count
from ke.cli.wording import option_of
from ke.contracts.counted import counted
from ke.contracts.jobs import ENDED_WELL, TERMINAL, Artifacts, JobKind

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

MAX_COUNTED: Final = 10_000
"""Pages that have changed or are gone at which the gateway looks."""
JOBS_LOOKED_AT: Final = 100
"""Jobs among which a later re-crawl of the same job is looked for."""
MAX_PAGES: Final = 1_000_000
"""The greatest `max_pages` that there is."""
_IS: Final = {"changed": "has changed", "gone": "is gone"}
_DID: Final = {"changed": "changed", "gone": "went"}
_OF_PAGES: Final = ("max_pages", "max_bytes", "max_seconds")
"""The limits beyond which a re-crawl goes on."""


async def not_awaited(ke: KnowledgeExtractionClient, job_id: str) -> str | None:
    """What an extraction leaves out whose sources come from a job that has not ended.

    It queues the sources once, as it begins.

    Args:
        ke: An open client.
        job_id: The job that stores the sources.

    Returns:
        A line for people; None where the job has ended, or the gateway does not tell.
    """
    job = await _job(ke, job_id)
    if job is None or job["status"] in TERMINAL:
        return None
    then = "what it has stored as this begins is extracted, and nothing that it stores later."
    return f"Job {job_id} is {job['status']}: {then}"


async def _job(ke: KnowledgeExtractionClient, job_id: str) -> Mapping[str, Any] | None:
    """A job; None where the gateway does not tell."""
    from ke.client import ClientError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    try:
        return await ke.get_job(job_id)
    except ClientError:
        return None


async def newest_jobs(ke: KnowledgeExtractionClient) -> Sequence[Mapping[str, Any]]:
    """The newest jobs, the newest first; none where the gateway does not tell."""
    from ke.client import ClientError  # noqa: PLC0415  (an HTTP stack: not for `ke --help`)

    try:
        return (await ke.list_jobs(limit=JOBS_LOOKED_AT))["data"]
    except ClientError:
        return []


def crawled_since(known: Sequence[Mapping[str, Any]], earlier: str, accepted: str) -> str | None:
    """That a job was crawled again before, from which a further re-crawl should go on: neither knows of the other.

    Args:
        known: Jobs, the newest first.
        earlier: The job that is crawled again.
        accepted: The job that does it, which may be among those that are known.

    Returns:
        A line for people; None where there is no such job.
    """
    newest = earlier
    for job in reversed(known):
        is_whole = job.get("status") in ENDED_WELL and job.get("artifacts") == Artifacts.PRESENT
        if is_whole and job["id"] != accepted and (job.get("params") or {}).get("recrawl_of") == newest:
            newest = job["id"]
    if newest == earlier:
        return None
    return f"Job {newest} has crawled this again since, and this one does not know what it stored: go on from that one."


async def not_extracted(ke: KnowledgeExtractionClient, job: Mapping[str, Any]) -> str | None:
    """What a re-crawl has left as it is of an earlier job that was ended before it had extracted all that it stored.

    Args:
        ke: An open client.
        job: The ended re-crawl, or any other job.

    Returns:
        A line for people; None where there is nothing, nothing was to be extracted, or the gateway does not tell.
    """
    params = job.get("params") or {}
    if (
        not params.get("recrawl_of")
        or params.get("extract") is None
        or not output.counters_of(job).get("pages_unchanged")
    ):
        return None
    earlier = await _job(ke, params["recrawl_of"])
    left = output.counters_of(earlier).get("sources_skipped") if earlier is not None else None
    if earlier is None or not left or earlier.get("artifacts") != Artifacts.PRESENT:
        return None
    command = f"ke extract {earlier['id']}"
    left_out = f"Job {earlier['id']} left {counted(left, 'document')} not extracted"
    return f"{left_out}, and what is unchanged is not extracted here: {command}"


def tell_more(job: Mapping[str, Any]) -> None:
    """Say what follows from an ended job, on stderr; nothing where nothing does."""
    for line in (_nothing_in_common(job), outdated(job), going_on(job)):
        if line is not None:
            output.note(line)


def _nothing_in_common(job: Mapping[str, Any]) -> str | None:
    earlier = (job.get("params") or {}).get("recrawl_of")
    if not earlier or job.get("earlier_pages") != 0:
        return None
    return f"No page of job {earlier} is in this job's scope: all its pages are new, and none is replaced."


def outdated(job: Mapping[str, Any]) -> str | None:
    """What a search still finds of before a re-crawl; None where there is nothing, or the gateway does not tell."""
    left, done, job_id = job.get("previous_stored"), output.counters_of(job), job.get("id")
    names = [name for name in ("changed", "gone") if done.get(f"pages_{name}")]
    is_cut = sum(done.get(f"pages_{name}") or 0 for name in names) > MAX_COUNTED
    if left is None or not names or (left == 0 and is_cut):
        return None
    is_asked = bool((job.get("params") or {}).get("forget_replaced"))
    if left == 0:
        became = " or ".join(_IS[name] for name in names)
        left_out = "but for what another page of the job has now"
        return f"No earlier document of a page that {became} is left, {left_out}." if is_asked else None
    number = f"{count(left)} or more" if is_cut else count(left)
    pages, they = ("page", "it") if left == 1 else ("pages", "they")
    what = f"what {number} {pages} said before {they} {' or '.join(_DID[name] for name in names)}"
    where = ", and ".join(f"ke jobs pages {job_id} --state {name}" for name in names)
    command = f"ke {job.get('kind') or 'crawl'} --recrawl-of {job_id} --forget-replaced"
    forgetting = str(job.get("forgetting")) if is_asked else "not asked"
    if forgetting == "running":
        return f"W{what[1:]} is being deleted, with what re-crawls before it have left: {where}"
    why = {
        "not asked": f" (ke sources forget deletes it, and so does {command})",
        "ended": ", as another page has it too, or nothing has taken its place",
        "held": f" (so much is gone that the site may be broken; {command} --max-gone-share 1 deletes what still is)",
    }
    return f"A search still finds {what}{why.get(forgetting, '')}: {where}"


def going_on(job: Mapping[str, Any]) -> str | None:
    """The command by which a crawl goes on that ended at a limit: a re-crawl under twice that.

    What was fetched is asked for again there, and counts, so a greater limit has room for as much again.
    """
    reached = [name for name in (job.get("result") or {}).get("limits_reached") or () if name in _OF_PAGES]
    limits = (job.get("params") or {}).get("limits") or {}
    used = {"max_bytes": output.counters_of(job).get("bytes") or 0}
    # Limits can be changed while a job runs: that of pages was, where it was reached, as many as were counted.
    held = {name: max(limits[name], used.get(name, 0)) for name in reached if limits.get(name)}
    if "max_pages" in held:
        held["max_pages"] = output.pages_of(job) or held["max_pages"]
    twice = {name: 2 * value for name, value in held.items()}
    if "max_pages" in twice:
        twice["max_pages"] = min(twice["max_pages"], MAX_PAGES)
    is_there = job.get("kind") == JobKind.CRAWL and job.get("artifacts") == Artifacts.PRESENT
    if not is_there or not twice or any(twice[name] == held[name] for name in twice):
        return None
    options = " ".join(f"{option_of(name)} {value}" for name, value in twice.items())
    return f"To go on beyond the limit: ke crawl --recrawl-of {job.get('id')} {options}"
