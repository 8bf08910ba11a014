"""For all tests."""

import gc
import signal
import time

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Takes Ctrl-C even where the shell that started this had it ignored, as for a job in the background.

    The processes that tests start inherit that, and some tests are about Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Lets the Temporal SDK's threads end before the interpreter does.

    A process that ends right after its last answer from Temporal can be aborted (temporalio/sdk-python, issue 300).
    """
    gc.collect()
    time.sleep(0.5)
