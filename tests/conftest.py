"""For all tests."""

import gc
import signal
import time

import pytest
import structlog


def pytest_configure(config: pytest.Config) -> None:
    """Takes Ctrl-C even where the shell that started this had it ignored, as for a job in the background.

    The processes that tests start inherit that, and some tests are about Ctrl-C. Tracebacks are logged plainly: with
    all local variables, structlog's default where nobody has configured it, one can hold an event loop up for seconds.
    """
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ]
    )
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Lets the Temporal SDK's threads end before the interpreter does.

    A process that ends right after its last answer from Temporal can be aborted (temporalio/sdk-python, issue 300).
    """
    gc.collect()
    time.sleep(0.5)
