"""`ke jobs`: look at jobs, and steer them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ke.cli import output
from ke.cli.endings import check_end, not_fetched, tell_of_letters
from ke.cli.errors import CommandFailed, ExitCode
from ke.cli.options import ApiUrl, Cursor, DryRun, JobId, Json, Limit, OfUrl, Timeout, Wait, parse_project, receipt_id
from ke.cli.projects import check_project
from ke.cli.receipts import clean_up, show, show_kept
from ke.cli.session import call
from ke.cli.telling import not_extracted, tell_more
from ke.cli.watch import follow, follow_cleanup, follow_retry, has_ended, view_for
from ke.contracts.jobs import Artifacts, JobKind, JobStatus

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

app = typer.Typer(no_args_is_help=True, help="Look at jobs, and steer them.")


@app.command("list")
def list_jobs(
    *,
    kind: Annotated[JobKind | None, typer.Option(help="Only jobs of this kind.")] = None,
    status: Annotated[list[JobStatus] | None, typer.Option(help="Only jobs in this state; may be repeated.")] = None,
    project: Annotated[
        str | None, typer.Option(metavar="NAME", parser=parse_project, help="Only jobs of this project.")
    ] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List jobs, newest first."""
    states = [state.value for state in status] if status else None
    wanted = kind.value if kind else None

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any]:
        page = await ke.list_jobs(kind=wanted, status=states, project=project, limit=limit, cursor=cursor)
        if project is not None and not page["data"]:
            await check_project(ke, project)
        return page

    output.emit(call(api_url, work), output.job_list, as_json=as_json)


