"""The workflows still decide what they decided when the histories in `histories/` were recorded."""

import re
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer
from temporalio.workflow import NondeterminismError

from tests.replay.mutated import MutatedJobWorkflow
from tests.replay.record import FOLDER, MAX_BYTES, RECORDER
from tests.sandbox import SANDBOX
from workflows.cleanup import CleanupWorkflow
from workflows.forgetting import ForgettingWorkflow
from workflows.job import JobWorkflow
from workflows.project_cleanup import ProjectCleanupWorkflow
from workflows.reconcile import ReconcileWorkflow, ScheduledReconcileWorkflow
from workflows.retry import RetryWorkflow

FILES = sorted(FOLDER.glob("*.json"))
OF_JOBS = [
    file for file in FILES if not file.stem.startswith(("cleanup", "forgetting", "letters", "project", "reconcile"))
]
LAST_EVENTS = {
    "at_once": "WORKFLOW_EXECUTION_COMPLETED",
    "cancel": "WORKFLOW_EXECUTION_CANCELED",
    "cancel_with_cleanup": "WORKFLOW_EXECUTION_CANCELED",
    "cleanup": "WORKFLOW_EXECUTION_COMPLETED",
    "cleanup_in_batches": "WORKFLOW_EXECUTION_COMPLETED",
    "cleanup_second_sweep": "WORKFLOW_EXECUTION_COMPLETED",
    "cleanup_source": "WORKFLOW_EXECUTION_COMPLETED",
    "continue_as_new": "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "continued": "WORKFLOW_EXECUTION_COMPLETED",
    "entities": "WORKFLOW_EXECUTION_COMPLETED",
    "entities_cancel": "WORKFLOW_EXECUTION_CANCELED",
    "failure": "WORKFLOW_EXECUTION_FAILED",
    "forgetting": "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "forgetting_continued": "WORKFLOW_EXECUTION_COMPLETED",
    "letters_entities_retried": "WORKFLOW_EXECUTION_COMPLETED",
    "letters_records_retried": "WORKFLOW_EXECUTION_COMPLETED",
    "letters_replaced_retried": "WORKFLOW_EXECUTION_COMPLETED",
    "letters_retried": "WORKFLOW_EXECUTION_COMPLETED",
    "letters_retry_cancelled": "WORKFLOW_EXECUTION_CANCELED",
    "limits": "WORKFLOW_EXECUTION_COMPLETED",
    "not_at_once": "WORKFLOW_EXECUTION_COMPLETED",
    "pause_resume": "WORKFLOW_EXECUTION_COMPLETED",
    "project_cleanup": "WORKFLOW_EXECUTION_CONTINUED_AS_NEW",
    "project_cleanup_continued": "WORKFLOW_EXECUTION_COMPLETED",
    "reconcile": "WORKFLOW_EXECUTION_COMPLETED",
    "reconcile_cancelled": "WORKFLOW_EXECUTION_CANCELED",
    "reconcile_scheduled": "WORKFLOW_EXECUTION_COMPLETED",
    "reconcile_stopped": "WORKFLOW_EXECUTION_COMPLETED",
    "records": "WORKFLOW_EXECUTION_COMPLETED",
    "replaced": "WORKFLOW_EXECUTION_COMPLETED",
    "retry": "WORKFLOW_EXECUTION_COMPLETED",
    "shards": "WORKFLOW_EXECUTION_COMPLETED",
    "success": "WORKFLOW_EXECUTION_COMPLETED",
}


def _history(file: Path) -> WorkflowHistory:
    return WorkflowHistory.from_json(file.stem, file.read_text(encoding="utf-8"))


def _id(file: Path) -> str:
    return file.stem


@pytest.mark.parametrize("file", FILES, ids=_id)
async def test_recorded_history_replays(file: Path) -> None:
    """In the sandbox, the code of today takes every step that the recorded run took."""
    cleanups = [CleanupWorkflow, ProjectCleanupWorkflow, ForgettingWorkflow]
    workflows = [JobWorkflow, RetryWorkflow, *cleanups, ReconcileWorkflow, ScheduledReconcileWorkflow]
    await Replayer(workflows=workflows, workflow_runner=SANDBOX).replay_workflow(_history(file))


@pytest.mark.parametrize("file", OF_JOBS, ids=_id)
async def test_changed_workflow_is_noticed(file: Path) -> None:
    """A job workflow that schedules one activity more does not replay any of the job histories."""
    with pytest.raises(NondeterminismError):
        await Replayer(workflows=[MutatedJobWorkflow]).replay_workflow(_history(file))


def test_histories_are_what_their_names_say() -> None:
    """Every path that there is a history for ends as it should."""
    ends = {file.stem: EventType.Name(_history(file).events[-1].event_type) for file in FILES}
    assert ends == {name: f"EVENT_TYPE_{event}" for name, event in LAST_EVENTS.items()}


@pytest.mark.parametrize("file", FILES, ids=_id)
def test_history_names_no_machine(file: Path) -> None:
    """A committed history is small and without stack traces, and names nobody but the recorder and the server."""
    text = file.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert "stackTrace" not in text
    identities = set(re.findall(r'"identity": "([^"]*)"', text))
    assert identities <= {RECORDER, "history-service"}
