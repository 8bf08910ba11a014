"""One command's conversation with the gateway: find it, open a client, turn every failure into a `CommandFailed`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from ke.cli.errors import CommandFailed, ExitCode, code_for, detail_of, failure_of, problem_of
from ke.contracts.errors import KeError
from ke.gateway import find_gateway

if TYPE_CHECKING:
    from ke.client import KnowledgeExtractionClient

ResultT = TypeVar("ResultT")


def call(api_url: str | None, work: Callable[[KnowledgeExtractionClient], Awaitable[ResultT]]) -> ResultT:
    """Run `work` with an open client.

    Args:
        api_url: The gateway's URL, or None to look for it.
        work: What to do.

    Raises:
        CommandFailed: The gateway refused, did not answer, or was not found.
        KeyboardInterrupt: Ctrl-C; the client is closed by then.
    """
    # Here and not above: it loads an HTTP stack, which `ke --help` and a typing error need not wait for.
    from ke.client import ApiError, GatewayUnreachable, RequestRefused  # noqa: PLC0415

    try:
        return asyncio.run(_conversation(find_gateway(api_url), work))
    except ApiError as error:
        raise CommandFailed(detail_of(error.problem), code_for(error.status, error.problem), error.problem) from error
    except RequestRefused as error:
        raise CommandFailed(str(error), ExitCode.USAGE, problem_of("request-refused", error)) from error
    except GatewayUnreachable as error:
        raise CommandFailed(str(error), ExitCode.UNAVAILABLE, problem_of("gateway-unreachable", error)) from error
    except KeError as error:
        raise failure_of(error) from error


async def _conversation(url: str, work: Callable[[KnowledgeExtractionClient], Awaitable[ResultT]]) -> ResultT:
    from ke.client import KnowledgeExtractionClient  # noqa: PLC0415  (as in `call`)

    async with KnowledgeExtractionClient(url) as client:
        return await work(client)
