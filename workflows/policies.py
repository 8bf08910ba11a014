"""Every timeout, retry and limit of the workflows, in one place."""

from datetime import timedelta
from typing import Final

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig, LocalActivityConfig

from ke.contracts.naming import TaskQueue

HEARTBEAT_TIMEOUT: Final = timedelta(seconds=10)
"""How long a silent worker keeps a slice: a killed worker's work is taken up after this."""

RECORD_TIMEOUT: Final = HEARTBEAT_TIMEOUT
"""How long one attempt at a short write may take; done twice it is done once."""

RETRY: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
)
"""Retries without end: an outage of a store delays a job and never fails it. Errors that a retry cannot mend are
marked non-retryable where they are raised (`activities/failures.py`)."""

AT_ONCE_WITHIN: Final = timedelta(seconds=2)
"""How long a workflow task may be kept open by a write of its own: a cancel that comes meanwhile waits for that."""

SLICE_MAX_SECONDS: Final = 120.0
"""A slice ends itself after this, so that its report reaches the history and the web UI."""
SLICE_MAX_PAGES: Final = 5_000
"""A quick crawl ends a slice after this, so that other jobs have their turn; between two slices it stands still for
some 50 ms."""
IDLE_SHARD: Final = timedelta(seconds=30)
"""How long a shard that had no pages is left alone, at most: as soon as a slice of another one ends it is looked at."""


def record(summary: str) -> ActivityConfig:
    """Short writes to the job's row, before all other work."""
    return ActivityConfig(
        task_queue=TaskQueue.JOBS,
        # They have no heartbeat, so this is how long a worker that froze or died with one keeps the job waiting.
        start_to_close_timeout=RECORD_TIMEOUT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        priority=Priority(priority_key=1),
        summary=summary,
    )


def at_once(summary: str | None) -> LocalActivityConfig:
    """The first try at a short write, within the workflow task; what fails is done by an ordinary activity."""
    return LocalActivityConfig(
        schedule_to_close_timeout=AT_ONCE_WITHIN,
        retry_policy=RetryPolicy(maximum_attempts=1),
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )


def close(summary: str) -> ActivityConfig:
    """The last write: it counts, which takes a while for a million pages."""
    return ActivityConfig(
        task_queue=TaskQueue.JOBS,
        start_to_close_timeout=timedelta(minutes=10),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        priority=Priority(priority_key=1),
        summary=summary,
    )


def lane_slice(queue: TaskQueue, summary: str, *, urgent: bool = True) -> ActivityConfig:
    """A slice of a lane: ends itself after `SLICE_MAX_SECONDS` and what it has in flight.

    Args:
        queue: Where its workers are.
        summary: What the web UI shows.
        urgent: Whether it comes before further shards of jobs that are at work already.
    """
    config = ActivityConfig(
        task_queue=queue,
        start_to_close_timeout=timedelta(minutes=15),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RETRY,
        # Not the default: with that the workflow would go on while the activity still writes.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )
    if not urgent:
        config["priority"] = Priority(priority_key=4)
    return config


SECOND_SWEEP_AFTER: Final = HEARTBEAT_TIMEOUT
"""How long after the rows the vectors are swept again, where the store cannot refuse late writes: by then a worker
that is cut off from Temporal knows that its activity timed out."""


def cleanup_count(summary: str) -> ActivityConfig:
    """A step of a cleanup that counts all stores."""
    return _cleanup(summary, start_to_close=timedelta(minutes=10))


def cleanup_delete(summary: str) -> ActivityConfig:
    """A step of a cleanup that deletes batch after batch; a new attempt goes on after the last one."""
    return _cleanup(summary, start_to_close=timedelta(minutes=30))


def cleanup_erase(summary: str) -> ActivityConfig:
    """The last step of a cleanup that deletes the record too: some calls to Temporal."""
    return _cleanup(summary, start_to_close=timedelta(minutes=1))


def cleanup_fail(summary: str) -> ActivityConfig:
    """The last step of a cleanup that was stopped: it must not keep the run open when a store is down."""
    config = _cleanup(summary, start_to_close=timedelta(minutes=1))
    config["schedule_to_close_timeout"] = timedelta(minutes=1)
    return config


CLEANUPS_AT_ONCE: Final = 4
"""Jobs of a project, or documents that a re-crawl has replaced, that are cleaned up side by side."""
CLEANUP_TRIES: Final = 3
"""How often one of them is started again where its cleanup left something."""
CLEANUP_WAITS: Final = 25
"""How often a cleanup that is at work already is waited for: about ten minutes in all."""


def cleanup_wait(number: int) -> timedelta:
    """How long to wait for the n-th time for another cleanup of the same."""
    return timedelta(seconds=min(2.0**number, 30.0))


def _cleanup(summary: str, *, start_to_close: timedelta) -> ActivityConfig:
    return ActivityConfig(
        task_queue=TaskQueue.CLEANUP,
        start_to_close_timeout=start_to_close,
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RETRY,
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )


RECONCILE_RETRY: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
    maximum_attempts=30,
)
"""About five minutes of an outage: then the run fails, and the next one on the schedule begins from the start."""


def reconcile_record(summary: str) -> ActivityConfig:
    """Writing the record of a reconciliation; bounded, so that a run without a database ends and another one starts."""
    config = _cleanup(summary, start_to_close=timedelta(seconds=30))
    config["schedule_to_close_timeout"] = timedelta(minutes=10)
    config["retry_policy"] = RECONCILE_RETRY
    del config["heartbeat_timeout"]
    return config


def reconcile_step(queue: TaskQueue, summary: str) -> ActivityConfig:
    """A walk over a whole store. A new attempt goes on where the last heartbeat was, so that time is no limit."""
    config = _cleanup(summary, start_to_close=timedelta(hours=6))
    config["schedule_to_close_timeout"] = timedelta(hours=24)
    # Where no worker serves the queue the run must end, or no other would ever start.
    config["schedule_to_start_timeout"] = timedelta(hours=1)
    config["retry_policy"] = RECONCILE_RETRY
    config["task_queue"] = queue
    return config
