"""The command line as a person or a script meets it: as a process."""

import json
import os
import sys
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any, TypeAlias

KE = [sys.executable, "-m", "ke"]
TIME_LIMIT_S = 60.0
RunKe: TypeAlias = Callable[..., "CompletedProcess[str]"]


def environment(**extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KE_")}
    return kept | {"NO_COLOR": "1", "COLUMNS": "200"} | extra


def document(done: "CompletedProcess[str]") -> Any:
    """What a command that succeeded printed as JSON."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
