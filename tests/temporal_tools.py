"""What people do to workflows with Temporal's own CLI."""

import asyncio
import subprocess

from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.settings import Settings


async def temporal(settings: Settings, noun: str, verb: str, workflow_id: str, *options: str) -> None:
    """`temporal workflow VERB --workflow-id ID ...`, or `activity`, as a person types it; fails when that does."""
    cli = await find_temporal_cli(Settings().temporal_cli, report=lambda _: None)
    process = await asyncio.create_subprocess_exec(
        str(cli),
        *(noun, verb, "--workflow-id", workflow_id),
        *("--address", str(settings.temporal_address), "--namespace", settings.temporal_namespace),
        *options,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()


async def terminate(settings: Settings, workflow_id: str) -> None:
    """Terminates a workflow."""
    await temporal(settings, "workflow", "terminate", workflow_id, "--reason", "by hand")


async def cancel(settings: Settings, workflow_id: str) -> None:
    """Asks for a workflow's cancellation."""
    await temporal(settings, "workflow", "cancel", workflow_id)


async def reset(settings: Settings, workflow_id: str, *, to: str = "LastWorkflowTask") -> None:
    """Starts a workflow's work again, from its first or last workflow task on, as a new run."""
    await temporal(settings, "workflow", "reset", workflow_id, "--type", to, "--reason", "by hand")
