"""Short writes to a job's row: tried at once where the workflow is, else left to an ordinary activity."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, cast

from temporalio import workflow
from temporalio.exceptions import FailureError, is_cancelled_exception
from temporalio.workflow import ActivityConfig

from ke.contracts.activities import RecordActivities
from workflows import policies

_PATCH: Final = "record-at-once"
"""Marks the histories whose workflows try it at once; older ones have ordinary activities only."""

A = TypeVar("A")
R = TypeVar("R")


async def record_at_once(
    write: Callable[[RecordActivities, A], Awaitable[R]], argument: A, otherwise: ActivityConfig
) -> R:
    """Writes within the workflow task that asks for it: as a local activity, once and with little time.

    Whatever that ends in, an ordinary activity tries again, without end where that may help. So a workflow task never
    takes long, as what is sent to the workflow meanwhile, a cancel too, is heard at its end, and whoever looks at
    Temporal sees what the job waits for. Call it only where nothing is to be stopped or started in the same moment:
    commands go to Temporal with the end of the task.

    Args:
        write: An activity that may be done twice, also by two at once.
        argument: What it takes.
        otherwise: How it is run where the first try failed.

    Raises:
        ActivityError: The write is refused for good.
        asyncio.CancelledError: The workflow was cancelled meanwhile.
    """
    if workflow.patched(_PATCH):
        try:
            return await workflow.execute_local_activity_method(
                write, argument, **policies.at_once(otherwise.get("summary"))
            )
        except FailureError as error:
            if is_cancelled_exception(error):
                raise asyncio.CancelledError from error
    return cast("R", await workflow.execute_activity_method(write, argument, **otherwise))
