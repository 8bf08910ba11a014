"""What can be done with a job in the state it is in, and what to say when something cannot."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from api.errors import CleanupRunning, JobActive, NotCancellable, NotPausable, NotResumable, RetryRunning
from ke.contracts.errors import Conflict
from ke.contracts.jobs import Artifacts, JobStatus
from ke.runtime.executions import Execution
from ke.storage.jobs import JobRow

_ACTIVE_ACTIONS: Final = {
    JobStatus.QUEUED: ["cancel"],
    JobStatus.RUNNING: ["cancel", "pause"],
    JobStatus.PAUSED: ["cancel", "resume"],
    JobStatus.CANCELLING: [],
}
_ENDED_ACTIONS: Final = {
    Artifacts.PRESENT: ["cleanup", "delete"],
    Artifacts.CLEANING: [],
    Artifacts.CLEANED: ["delete"],
    Artifacts.CLEANUP_FAILED: ["cleanup", "delete"],
}


def allowed_actions(row: JobRow) -> list[str]:
    """What the gateway would do with the job now."""
    if not row.status.is_terminal:
        return _ACTIVE_ACTIONS[row.status]
    if row.retry_id:
        return ["cancel", *_ENDED_ACTIONS[row.artifacts]]
    has_letters = row.artifacts is Artifacts.PRESENT and (row.result or {}).get("dead_letters", 0) > 0
    return [*(["retry"] if has_letters else []), *_ENDED_ACTIONS[row.artifacts]]


def about(row: JobRow) -> dict[str, Any]:
    """The members that a problem has where a job is concerned."""
    return {"job_id": str(row.id), "current_status": row.status.value, "allowed_actions": allowed_actions(row)}


def moment(time: datetime | None) -> str:
    """A time for people: to the second, UTC."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else "an unknown time"


def _next(row: JobRow) -> str:
    match row.artifacts:
        case Artifacts.PRESENT | Artifacts.CLEANUP_FAILED:
            return f"To delete what it made: POST /jobs/{row.id}/cleanup."
        case Artifacts.CLEANING:
            return f"What it made is being deleted: GET /cleanups/cleanup-{row.id}."
        case Artifacts.CLEANED:
            return f"What it made is deleted: GET /cleanups/cleanup-{row.id}."


def not_cancellable(row: JobRow, execution: Execution | None) -> Conflict:
    """Why a job cannot be cancelled, in its very state."""
    match row.status:
        case JobStatus.CANCELLING:
            detail = (
                f"The job is being cancelled already, since {moment(row.cancel_requested_at)}; "
                f"it waits for {awaited(execution)}."
            )
        case JobStatus.CANCELLED:
            detail = f"The job is cancelled already, since {moment(row.completed_at)}. {_next(row)}"
        case JobStatus.COMPLETED | JobStatus.COMPLETED_WITH_ERRORS:
            detail = f"There is nothing to cancel: the job completed at {moment(row.completed_at)}. {_next(row)}"
        case JobStatus.FAILED:
            why = f" ({row.error['type']}: {row.error['message']})" if row.error else ""
            detail = f"There is nothing to cancel: the job failed at {moment(row.completed_at)}{why}. {_next(row)}"
        case _:
            detail = f"The job is {row.status}, and changed its state at this very moment: try again."
    return NotCancellable(detail, **about(row))


def awaited(execution: Execution | None) -> str:
    """What a job that is being cancelled waits for."""
    if execution is None:
        return "Temporal, which cannot be asked at the moment"
    if not execution.activities:
        return "its workflow to write the result"
    names = ", ".join(sorted({activity.name for activity in execution.activities}))
    number = len(execution.activities)
    return f"{number} running {'activity' if number == 1 else 'activities'} ({names}) to acknowledge or time out"


def not_pausable(row: JobRow) -> Conflict:
    """Why a job cannot be paused."""
    why = "it is paused already" if row.status is JobStatus.PAUSED else f"it is {row.status}"
    return NotPausable(f"Only a running job can be paused; {why}.", **about(row))


def not_resumable(row: JobRow) -> Conflict:
    """Why a job cannot be resumed."""
    return NotResumable(f"Only a paused job can be resumed; it is {row.status}.", **about(row))


def still_active(row: JobRow, what: str) -> Conflict:
    """Why something must wait for the job's end."""
    hint = "It is being cancelled: wait for that." if row.status is JobStatus.CANCELLING else "Cancel it first."
    return JobActive(f"The job is {row.status}: only a job that has ended can be {what}. {hint}", **about(row))


def blocked(row: JobRow, by: Sequence[Any]) -> Conflict:
    """Why a cleanup must wait for other jobs."""
    names = ", ".join(map(str, by[:10])) + (f" and {len(by) - 10} more" if len(by) > 10 else "")  # noqa: PLR2004
    return JobActive(
        f"Active jobs rely on this job's sources: {names}. Cancel them, or wait for their end.",
        **about(row),
        blocked_by=[str(job) for job in by],
    )


def being_retried(row: JobRow) -> Conflict:
    """Why a second retry must wait for the end of the first."""
    what = f"{row.retry_id} is at work" if row.retry_id else "another one began at this very moment"
    return RetryRunning(f"The job's dead letters are being retried: {what}.", **about(row), retry_id=row.retry_id)


def being_cleaned(row: JobRow) -> Conflict:
    """Why something must wait for the cleanup's end."""
    return CleanupRunning(f"The job is being cleaned up: GET /cleanups/cleanup-{row.id} tells how far.", **about(row))
