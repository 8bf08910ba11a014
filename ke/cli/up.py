"""`ke up`: the embedded stack, in the foreground."""

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Final

import structlog
from pydantic import ValidationError

from ke.contracts.errors import Conflict, InvalidInput, KeError
from ke.runtime import logs
from ke.runtime.embedded.consumers import ConsumerSpecs, gateway_and_workers
from ke.runtime.embedded.files import open_log, prepare_data_dir
from ke.runtime.embedded.supervisor import Supervisor
from ke.runtime.endpoints import Endpoints
from ke.runtime.settings import Settings, describe_invalid_settings

EXIT_UNAVAILABLE: Final = 1
EXIT_USAGE: Final = 2


def up(
    *,
    data_dir: Path | None = None,
    api_port: int | None = None,
    ui_port: int | None = None,
    temporal_port: int | None = None,
    workers: int | None = None,
) -> int:
    """Runs the embedded stack until Ctrl-C or SIGTERM; prints one `ready` line on standard output.

    Args:
        data_dir: The folder of all its data; each `None` leaves the setting as the environment says.
        api_port: Port of the gateway; 0: any free one.
        ui_port: Port of Temporal's web UI; 0: any free one.
        temporal_port: Port of Temporal's frontend; 0: any free one.
        workers: How many worker processes.

    Returns:
        The exit status: 0 after an orderly end, 2 when a setting, the folder or a port does not fit or a stack runs
        there already, 1 when a part could not be started.
    """
    given = {
        "data_dir": data_dir,
        "api_port": api_port,
        "ui_port": ui_port,
        "temporal_port": temporal_port,
        "workers": workers,
    }
    try:
        settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        return _fail(describe_invalid_settings(error), EXIT_USAGE)
    return serve(settings)


def serve(settings: Settings, *, consumers: ConsumerSpecs = gateway_and_workers) -> int:
    """Runs an embedded stack to its end, and says how it went.

    Args:
        settings: Its folder, ports and number of workers.
        consumers: Which processes use its services.

    Returns:
        The exit status, as of `up`.
    """
    twice = _given_twice(settings)
    if twice:
        return _fail(twice, EXIT_USAGE)
    try:
        folder = prepare_data_dir(settings.data_dir)
        with open_log(folder / "logs", "ke") as raw, open(raw.fileno(), "a", closefd=False) as log:
            logs.configure("ke", settings.log_level, stream=log)
            supervisor = Supervisor(settings, report=_tell, consumers=consumers)
            asyncio.run(supervisor.run(_announce))
    except ValueError as error:
        return _fail(str(error), EXIT_USAGE)
    except (InvalidInput, Conflict) as error:
        return _fail(error.message, EXIT_USAGE)
    except KeError as error:
        return _fail(error.message, EXIT_UNAVAILABLE)
    except KeyboardInterrupt:
        return 130
    return 0


def _given_twice(settings: Settings) -> str:
    """Says which two servers would have the same port; empty when none would."""
    taken: dict[int, str] = {}
    for name, port in (
        ("--port (KE_API_PORT)", settings.api_port),
        ("--ui-port (KE_UI_PORT)", settings.ui_port),
        ("--temporal-port (KE_TEMPORAL_PORT)", settings.temporal_port),
    ):
        if port and port in taken:
            return f"port {port} is given twice: {taken[port]} and {name}"
        taken[port] = name
    return ""


def _announce(endpoints: Endpoints) -> None:
    structlog.get_logger("ke.up").info("ready", api=endpoints.api, temporal=endpoints.temporal)
    line = f"ready api={endpoints.api} ui={endpoints.temporal_ui} temporal={endpoints.temporal}"
    with contextlib.suppress(OSError):
        print(line, flush=True)


def _tell(line: str) -> None:
    structlog.get_logger("ke.up").info(line)
    # Whoever read our progress may be gone; the stack goes on.
    with contextlib.suppress(OSError):
        print(f"ke: {line}", file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    print(f"ke up: {message}", file=sys.stderr, flush=True)
    return status
