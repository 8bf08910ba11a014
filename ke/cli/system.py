"""`ke up`, `ke init`, `ke temporal`, `ke mcp`, `ke version`: the system around the jobs.

What these commands run is loaded when they run, and not before: it is most of the program.
"""

import asyncio
import os
import sys
from dataclasses import asdict
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated

import typer

from ke.cli import output
from ke.cli.errors import CommandFailed, ExitCode, failure_of
from ke.cli.options import ApiUrl, Json
from ke.contracts.errors import KeError

MCP_MODULE = "ke.mcp.server"


def _folder(text: str) -> Path:
    if not text.strip():
        # It would be the working folder, which nobody means by it.
        raise typer.BadParameter("an empty name is no folder")
    return Path(text)


def up(
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", parser=_folder, help="The folder of all its data (KE_DATA_DIR, else .ke/)."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Port of the gateway; 0: any free one.")
    ] = None,
    ui_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Port of Temporal's web UI.")
    ] = None,
    temporal_port: Annotated[
        int | None, typer.Option(min=0, max=65535, metavar="PORT", help="Port of Temporal's frontend.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, metavar="N", help="Worker processes.")] = None,
) -> None:
    """Run the whole system here: Temporal, Postgres, vectors, gateway and workers. Ctrl-C ends it."""
    from ke.cli.up import up as run_stack  # noqa: PLC0415

    status = run_stack(data_dir=data_dir, api_port=port, ui_port=ui_port, temporal_port=temporal_port, workers=workers)
    raise typer.Exit(status)


def temporal(context: typer.Context) -> None:
    """Run Temporal's own command line against the running stack: `ke temporal workflow list`."""
    from ke.cli.temporal import temporal as run_cli  # noqa: PLC0415

    try:
        raise typer.Exit(run_cli(context.args))
    except KeError as error:
        raise failure_of(error) from error


def init(*, as_json: Json = False) -> None:
    """Prepare a Postgres and a Temporal of your own: tables, search attributes, schedule. `ke up` does it by itself."""
    from pydantic import ValidationError  # noqa: PLC0415

    from ke.runtime.init import initialise  # noqa: PLC0415
    from ke.runtime.settings import Settings, describe_invalid_settings  # noqa: PLC0415

    try:
        done = asyncio.run(initialise(Settings()))
    except ValidationError as error:
        raise CommandFailed(describe_invalid_settings(error), ExitCode.USAGE) from error
    except KeError as error:
        raise failure_of(error) from error
    added = ", ".join(done.search_attributes_added) or "nothing to add"
    every = f"every {done.reconcile_every_s} s" if done.reconcile_every_s else "never"
    lines = (
        f"Postgres: at the newest schema.\nTemporal {done.temporal_address}: search attributes: {added}; "
        f"reconciles {every}."
    )
    output.emit(asdict(done), lambda out, _: out.print(lines), as_json=as_json)


def mcp(*, api_url: ApiUrl = None) -> None:
    """Serve the MCP tools on stdin and stdout, for agents. The gateway is looked for at each call."""
    if api_url:
        os.environ["KE_API_URL"] = api_url
    # A process of its own: the CLI and the MCP server know nothing of each other. -P: the working folder of an
    # agent may hold anything, and none of it is to be imported.
    os.execv(sys.executable, [sys.executable, "-P", "-m", MCP_MODULE])  # noqa: S606  (no shell, nothing from outside)


def version(*, as_json: Json = False) -> None:
    """Print the version."""
    number = distribution_version("ke")
    output.emit({"version": number}, lambda out, _: out.print(f"ke {number}"), as_json=as_json)
