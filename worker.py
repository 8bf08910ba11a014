"""The worker: builds what activities need, registers everything, runs until SIGTERM, hands its work back.

`python worker.py` (or `python -m worker`) joins the stack that the settings name, or the embedded one that runs in
`KE_DATA_DIR`. `KE_TASK_QUEUES` picks the queues it serves.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import structlog
import uvloop
from pydantic import ValidationError
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from activities.cleanup import CleanupActivities
from activities.collect import CollectActivities
from activities.entities import EntityActivities
from activities.extract import ExtractActivities
from activities.failures import FailureInterceptor
from activities.forgetting import ForgettingActivities
from activities.project_cleanup import ProjectCleanupActivities
from activities.reconcile import ReconcileActivities, RestoreActivities
from activities.record import RecordActivities
from activities.records import StructuredActivities
from activities.retry import RetryActivities
from activities.settle import SettleActivities
from activities.warmup import load_finder, load_models, warm
from ke.contracts.errors import InvalidInput, KeError, TemporalUnavailable
from ke.contracts.naming import TaskQueue
from ke.extraction.chat import ChatClient
from ke.runtime import logs
from ke.runtime.endpoints import resolve
from ke.runtime.engine import Engine
from ke.runtime.heap import freeze_heap
from ke.runtime.loop_watch import watched_loop
from ke.runtime.pool import ENTITIES_NICENESS, CpuPool
from ke.runtime.resources import open_chat, open_fetcher, open_vectors
from ke.runtime.settings import Settings, describe_invalid_settings
from ke.runtime.settling import WorkerBackends
from ke.runtime.temporal_client import connect
from ke.storage.database import WORKER, WORKER_IDLE_TIMEOUT_S, Database
from ke.storage.frozen import watch_frozen
from ke.storage.vectors.base import VectorStore
from ke.web.fetch import Fetcher
from ke.web.rendering import Browser
from workflows.cleanup import CleanupWorkflow
from workflows.forgetting import ForgettingWorkflow
from workflows.job import JobWorkflow
from workflows.project_cleanup import ProjectCleanupWorkflow
from workflows.reconcile import ReconcileWorkflow, ScheduledReconcileWorkflow
from workflows.retry import RetryWorkflow

CPU_QUEUES = frozenset({TaskQueue.COLLECT, TaskQueue.EXTRACT})
"""The queues whose work runs in the process pool; entities have one of their own."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter from the event loop, which must ask for it after each write to a socket.
Workflow tasks and the pool's results are CPU work in threads; Python's 5 ms add up to a slow cancel."""
TASK_POLLS = 2
"""Requests for tasks that a worker keeps open for each queue and type; one is answered within milliseconds."""
START_TIMEOUT_S = 60.0
"""How long a worker waits for Temporal when it starts."""

log = structlog.get_logger("worker")


@dataclass(frozen=True, slots=True)
class _Resources:
    """What activities work with."""

    database: Database
    vectors: VectorStore
    fetcher: Fetcher
    browser: Browser
    chat: ChatClient | None
    pool: CpuPool
    entity_pool: CpuPool


@asynccontextmanager
async def running_workers(settings: Settings, client: Client) -> AsyncIterator[asyncio.Future[Any]]:
    """Workers for the queues of the settings, with all they need; drained and closed when the block ends.

    Yields:
        What is done, with its error, as soon as one of them can go on no longer.
    """
    async with AsyncExitStack() as stack:
        resources = await _open_resources(settings, stack)
        registrations = _registrations(resources, settings, client)
        workers = [_worker(client, queue, settings, registrations[queue]) for queue in settings.task_queues]
        broken = await stack.enter_async_context(_serving(workers))
        await stack.enter_async_context(_background(watch_frozen(resources.database)))
        if CPU_QUEUES.intersection(settings.task_queues):
            await stack.enter_async_context(_background(warm(resources.pool, load_models)))
        if TaskQueue.ENTITIES in settings.task_queues:
            await stack.enter_async_context(_background(warm(resources.entity_pool, load_finder)))
        freeze_heap()
        log.info("worker ready", queues=[str(queue) for queue in settings.task_queues], pid=os.getpid())
        yield broken
        log.info("worker drains")


async def _open_resources(settings: Settings, stack: AsyncExitStack) -> _Resources:
    """Opens what the stack is to close."""
    connections = resolve(settings)
    database = Database(connections.database_url, application_name=WORKER, idle_timeout_s=WORKER_IDLE_TIMEOUT_S)
    stack.push_async_callback(database.close)
    vectors = open_vectors(connections, settings)
    stack.push_async_callback(vectors.close)
    fetcher = await stack.enter_async_context(open_fetcher(settings))
    browser = await stack.enter_async_context(Browser(settings.chromium, settings.user_agent))
    chat = open_chat(settings)
    if chat is not None:
        await stack.enter_async_context(chat)
    processes = settings.cpu_processes or os.cpu_count() or 1
    pool = CpuPool(processes)
    stack.push_async_callback(pool.close)
    entity_pool = CpuPool(settings.entity_processes or processes, niceness=ENTITIES_NICENESS)
    stack.push_async_callback(entity_pool.close)
    return _Resources(database, vectors, fetcher, browser, chat, pool, entity_pool)


def _registrations(resources: _Resources, settings: Settings, client: Client) -> dict[TaskQueue, dict[str, Any]]:
    """What each queue's worker serves, and how much of it at once."""
    database, vectors, pool = resources.database, resources.vectors, resources.pool
    record, retry = RecordActivities(database), RetryActivities(database, vectors)
    collect = CollectActivities(database, resources.fetcher, pool, resources.browser, settings.collect_shards)
    entities = EntityActivities(database, resources.entity_pool)
    extract = ExtractActivities(database, vectors, pool, entities)
    structured = StructuredActivities(database, pool, resources.chat)
    restore = RestoreActivities(database, vectors, pool)
    cleanup, project = CleanupActivities(database, vectors), ProjectCleanupActivities(database, vectors)
    forgetting, reconcile = ForgettingActivities(database), ReconcileActivities(database, vectors)
    settle = SettleActivities(WorkerBackends(database, Engine.of(client), vectors))
    return {
        TaskQueue.JOBS: {
            "workflows": [JobWorkflow, RetryWorkflow],
            "activities": [
                record.open_job,
                record.set_job_status,
                record.close_job,
                retry.open_retry,
                retry.close_retry,
            ],
            "max_concurrent_activities": 32,
        },
        TaskQueue.COLLECT: {
            "activities": [collect.collect_pages, collect.collect_shard],
            "max_concurrent_activities": 16,
        },
        TaskQueue.EXTRACT: {
            "activities": [extract.extract_sources, restore.restore_points],
            "max_concurrent_activities": 4,
        },
        TaskQueue.ENTITIES: {"activities": [entities.find_entities], "max_concurrent_activities": 4},
        TaskQueue.RECORDS: {"activities": [structured.extract_records], "max_concurrent_activities": 8},
        TaskQueue.CLEANUP: {
            "workflows": [
                *(CleanupWorkflow, ProjectCleanupWorkflow, ForgettingWorkflow),
                *(ReconcileWorkflow, ScheduledReconcileWorkflow),
            ],
            "activities": [
                cleanup.begin_cleanup,
                cleanup.delete_vectors,
                cleanup.delete_sources,
                cleanup.purge_dead_letters,
                cleanup.verify_cleanup,
                cleanup.erase_history,
                cleanup.fail_cleanup,
                project.begin_project_cleanup,
                project.list_project_jobs,
                project.close_project_cleanup,
                forgetting.list_replaced_sources,
                reconcile.open_reconciliation,
                reconcile.compare_points,
                reconcile.compare_rows,
                reconcile.delete_pending_rows,
                reconcile.close_reconciliation,
                settle.settle_jobs,
                settle.settle_cleanups,
                settle.settle_retries,
            ],
            "max_concurrent_activities": 8,
        },
    }


