"""Every timeout, retry and limit of the workflows, in one place."""

from datetime import timedelta
from typing import Final

from temporalio.common import Priority, RetryPolicy
from temporalio.workflow import ActivityCancellationType, ActivityConfig

from ke.contracts.naming import TaskQueue

HEARTBEAT_TIMEOUT: Final = timedelta(seconds=10)
"""How long a silent worker keeps a slice: a killed worker's work is taken up after this."""

RETRY: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    maximum_interval=timedelta(seconds=10),
)
"""Retries without end: an outage of a store delays a job and never fails it. Errors that a retry cannot mend are
marked non-retryable where they are raised (`activities/failures.py`)."""

SLICE_MAX_SECONDS: Final = 120.0
"""A slice ends itself after this, so that its report reaches the history and the web UI."""
SLICE_MAX_PAGES: Final = 500

RECORD: Final = ActivityConfig(
    task_queue=TaskQueue.JOBS,
    start_to_close_timeout=timedelta(seconds=90),
    retry_policy=RETRY,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    priority=Priority(priority_key=1),
)
"""Short writes to the job's row, before all other work."""

CLOSE: Final = ActivityConfig(
    task_queue=TaskQueue.JOBS,
    start_to_close_timeout=timedelta(minutes=10),
    heartbeat_timeout=HEARTBEAT_TIMEOUT,
    retry_policy=RETRY,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    priority=Priority(priority_key=1),
)
"""The last write: it counts, which takes a while for a million pages."""

COLLECT: Final = ActivityConfig(
    task_queue=TaskQueue.COLLECT,
    start_to_close_timeout=timedelta(minutes=15),
    heartbeat_timeout=HEARTBEAT_TIMEOUT,
    retry_policy=RETRY,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)

EXTRACT: Final = ActivityConfig(
    task_queue=TaskQueue.EXTRACT,
    start_to_close_timeout=timedelta(minutes=15),
    heartbeat_timeout=HEARTBEAT_TIMEOUT,
    retry_policy=RETRY,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
