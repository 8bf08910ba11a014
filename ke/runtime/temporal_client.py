"""The connection to Temporal: with a deadline on every call, and its errors as ours."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Protocol

import structlog
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DeleteWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.service import KeepAliveConfig, RPCError, RPCStatusCode

from ke.contracts.errors import TemporalUnavailable
from ke.runtime.settings import Settings

CONNECT_TIMEOUT_S: Final = 5.0
RPC_TIMEOUT_S: Final = 5.0
"""Seconds for one call, retries included."""
RPC_TIMEOUT: Final = timedelta(seconds=RPC_TIMEOUT_S)
CLOSING_S: Final = 3.0
"""Seconds for which a workflow whose work is done may take to close."""
ERASE_TIMEOUT_S: Final = 8.0
"""Seconds for the deletion of a workflow, all calls included: less than the heartbeat that its activity has."""

_ANSWERS: Final = frozenset({RPCStatusCode.NOT_FOUND, RPCStatusCode.ALREADY_EXISTS})
"""Statuses that say something about the workflow; all others are about the service or how it is set up."""
_NO_DELETION: Final = frozenset({RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNIMPLEMENTED})
"""Answers of a service that does not let us delete a workflow, today or ever."""

log = structlog.get_logger(__name__)


async def connect(
    address: str, settings: Settings, *, timeout_s: float = CONNECT_TIMEOUT_S, lazy: bool = False
) -> Client:
    """Connects to Temporal.

    Args:
        address: host:port of the frontend.
        settings: Namespace, TLS and API key; an API key turns TLS on.
        timeout_s: Seconds for the whole attempt.
        lazy: Connect at the first call; such a client cannot serve a worker.

    Raises:
        TemporalUnavailable: It did not answer in time, or refused.
    """
    api_key = settings.temporal_api_key.get_secret_value() if settings.temporal_api_key else None
    with translated_rpc_errors():
        async with asyncio.timeout(timeout_s):
            return await Client.connect(
                address,
                namespace=settings.temporal_namespace,
                api_key=api_key,
                tls=True if settings.temporal_tls or api_key else None,
                connect_timeout=timedelta(seconds=timeout_s),
                keep_alive_config=KeepAliveConfig(interval_millis=10_000, timeout_millis=5_000),
                lazy=lazy,
            )


@contextmanager
def translated_rpc_errors() -> Iterator[None]:
    """Turns every sign of an absent, overloaded or wrongly set up Temporal into `TemporalUnavailable`.

    What Temporal says about a workflow (not found, already exists) passes as it is.
    """
    try:
        yield
    except RPCError as error:
        if error.status in _ANSWERS and "amespace" not in error.message:
            raise
        raise TemporalUnavailable(f"Temporal did not answer: {error.status.name}: {error.message}") from error
    except TimeoutError as error:
        raise TemporalUnavailable("Temporal did not answer in time.") from error
    except RuntimeError as error:
        # The SDK's core reports a connection that cannot be made as a bare RuntimeError.
        if "connect" not in str(error):
            raise
        raise TemporalUnavailable("Temporal cannot be reached.") from error


async def erase_workflow(client: Client, workflow_id: str) -> None:
    """Deletes every run of a closed workflow, history and visibility record; one that is not there is no error.

    Where Temporal does not let us delete, that is logged, and the history stays until its retention time is over.

    Raises:
        TemporalUnavailable: Temporal did not answer within `ERASE_TIMEOUT_S`, or the workflow has not closed within
            `CLOSING_S`. What was deleted is; call again for the rest.
    """
    with translated_rpc_errors():
        async with asyncio.timeout(ERASE_TIMEOUT_S):
            current = await _closed_run(client, workflow_id)
            if current is None:
                return
            query = f'WorkflowId = "{workflow_id}"'
            listed = [run.run_id async for run in client.list_workflows(query, rpc_timeout=RPC_TIMEOUT)]
            # The newest last: without it a second call, after a failure in between, would find nothing to delete.
            for run_id in [*(run_id for run_id in listed if run_id != current), current]:
                if not await _delete_run(client, WorkflowExecution(workflow_id=workflow_id, run_id=run_id)):
                    return


async def _delete_run(client: Client, run: WorkflowExecution) -> bool:
    """Deletes a closed run; returns False when Temporal does not let us."""
    request = DeleteWorkflowExecutionRequest(namespace=client.namespace, workflow_execution=run)
    try:
        await client.workflow_service.delete_workflow_execution(request, timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status in _NO_DELETION:
            log.warning(
                "Temporal does not let us delete a workflow; its history stays until its retention time is over",
                workflow=run.workflow_id,
                status=error.status.name,
                error=error.message,
            )
            return False
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    return True


async def _closed_run(client: Client, workflow_id: str) -> str | None:
    """The newest run, as soon as it is closed: a job's row ends a moment before its workflow does."""
    deadline = time.monotonic() + CLOSING_S
    while True:
        try:
            newest = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        if newest.status is not WorkflowExecutionStatus.RUNNING:
            return newest.run_id
        if time.monotonic() > deadline:
            raise TemporalUnavailable(f"The workflow {workflow_id} is still closing.")
        await asyncio.sleep(0.1)


class Connection(Protocol):
    """Where a client of Temporal comes from."""

    async def client(self) -> Client:
        """The client."""
        ...


class FixedConnection:
    """A client that is there already."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def client(self) -> Client:
        """The client."""
        return self._client


class TemporalConnection:
    """A client for a process that must start, and stay up, without Temporal.

    Args:
        address: host:port of the frontend.
        settings: Namespace, TLS and API key.
    """

    def __init__(self, address: str, settings: Settings) -> None:
        self._address = address
        self._settings = settings
        self._client: Client | None = None

    async def client(self) -> Client:
        """The client; it connects at its first call, and again whenever it must."""
        if self._client is None:
            self._client = await connect(self._address, self._settings, lazy=True)
        return self._client