@asynccontextmanager
async def _serving(workers: Sequence[Worker]) -> AsyncIterator[asyncio.Future[Any]]:
    """Runs workers side by side, and drains them side by side: their times to hand back must not add up."""
    runs = [asyncio.create_task(worker.run()) for worker in workers]
    broken: asyncio.Future[Any] = asyncio.gather(*runs)
    try:
        yield broken
    finally:
        await asyncio.gather(*(worker.shutdown() for worker in workers))
        await asyncio.gather(broken, return_exceptions=True)


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _worker(client: Client, queue: TaskQueue, settings: Settings, registration: dict[str, Any]) -> Worker:
    throttle = timedelta(seconds=settings.heartbeat_cap_s)
    return Worker(
        client,
        task_queue=queue,
        interceptors=[FailureInterceptor()],
        # The tests run all workflows in the sandbox; here each job would wait for it (ADR 27).
        workflow_runner=UnsandboxedWorkflowRunner(),
        # Without a name the SDK makes one by reading every module that is loaded: a second of each start.
        build_id=version("ke"),
        graceful_shutdown_timeout=timedelta(seconds=settings.graceful_shutdown_s),
        # A worker that freezes swallows as many tasks as it has asked for, and each is missed only at its timeout.
        max_concurrent_activity_task_polls=TASK_POLLS,
        max_concurrent_workflow_task_polls=TASK_POLLS,
        # A cancel comes with the answer to a heartbeat, so this is how soon it is seen.
        max_heartbeat_throttle_interval=throttle,
        default_heartbeat_throttle_interval=throttle,
        **registration,
    )


