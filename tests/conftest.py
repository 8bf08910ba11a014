"""For all tests."""

import gc
import time

import pytest


def pytest_unconfigure(config: pytest.Config) -> None:
    """Lets the Temporal SDK's threads end before the interpreter does.

    A process that ends right after its last answer from Temporal can be aborted (temporalio/sdk-python, issue 300).
    """
    gc.collect()
    time.sleep(0.5)
