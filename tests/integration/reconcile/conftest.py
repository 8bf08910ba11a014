"""One pair of stores and one Temporal, with a worker, for all reconciliations."""

from collections.abc import AsyncIterator

import pytest
from temporalio.client import Client

from tests.reconciling import reconcile_worker
from tests.stores import Stores, open_stores
from tests.workflow.stage import open_temporal


@pytest.fixture(scope="package")
async def stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("vectors")) as found:
        yield found


@pytest.fixture(autouse=True)
def patient(patience: None) -> None:
    """For every test here."""


@pytest.fixture(scope="package")
async def client(stores: Stores) -> AsyncIterator[Client]:
    async with open_temporal() as connected, reconcile_worker(stores, connected):
        yield connected
