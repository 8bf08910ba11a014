"""Temporal's dev server for the embedded stack, with its history in a SQLite file of the data folder."""

import os
import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Final

import httpx

from ke.contracts.naming import SEARCH_ATTRIBUTES
from ke.runtime.embedded.files import write_atomically
from ke.runtime.embedded.ports import LOOPBACK, free_port
from ke.runtime.embedded.processes import Child, ChildSpec, ProcessLedger, Report

READY_TIMEOUT_S: Final = 120.0
REQUEST_TIMEOUT_S: Final = 1.0
DYNAMIC_CONFIG: Final = (
    # 20 by default, which makes each hop of a workflow wait 50 ms.
    "history.transferProcessorMaxPollRPS=100",
    # One partition: with four, a burst of tasks waits seconds for pollers that listen at another one.
    "matching.numTaskqueueReadPartitions=1",
    "matching.numTaskqueueWritePartitions=1",
)


class EmbeddedTemporal:
    """The dev server of one data folder."""

    def __init__(
        self,
        data_dir: Path,
        *,
        cli: Path,
        port: int,
        ui_port: int,
        ledger: ProcessLedger,
        log_dir: Path,
        report: Report,
        namespace: str = "default",
        dynamic_config: Sequence[str] = (),
    ) -> None:
        """Starts nothing yet.

        Args:
            data_dir: The data folder of the stack; it exists.
            cli: The `temporal` binary.
            port: Free loopback port of the frontend.
            ui_port: Free loopback port of the web UI.
            ledger: Where the server process is written down.
            log_dir: Where `temporal.log` goes.
            report: Takes progress.
            namespace: Created with its search attributes if it is not there.
            dynamic_config: More settings of the server, each `key=JSON`.
        """
        self._folder = data_dir.absolute() / "temporal"
        self._cli = cli
        self._port = port
        self._ui_port = ui_port
        self._ledger = ledger
        self._log_dir = log_dir
        self._report = report
        self._namespace = namespace
        self._dynamic_config = (*DYNAMIC_CONFIG, *dynamic_config)
        self._http_port = 0
        self.child: Child | None = None

    @property
    def address(self) -> str:
        """host:port of the frontend."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def ui_url(self) -> str:
        """The web UI."""
        return f"http://{LOOPBACK}:{self._ui_port}"

    async def start(self) -> None:
        """Starts the server and waits until the namespace and its search attributes are there.

        The server never starts again on a file whose making was interrupted. So a new file is made in a folder that
        counts only from the moment the server answers, when `current` names it.

        Raises:
            Unavailable: It cannot be started; the message says why.
        """
        database, is_new = self._choose_database()
        self._http_port = free_port()
        self.child = Child(self._spec(database), ledger=self._ledger, log_dir=self._log_dir, report=self._report)
        try:
            await self.child.start()
        except BaseException:
            await self.child.stop()
            raise
        if is_new:
            write_atomically(self._folder / "current", f"{database.parent.name}\n")

    async def stop(self) -> None:
        """Ends the server."""
        if self.child is not None:
            await self.child.stop()

    async def _is_serving(self, _pid: int) -> bool:
        """Whether the namespace answers and knows every search attribute."""
        answer = await self._get(f"/api/v1/namespaces/{self._namespace}/search-attributes")
        known = answer.get("customAttributes")
        return isinstance(known, dict) and all(key.name in known for key in SEARCH_ATTRIBUTES)

    async def has_poller(self, pid: int, task_queue: str, *, workflows: bool) -> bool:
        """Whether the process of this pid asks for tasks of the queue: for those of workflows, or of activities.

        The SDK names a worker `pid@host`. The server remembers a dead one for minutes, so any poller will not do.
        """
        kind = "TASK_QUEUE_TYPE_WORKFLOW" if workflows else "TASK_QUEUE_TYPE_ACTIVITY"
        path = f"/api/v1/namespaces/{self._namespace}/task-queues/{task_queue}"
        pollers = (await self._get(path, taskQueueType=kind)).get("pollers")
        return isinstance(pollers, list) and any(
            str(poller.get("identity", "")).startswith(f"{pid}@") for poller in pollers if isinstance(poller, dict)
        )

    async def _get(self, path: str, **query: str) -> dict[str, object]:
        url = f"http://{LOOPBACK}:{self._http_port}{path}"
        try:
            async with httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, trust_env=False) as client:
                answer = await client.get(url, params=query)
                body = answer.json() if answer.is_success else {}
        except (httpx.HTTPError, ValueError):
            return {}
        return body if isinstance(body, dict) else {}

    def _choose_database(self) -> tuple[Path, bool]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        current = self._folder / "current"
        name = current.read_text(encoding="utf-8").strip() if current.exists() else ""
        for other in self._folder.glob("db-*"):
            if other.name != name:
                shutil.rmtree(other)
        if name and (self._folder / name / "temporal.db").exists():
            return self._folder / name / "temporal.db", False
        fresh = self._folder / f"db-{secrets.token_hex(4)}"
        fresh.mkdir()
        return fresh / "temporal.db", True

    def _spec(self, database: Path) -> ChildSpec:
        attributes = (f"--search-attribute={key.name}=Keyword" for key in SEARCH_ATTRIBUTES)
        command = (
            *(str(self._cli), "server", "start-dev", f"--ip={LOOPBACK}", f"--db-filename={database}"),
            *(f"--port={self._port}", f"--ui-port={self._ui_port}", f"--http-port={self._http_port}"),
            *(f"--namespace={self._namespace}", "--log-level=warn", "--log-format=json"),
            "--sqlite-pragma=journal_mode=wal",
            *attributes,
            *(f"--dynamic-config-value={setting}" for setting in self._dynamic_config),
            # The user's own profiles are for his other servers.
            *("--disable-config-file", "--disable-config-env", f"--env-file={self._folder / 'no-environments.yaml'}"),
        )
        return ChildSpec(
            name="temporal",
            command=command,
            ready=self._is_serving,
            ready_timeout_s=READY_TIMEOUT_S,
            stops=((SIGTERM, 8.0),),
            env={name: value for name, value in os.environ.items() if not name.startswith("TEMPORAL_")},
        )