@app.command()
def get(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show one job: its state, its numbers, and what it waits for."""
    found = call(api_url, lambda ke: ke.get_job(job))
    output.emit(found, output.job_detail, as_json=as_json)
    tell_more(found)


@app.command()
def pages(
    job: JobId,
    *,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Only fetched, failed, skipped, ...; of a re-crawl also changed, unchanged, gone, new.",
        ),
    ] = None,
    url: OfUrl = None,
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """List the URLs that a job has seen, and what became of each; of a re-crawl with the document from before."""
    page = call(api_url, lambda ke: ke.list_pages(job, state=state, url=url, limit=limit, cursor=cursor))
    output.emit(page, output.page_list, as_json=as_json)


@app.command()
def watch(job: JobId, *, timeout: Timeout = None, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Follow a job until it ends. Exit code 1: it failed, was cancelled or stored nothing. Ctrl-C stops watching."""
    watch_to_end(job, quiet=as_json, timeout_s=timeout, as_json=as_json, api_url=api_url)


def watch_to_end(job_id: str, *, quiet: bool, timeout_s: float | None, as_json: bool, api_url: str | None) -> None:
    """Follow a job, print it when it has ended, and exit by how it ended.

    Raises:
        CommandFailed: It failed, was cancelled or stored nothing; or the time was up.
        typer.Exit: Ctrl-C: the job goes on.
    """

    async def work(ke: KnowledgeExtractionClient) -> tuple[Mapping[str, Any], list[str | None]]:
        with view_for(quiet=quiet) as view:
            job = await follow(ke, job_id, view, timeout_s=timeout_s)
        return job, [await not_fetched(ke, job), await not_extracted(ke, job)]

    try:
        job, missed = call(api_url, work)
    except KeyboardInterrupt:
        output.note(f"Stopped watching; the job goes on. To cancel it: ke jobs cancel {job_id}")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    output.emit(job, output.job_detail, as_json=as_json)
    for line in missed:
        if line is not None:
            output.note(line)
    tell_of_letters(job)
    tell_more(job)
    check_end(job)


@app.command()
def cancel(
    job: JobId,
    *,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; the receipt keeps it.")] = None,
    cleanup: Annotated[bool, typer.Option("--cleanup", help="Then delete all that it made.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Cancel a job, or the retry of an ended one. No fetch starts after; with --wait it has ended when this returns."""

    async def work(ke: KnowledgeExtractionClient) -> tuple[Mapping[str, Any], str | None]:
        # Of an ended job it is the retry at work that is cancelled, and no answer after that names it for sure.
        retry_id = (await ke.get_job(job)).get("retry_id")
        accepted = await ke.cancel_job(job, reason=reason, cleanup=cleanup)
        return (await _see_through(ke, job, retry_id, timeout) if wait else accepted), retry_id

    ended, retry_id = call(api_url, work)
    output.emit(ended, output.job_detail, as_json=as_json)
    stopped = ended.get("retry") or ended
    if retry_id is not None and not wait:
        output.note(f"The cancel was accepted. To see how the retry stands: ke retries get {retry_id}")
    elif not has_ended(ended):
        output.note(f"The cancel was accepted. To see it through: ke jobs cancel {job} --wait")
    elif cleanup and retry_id is not None:
        _check_cleaned(ended, "the retry has ended")  # the cleanup may have ended it before the cancel did
    elif stopped["status"] != JobStatus.CANCELLED:
        what = retry_id or "the job"
        raise CommandFailed(f"{what} {stopped['status']} before the cancel took effect", ExitCode.NOT_DONE)
    elif cleanup:
        _check_cleaned(ended, "the job is cancelled")


async def _see_through(
    ke: KnowledgeExtractionClient, job_id: str, retry_id: str | None, timeout_s: float | None
) -> Mapping[str, Any]:
    """Wait for the end of what was cancelled: the job, with its cleanup; with its `retry` in it, when it was that."""

    def is_settled(job: Mapping[str, Any]) -> bool:
        is_retried = retry_id is not None and job.get("retry_id") == retry_id
        return has_ended(job) and job.get("artifacts") != Artifacts.CLEANING and not is_retried

    started_s = time.monotonic()
    with view_for(quiet=True) as view:
        job = await follow(ke, job_id, view, timeout_s=timeout_s, until=is_settled)
    if retry_id is None:
        return job
    left_s = None if timeout_s is None else max(0.0, timeout_s - (time.monotonic() - started_s))
    return {**job, "retry": await follow_retry(ke, retry_id, timeout_s=left_s)}


def _check_cleaned(job: Mapping[str, Any], but_first: str) -> None:
    # Also when other jobs were in its way, which leaves all as it was.
    if job["artifacts"] != Artifacts.CLEANED:
        raise CommandFailed(f"{but_first}, but the cleanup failed: ke receipts get {job['id']}", ExitCode.NOT_DONE)


@app.command()
def pause(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Let a running job finish what is in flight, and wait."""
    output.emit(call(api_url, lambda ke: ke.pause_job(job)), output.job_detail, as_json=as_json)


@app.command()
def resume(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Let a paused job go on."""
    output.emit(call(api_url, lambda ke: ke.resume_job(job)), output.job_detail, as_json=as_json)


@app.command()
def cleanup(
    job: JobId,
    *,
    dry_run: DryRun = False,
    delete_record: Annotated[bool, typer.Option("--delete-record", help="Delete the job's record too.")] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete all that an ended job made: vectors, sources, extractions, entities, records, dead letters and pages."""
    clean_up(
        lambda ke: ke.cleanup_job(job, dry_run=dry_run, delete_record=delete_record),
        wait=wait,
        timeout_s=timeout,
        as_json=as_json,
        api_url=api_url,
    )


@app.command()
def delete(
    job: JobId,
    *,
    cleanup: Annotated[
        bool | None,
        typer.Option("--cleanup/--keep-artifacts", help="What becomes of what the job made.", show_default=False),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
    api_url: ApiUrl = None,
) -> None:
    """Delete the record of an ended job; a job with artifacts needs one of the two choices."""

    async def work(ke: KnowledgeExtractionClient) -> Mapping[str, Any] | None:
        started = await ke.delete_job_record(job, cleanup=cleanup)
        return await follow_cleanup(ke, started["id"], timeout_s=timeout) if started is not None and wait else started

    receipt = call(api_url, work)
    if receipt is not None:
        show(receipt, as_json=as_json)
        return
    output.emit({"id": job, "deleted": True}, lambda out, _: out.print(f"Deleted job {job}."), as_json=as_json)


@app.command()
def receipt(job: JobId, *, as_json: Json = False, api_url: ApiUrl = None) -> None:
    """Show a job's cleanup receipt; it outlives the job."""
    show_cleanup(receipt_id(job), as_json=as_json, api_url=api_url)


def show_cleanup(receipt: str, *, as_json: bool, api_url: str | None) -> None:
    """Print the receipt of that id."""
    show_kept(call(api_url, lambda ke: ke.get_cleanup(receipt)), as_json=as_json)
