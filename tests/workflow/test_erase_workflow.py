"""How the history of a closed workflow is deleted from Temporal."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ke.contracts.errors import TemporalUnavailable
from ke.runtime.temporal_client import erase_workflow
from tests.closed_workflows import closed_workflow, until_gone
from tests.workflow.stage import open_temporal

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
async def client() -> AsyncIterator[Client]:
    async with open_temporal() as client:
        yield client


@pytest.mark.parametrize("status", [RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED])
async def test_history_that_may_not_be_deleted_blocks_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, status: RPCStatusCode
) -> None:
    """Where Temporal does not let us delete a workflow, the deletion goes on and the log says what stays."""
    workflow_id = f"job-{uuid.uuid4()}"
    await closed_workflow(client, workflow_id)

    async def refuse(*_: Any, **__: Any) -> None:
        raise RPCError("not for you", status, b"")

    monkeypatch.setattr(client.workflow_service, "delete_workflow_execution", refuse)
    with capture_logs() as logs:
        await erase_workflow(client, workflow_id)
    assert [(entry["log_level"], entry["workflow"], entry["status"]) for entry in logs] == [
        ("warning", workflow_id, status.name)
    ]


async def test_deletion_of_a_history_has_one_deadline(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Temporal that hangs is given up as unavailable, whatever the number of calls."""
    workflow_id = f"job-{uuid.uuid4()}"
    await closed_workflow(client, workflow_id)

    async def hang(*_: Any, **__: Any) -> None:
        await asyncio.sleep(DEADLINE_S)

    monkeypatch.setattr("ke.runtime.temporal_client.ERASE_TIMEOUT_S", 0.5)
    monkeypatch.setattr(client.workflow_service, "delete_workflow_execution", hang)
    with pytest.raises(TemporalUnavailable):
        await erase_workflow(client, workflow_id)


async def test_interrupted_deletion_of_a_history_can_be_made_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure between two runs of a workflow, the second call still finds and deletes every run."""
    workflow_id = f"job-{uuid.uuid4()}"
    runs = [await closed_workflow(client, workflow_id) for _ in range(3)]
    await until_listed(client, workflow_id, len(runs))
    delete, calls = client.workflow_service.delete_workflow_execution, []

    async def fail_second(request: Any, **options: Any) -> Any:
        calls.append(request.workflow_execution.run_id)
        if len(calls) == 2:
            raise RPCError("overloaded", RPCStatusCode.UNAVAILABLE, b"")
        return await delete(request, **options)

    monkeypatch.setattr(client.workflow_service, "delete_workflow_execution", fail_second)
    with pytest.raises(TemporalUnavailable):
        await erase_workflow(client, workflow_id)
    await until_gone(client, workflow_id, calls[0])
    await erase_workflow(client, workflow_id)
    for run in runs:
        await until_gone(client, workflow_id, run.run_id)


async def until_listed(client: Client, workflow_id: str, number: int) -> None:
    """Returns when the visibility store has all runs."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if len([run async for run in client.list_workflows(f'WorkflowId = "{workflow_id}"')]) == number:
                return
            await asyncio.sleep(0.1)
