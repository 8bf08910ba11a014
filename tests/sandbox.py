"""Temporal's sandbox, which refuses what is not deterministic in a workflow; workers do without (ADR 27)."""

from typing import Final

from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

SANDBOX: Final = SandboxedWorkflowRunner(
    restrictions=SandboxRestrictions.default.with_passthrough_modules("ke.contracts")
)
"""It loads each module of a workflow anew but for the contracts, which import-linter holds to plain data."""
