"""Workflows that are over, and how Temporal forgets them."""

import asyncio
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

_DEADLINE_S = 200.0
"""Temporal deletes in the background, and tries again ever later when its own steps come in the wrong order."""


async def closed_workflow(client: Client, workflow_id: str) -> WorkflowHandle[Any, Any]:
    """A run of that id which is over."""
    handle = await client.start_workflow("nothing", id=workflow_id, task_queue="nobody-polls")
    await handle.terminate("by a test")
    return client.get_workflow_handle(workflow_id, run_id=handle.first_execution_run_id)


async def until_gone(client: Client, workflow_id: str, run_id: str | None = None) -> None:
    """Returns when Temporal no longer knows the workflow: a deletion takes a moment."""
    async with asyncio.timeout(_DEADLINE_S):
        while True:
            try:
                await client.get_workflow_handle(workflow_id, run_id=run_id).describe()
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    return
                raise
            await asyncio.sleep(0.1)
