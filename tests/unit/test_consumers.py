"""Which processes of ours an embedded stack has, and what each serves."""

from types import SimpleNamespace
from typing import Any

import pytest

from ke.runtime.embedded.consumers import Services, gateway_and_workers
from ke.runtime.settings import Settings

DECIDING = "ke-jobs,ke-cleanup"
WORKING = "ke-collect,ke-extract,ke-entities,ke-records"


def consumers(**given: Any) -> dict[str, str | None]:
    services = Services(temporal=SimpleNamespace(), api_port=1, env={})  # type: ignore[arg-type]
    specs = gateway_and_workers(Settings.model_validate(given), services)
    return {spec.name: (spec.env or {}).get("KE_TASK_QUEUES") for spec in specs}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"workflows": DECIDING, "worker-1": WORKING}),
        ({"workers": 2}, {"workflows": DECIDING, "worker-1": WORKING, "worker-2": WORKING}),
        ({"workers": 0}, {}),
        ({"task_queues": "ke-jobs"}, {"workflows": "ke-jobs"}),
        ({"task_queues": "ke-records,ke-cleanup"}, {"workflows": "ke-cleanup", "worker-1": "ke-records"}),
        ({"task_queues": "ke-extract"}, {"worker-1": "ke-extract"}),
    ],
)
def test_workflows_have_a_process_of_their_own(given: dict[str, Any], expected: dict[str, str]) -> None:
    """One process decides, whatever the number of those that work; what nothing is left to serve for is not started."""
    assert consumers(**given) == {"gateway": None, **expected}