async def _connect(settings: Settings, stop: asyncio.Event) -> Client | None:
    """Connects, and waits a while for a Temporal that is still starting.

    Returns:
        The client, or None when the worker was told to stop first.

    Raises:
        TemporalUnavailable: It did not come within `START_TIMEOUT_S`.
    """
    connecting = asyncio.create_task(_wait_for_temporal(resolve(settings).temporal_address, settings))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({connecting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stop.is_set() else await connecting
    finally:
        connecting.cancel()
        stopped.cancel()
        await asyncio.gather(connecting, stopped, return_exceptions=True)


async def _wait_for_temporal(address: str, settings: Settings) -> Client:
    reason = "no answer"
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                try:
                    return await connect(address, settings)
                except TemporalUnavailable as error:
                    reason = error.message
                    log.warning("Temporal is not there yet", address=address, error=reason)
                    await asyncio.sleep(1)
    except TimeoutError:
        raise TemporalUnavailable(
            f"Temporal at {address} was not there after {START_TIMEOUT_S:.0f} s: {reason}"
        ) from None


async def main() -> None:
    """Runs until SIGTERM or SIGINT.

    Raises:
        pydantic.ValidationError: A setting does not fit.
        KeError: What it needs is not there, or cannot be reached.
    """
    settings = Settings()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    logs.configure("worker", settings.log_level)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    client = await _connect(settings, stop)
    if client is None:
        return
    async with running_workers(settings, client) as broken, watched_loop():
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({stopped, broken}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if broken.done():
            broken.result()


def _run() -> int:
    try:
        uvloop.run(main())
    except ValidationError as error:
        sys.stderr.write(f"error: {describe_invalid_settings(error)}\n")
        return 2
    except (KeError, TimeoutError) as error:
        sys.stderr.write(f"error: {str(error) or 'what it needs did not answer in time'}\n")
        return 2 if isinstance(error, InvalidInput) else 1
    return 0


if __name__ == "__main__":
    code = _run()
    logging.shutdown()
    sys.stderr.flush()
    # Everything is drained and closed. The SDK's threads can abort the process when the interpreter is taken down
    # under them (`PyGILState_Release`), so that is left out.
    os._exit(code)
