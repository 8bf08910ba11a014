"""The sandbox in which workflows run, and what it takes from outside."""

from typing import Final

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

_PLAIN: Final = "ke.contracts"
"""Data, frozen and free of side effects, which import-linter holds it to. Loaded anew for each workflow it was a
quarter of a busy worker's processor time."""
_SHARED: Final = ("workflows.children", "workflows.lanes", "workflows.policies", "workflows.recording")
"""What defines no workflow and keeps nothing between two."""


def _taking(*modules: str) -> SandboxedWorkflowRunner:
    return SandboxedWorkflowRunner(restrictions=SandboxRestrictions.default.with_passthrough_modules(*modules))


RUNNER: Final = _taking(_PLAIN, *_SHARED)
"""For workers: what is loaded anew is waited for at the start of each job."""
STRICT_RUNNER: Final = _taking(_PLAIN)
"""For replays: it refuses what is not deterministic in those modules too."""
