"""`ke up`, whose gateway and workers reach their dependencies through the proxies of a run.

All else is the real thing: the same supervisor, services and commands. `FAULTS_UP` is a JSON object:

    {"routes": {"gateway": ROUTE, "worker": ROUTE, "slices": ROUTE}, "worker": [...], "split": BOOL, "upstreams": PATH}

A route names the ports of the proxies (`postgres`, `temporal`) and the socket of one (`vectors`), `worker` is the
command of a worker, and `upstreams` the file that tells the proxies where to forward to.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ke.cli.up import serve
from ke.runtime.embedded.consumers import WORKFLOWS, Services, gateway_and_workers
from ke.runtime.embedded.files import write_atomically
from ke.runtime.embedded.processes import ChildSpec
from ke.runtime.settings import Settings


def through_proxies(settings: Settings, services: Services) -> list[ChildSpec]:
    """The gateway and the workers, led through the proxies."""
    given = json.loads(os.environ["FAULTS_UP"])
    env = services.env
    upstreams = {
        "database": env["KE_DATABASE_URL"],
        "temporal": services.temporal.address,
        "vectors": env["KE_VECTORS_SOCKET"],
    }
    write_atomically(Path(given["upstreams"]), json.dumps(upstreams))
    return [_led(spec, given) for spec in gateway_and_workers(settings, services)]


def _led(spec: ChildSpec, given: Mapping[str, Any]) -> ChildSpec:
    role = "gateway" if spec.name == "gateway" else "worker"
    alone = given.get("split") and spec.name not in {"gateway", WORKFLOWS}
    route = given["routes"]["slices" if alone else role]
    env = dict(spec.env)
    if "postgres" in route:
        parts = urlsplit(env["KE_DATABASE_URL"])
        env["KE_DATABASE_URL"] = parts._replace(
            netloc=f"{parts.netloc.rpartition(':')[0]}:{route['postgres']}"
        ).geturl()
    if "temporal" in route:
        env["KE_TEMPORAL_ADDRESS"] = f"127.0.0.1:{route['temporal']}"
    if "vectors" in route:
        env["KE_VECTORS_SOCKET"] = route["vectors"]
    command = (sys.executable, *given["worker"]) if role == "worker" and given.get("worker") else spec.command
    return replace(spec, env=env, command=command)


def _end_with_parent() -> None:
    """Ends this stack when the run that started it was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    sys.exit(serve(Settings(), consumers=through_proxies))
