"""The command line, and a small real HTTP server for it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.api_twin import ApiTwin, serving
from tests.integration.cli.process import KE, TIME_LIMIT_S, RunKe, environment


@pytest.fixture
def api() -> Iterator[ApiTwin]:
    with serving(ApiTwin()) as twin:
        yield twin


@pytest.fixture
def ke(api: ApiTwin, tmp_path: Path) -> RunKe:
    def run(*arguments: str, **extra: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*KE, *arguments],
            env=environment(**({"KE_API_URL": api.url} | extra)),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run
