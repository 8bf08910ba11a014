"""The embedded stack in one process's care: starts everything in order, watches it, and ends it in the other order."""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any, Final

from ke.contracts.errors import TemporalUnavailable, Unavailable
from ke.runtime.embedded.consumers import WORKFLOWS, ConsumerSpecs, Services, gateway_and_workers
from ke.runtime.embedded.files import prepare_data_dir, sole_owner
from ke.runtime.embedded.ports import LOOPBACK, claim_port
from ke.runtime.embedded.postgres import EmbeddedPostgres
from ke.runtime.embedded.processes import Child, ProcessLedger, Report
from ke.runtime.embedded.temporal import EmbeddedTemporal
from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.embedded.vectors import EmbeddedVectors
from ke.runtime.endpoints import Endpoints, Pids
from ke.runtime.schedule import set_reconcile_schedule
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import connect
from ke.storage.database import migrate

HEARTBEAT_CAP_S: Final = 0.2
"""Heartbeats cost nothing on this machine, and a cancel is seen at the next one."""
SCHEDULE_TIMEOUT_S: Final = 60.0
RESTART_PAUSE_S: Final = 0.5
RESTART_PAUSE_MAX_S: Final = 10.0
"""With a start of some seconds, a child that somebody keeps killing is back within 30 s."""
STEADY_AFTER_S: Final = 10.0
"""A child that has run this long is started again with the shortest pause."""
PRODUCTION_SETTINGS: Final = ("KE_TEMPORAL_API_KEY", "KE_TEMPORAL_TLS", "KE_QDRANT_URL", "KE_QDRANT_API_KEY")
"""Say how to reach other services than those of this stack; its processes must not see them."""
_OWN_TEMPORAL: Final = {"temporal_api_key": None, "temporal_tls": False}


