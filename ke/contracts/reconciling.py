"""What a reconciliation is given and what it reports."""

from enum import StrEnum


class ReconcileStatus(StrEnum):
    """Where a reconciliation is."""

    RUNNING = "running"
    COMPLETED = "completed"
    """All stores were compared; what it may repair is repaired."""
    STOPPED = "stopped"
    """It found more to delete than it may without being told."""
    FAILED = "failed"
