"""What a retry of dead letters is given and what it reports."""

from enum import StrEnum


class RetryStatus(StrEnum):
    """Where a retry is."""

    RUNNING = "running"
    COMPLETED = "completed"
    """Every letter that it took up was tried; what failed again is a dead letter again."""
    CANCELLED = "cancelled"
    """What it had not tried by then is the dead letter that it was."""
    FAILED = "failed"
