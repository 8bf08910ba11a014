"""`ke temporal ...`: Temporal's own command line against the stack that is running."""

import asyncio
import os
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from ke.contracts.errors import InvalidInput, Unavailable
from ke.runtime.embedded.temporal_cli import present_temporal_cli
from ke.runtime.endpoints import resolve_temporal
from ke.runtime.settings import Settings, describe_invalid_settings


def temporal(args: Sequence[str], settings: Settings | None = None) -> int:
    """Becomes the `temporal` command, told by its environment where the server is; comes back only with an error.

    Args:
        args: Its arguments, passed on untouched.
        settings: Those of the environment by default.

    Raises:
        Unavailable: No stack is running, or there is no Temporal CLI.
        InvalidInput: A setting does not fit.
    """
    try:
        settings = settings or Settings()
    except ValidationError as error:
        raise InvalidInput(describe_invalid_settings(error)) from error
    address = resolve_temporal(settings)
    cli = asyncio.run(present_temporal_cli(settings.temporal_cli))
    if cli is None:
        raise Unavailable("There is no Temporal CLI here: `ke up` and `make setup` get one, or set KE_TEMPORAL_CLI.")
    env = {**os.environ, "TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": settings.temporal_namespace}
    if settings.temporal_api_key is not None:
        env["TEMPORAL_API_KEY"] = settings.temporal_api_key.get_secret_value()
    if settings.temporal_tls:
        env["TEMPORAL_TLS"] = "true"
    sys.stdout.flush()
    os.execve(cli, [str(cli), *args], env)  # noqa: S606 - the arguments are the user's own, and no shell reads them
