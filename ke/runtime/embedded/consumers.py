"""The processes that use the stack's services: the gateway and the workers."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM
from typing import Final

import httpx

from ke.contracts.naming import TaskQueue
from ke.runtime.embedded.ports import LOOPBACK
from ke.runtime.embedded.processes import ChildSpec
from ke.runtime.embedded.temporal import EmbeddedTemporal
from ke.runtime.settings import Settings

DRAIN_MAX_S: Final = 30.0
"""The longest a worker is waited for when all is stopped, so that everything ends within a minute."""
DRAIN_MARGIN_S: Final = 5.0
GATEWAY_DRAIN_S: Final = 10
GATEWAY_STOP_S: Final = 15.0
READY_TIMEOUT_S: Final = 180.0
"""Loading the language models takes a slow disk this long."""
REQUEST_TIMEOUT_S: Final = 2.0
WORKFLOWS: Final = "workflows"
"""The name of the worker that has the workflows."""
_DECIDING: Final = frozenset({TaskQueue.JOBS, TaskQueue.CLEANUP})
"""Queues of workflows, and of the activities that write down what they decide or delete: short calls, little CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What consumers connect to."""

    temporal: EmbeddedTemporal
    api_port: int
    env: Mapping[str, str]
    """The whole environment of a consumer."""


ConsumerSpecs = Callable[[Settings, Services], list[ChildSpec]]
"""Says which consumers a stack has."""


def gateway_and_workers(settings: Settings, services: Services) -> list[ChildSpec]:
    """One gateway; one worker for workflows, and as many for what they have done as the settings say.

    Workflows have a process of their own because a cancel is a dozen turns of one: beside pages and texts, which keep
    an interpreter busy, each turn waits.
    """
    decide = [queue for queue in settings.task_queues if queue in _DECIDING]
    work = [queue for queue in settings.task_queues if queue not in _DECIDING]
    workers = []
    if settings.workers and decide:
        workers.append(_worker(WORKFLOWS, decide, settings, services))
    if work:
        workers += [_worker(f"worker-{n}", work, settings, services) for n in range(1, settings.workers + 1)]
    return [_gateway(services), *workers]


def _gateway(services: Services) -> ChildSpec:
    async def ready(_pid: int) -> bool:
        return await _is_ready(services.api_port)

    uvicorn = ("-P", "-m", "uvicorn", "api.app:create_app", "--factory", "--no-access-log")
    return ChildSpec(
        name="gateway",
        command=(
            *(sys.executable, *uvicorn, "--host", LOOPBACK, "--port", str(services.api_port)),
            *("--timeout-graceful-shutdown", str(GATEWAY_DRAIN_S)),
        ),
        ready=ready,
        ready_timeout_s=READY_TIMEOUT_S,
        stops=((SIGTERM, GATEWAY_STOP_S),),
        # Without services there is nothing left to hand back to.
        death_signal=SIGKILL,
        consumer=True,
        env=services.env,
    )


def _worker(name: str, queues: Sequence[TaskQueue], settings: Settings, services: Services) -> ChildSpec:
    async def ready(pid: int) -> bool:
        return await services.temporal.has_poller(pid, queues[0], workflows=queues[0] in _DECIDING)

    return ChildSpec(
        name=name,
        command=(sys.executable, "-P", "-m", "worker"),
        ready=ready,
        ready_timeout_s=READY_TIMEOUT_S,
        stops=((SIGTERM, min(settings.graceful_shutdown_s + DRAIN_MARGIN_S, DRAIN_MAX_S)),),
        death_signal=SIGKILL,
        consumer=True,
        env={**services.env, "KE_TASK_QUEUES": ",".join(queues)},
    )


async def _is_ready(port: int) -> bool:
    try:
        async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
            return (await client.get(f"http://{LOOPBACK}:{port}/readyz")).is_success
    except httpx.HTTPError:
        return False
