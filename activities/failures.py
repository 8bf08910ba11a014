"""Turns our errors into Temporal's, in one place for all activities."""

from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from ke.contracts.errors import KeError

log = structlog.get_logger(__name__)


class FailureInterceptor(Interceptor):
    """Makes a `KeError` an `ApplicationError` whose type is its code, and final unless it is retryable.

    Anything else is a bug; Temporal retries it, and it shows in the web UI and in the log.
    """

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002
        """Wraps every activity."""
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002
        try:
            return await super().execute_activity(input)
        except KeError as error:
            info = activity.info()
            log.warning(
                "activity failed",
                activity=info.activity_type,
                workflow=info.workflow_id,
                attempt=info.attempt,
                code=error.code,
                retryable=error.retryable,
                error=error.message,
                exc_info=error.retryable,
            )
            # Without the chain behind it, which Temporal would refuse as too large: the log has it.
            raise ApplicationError(error.message, type=error.code, non_retryable=not error.retryable) from None
