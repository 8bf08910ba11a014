"""The sandbox in which workflows run, and the one thing that it takes from outside."""

from typing import Final

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

RUNNER: Final = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("ke.contracts")
)
"""For workers and replays. `ke.contracts` is plain data, frozen and free of side effects, which import-linter holds it
to. Loaded anew for each workflow it was a quarter of a busy worker's processor time."""