class Supervisor:
    """One embedded stack, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        *,
        report: Report,
        consumers: ConsumerSpecs = gateway_and_workers,
        dynamic_config: Sequence[str] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: The folder, the ports and how many workers.
            report: Takes progress.
            consumers: Which processes use the services; the gateway and the workers by default.
            dynamic_config: More settings of the Temporal server, each `key=JSON`.
        """
        self._settings = settings
        self._report = report
        self._consumer_specs = consumers
        self._dynamic_config = tuple(dynamic_config)
        self._data_dir = settings.data_dir.absolute()
        self._ledger = ProcessLedger(self._data_dir / "processes.json")
        self._postgres = EmbeddedPostgres(self._data_dir, ledger=self._ledger, report=report)
        self._vectors = EmbeddedVectors(self._data_dir, ledger=self._ledger, report=report)
        self._temporal: EmbeddedTemporal | None = None
        self._consumers: list[Child] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._endpoints: Callable[[], Endpoints] | None = None

    async def run(self, on_ready: Callable[[Endpoints], None]) -> None:
        """Runs the stack until SIGTERM, SIGINT or SIGHUP; a second one ends gateway and workers at once.

        Args:
            on_ready: Called once, when everything answers and `endpoints.json` is written.

        Raises:
            InvalidInput: The folder or a port cannot be used.
            Conflict: A stack is running on this folder already.
            Unavailable: A part cannot be started; everything has been stopped again.
        """
        prepare_data_dir(self._data_dir)
        with sole_owner(self._data_dir):
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (SIGTERM, SIGINT, SIGHUP):
                loop.add_signal_handler(number, self._on_signal, stop)
            serving = asyncio.create_task(self._serve(on_ready))
            stopping = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                failure = None if not serving.done() else serving.exception()
                await self._end((serving, stopping))
                for number in (SIGTERM, SIGINT, SIGHUP):
                    loop.remove_signal_handler(number)
            if failure is not None:
                raise failure

    def _on_signal(self, stop: asyncio.Event) -> None:
        if stop.is_set():
            self._report("ending gateway and workers without waiting")
            for child in self._consumers:
                child.kill()
        stop.set()

    async def _serve(self, on_ready: Callable[[Endpoints], None]) -> None:
        settings = self._settings
        settings.endpoints_file.unlink(missing_ok=True)
        await self._ledger.end_leftovers(self._report)
        api_port = claim_port(settings.api_port, setting="--port, KE_API_PORT")
        ui_port = claim_port(settings.ui_port, setting="--ui-port, KE_UI_PORT")
        temporal_port = claim_port(settings.temporal_port, setting="--temporal-port, KE_TEMPORAL_PORT")
        self._temporal = temporal = EmbeddedTemporal(
            self._data_dir,
            cli=await find_temporal_cli(settings.temporal_cli, report=self._report),
            port=temporal_port,
            ui_port=ui_port,
            ledger=self._ledger,
            log_dir=self._data_dir / "logs",
            report=self._report,
            namespace=settings.temporal_namespace,
            dynamic_config=self._dynamic_config,
        )
        self._report("starting Postgres, Temporal and the vector store")
        await _all(self._start_database(), self._start_temporal(temporal), self._start_vectors())
        self._report("starting the gateway and the workers")
        services = Services(temporal=temporal, api_port=api_port, env=self._consumer_environment(temporal))
        await self._start_consumers(services)
        self._endpoints = lambda: self._describe(temporal, api_port)
        endpoints = self._endpoints()
        endpoints.write(settings.endpoints_file)
        on_ready(endpoints)
        await asyncio.gather(*self._keepers)

    async def _start_database(self) -> None:
        url = await self._postgres.start()
        self._keep(self._postgres.child)
        await migrate(url)

    async def _start_temporal(self, temporal: EmbeddedTemporal) -> None:
        await temporal.start()
        self._keep(temporal.child)
        await self._set_schedule(temporal)

    async def _set_schedule(self, temporal: EmbeddedTemporal) -> None:
        """Sets the schedule that reconciles; a server that is busy with its own start is given time."""
        give_up_at = time.monotonic() + SCHEDULE_TIMEOUT_S
        while True:
            try:
                client = await connect(temporal.address, self._settings.model_copy(update=_OWN_TEMPORAL))
                return await set_reconcile_schedule(client, self._settings)
            except TemporalUnavailable:
                if time.monotonic() >= give_up_at:
                    raise
                await asyncio.sleep(RESTART_PAUSE_S)

    async def _start_vectors(self) -> None:
        await self._vectors.start()
        self._keep(self._vectors.child)

    async def _start_consumers(self, services: Services) -> None:
        log_dir = self._data_dir / "logs"
        self._consumers = [
            Child(spec, ledger=self._ledger, log_dir=log_dir, report=self._report)
            for spec in self._consumer_specs(self._settings, services)
        ]
        await _all(*(self._start_consumer(child) for child in self._consumers))

    async def _start_consumer(self, child: Child) -> None:
        await child.start()
        self._keep(child)

    def _keep(self, child: Child | None) -> None:
        if child is not None:
            self._keepers.append(asyncio.create_task(self._keep_running(child)))

    async def _keep_running(self, child: Child) -> None:
        """Starts a child again whenever it ends, after a pause that grows while it keeps ending."""
        name, pause_s = child.spec.name, RESTART_PAUSE_S
        while True:
            started_at = time.monotonic()
            status = await child.exited()
            if time.monotonic() - started_at > STEADY_AFTER_S:
                pause_s = RESTART_PAUSE_S
            self._report(f"{name} ended with status {status}: starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)
            try:
                await child.start()
            except Unavailable as error:
                self._report(error.message)
                await child.stop()
                continue
            self._report(f"{name} runs again (pid {child.pid})")
            if self._endpoints is not None:
                self._endpoints().write(self._settings.endpoints_file)

    async def _end(self, tasks: Sequence[asyncio.Task[object]]) -> None:
        """Stops what runs, consumers first: they hand back their work while the services still take it."""
        waiting = [*tasks, *self._keepers]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        if any(child.pid for child in self._consumers):
            self._report("stopping the gateway and the workers")
        await asyncio.gather(*(child.stop() for child in self._consumers))
        services: list[EmbeddedPostgres | EmbeddedVectors | EmbeddedTemporal] = [self._postgres, self._vectors]
        if self._temporal is not None:
            services.append(self._temporal)
        if any(service.child and service.child.pid for service in services):
            self._report("stopping Temporal, Postgres and the vector store")
        await asyncio.gather(*(service.stop() for service in services))
        _remove(self._settings.endpoints_file)

    def _consumer_environment(self, temporal: EmbeddedTemporal) -> dict[str, str]:
        settings = self._settings
        kept = {name: value for name, value in os.environ.items() if name not in PRODUCTION_SETTINGS}
        for name in PRODUCTION_SETTINGS:
            if name in os.environ:
                self._report(f"{name} is not used: this stack has services of its own")
        cap_s = settings.heartbeat_cap_s if "heartbeat_cap_s" in settings.model_fields_set else HEARTBEAT_CAP_S
        return {
            **kept,
            "KE_DATA_DIR": str(self._data_dir),
            "KE_TEMPORAL_ADDRESS": temporal.address,
            "KE_TEMPORAL_NAMESPACE": settings.temporal_namespace,
            "KE_DATABASE_URL": self._postgres.url,
            "KE_VECTORS_SOCKET": str(self._vectors.socket),
            "KE_HEARTBEAT_CAP_S": str(cap_s),
            "PYTHONUNBUFFERED": "1",
        }

    def _describe(self, temporal: EmbeddedTemporal, api_port: int) -> Endpoints:
        pids = {child.spec.name: child.pid for child in self._consumers}
        workers = tuple(pid for name, pid in pids.items() if name.startswith("worker-") and pid is not None)
        return Endpoints(
            api=f"http://{LOOPBACK}:{api_port}",
            temporal=temporal.address,
            temporal_ui=temporal.ui_url,
            database=self._postgres.url,
            vectors=str(self._vectors.socket),
            pids=Pids(
                ke=os.getpid(),
                temporal=_pid(temporal.child),
                postgres=_pid(self._postgres.child),
                vectors=_pid(self._vectors.child),
                gateway=pids.get("gateway"),
                workflows=pids.get(WORKFLOWS),
                workers=workers,
            ),
        )


def _pid(child: Child | None) -> int | None:
    return None if child is None else child.pid


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _all(*starts: Coroutine[Any, Any, None]) -> None:
    """Runs them together; the first that fails cancels the others, and its own error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for start in starts:
                group.create_task(start)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures.exceptions[0].__cause__
