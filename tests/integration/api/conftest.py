"""One real stack for all tests of the gateway."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from temporalio.testing import WorkflowEnvironment

from ke.contracts.naming import SEARCH_ATTRIBUTES
from ke.runtime.embedded.temporal_cli import find_temporal_cli
from ke.runtime.settings import Settings
from tests.integration.api.stack import ApiStack, open_gateway, running_worker
from tests.stores import Stores, open_stores

IDLE = "idle"
"""A namespace in which no worker ever polls."""
RETRIED = "retried"
"""A namespace for the whole real worker."""
WATCHED = "watched"
"""A namespace for workers to which something happens."""


@pytest.fixture(scope="session")
async def api_temporal() -> AsyncIterator[WorkflowEnvironment]:
    cli = await find_temporal_cli(Settings().temporal_cli, report=lambda _: None)
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=str(cli),
        dev_server_extra_args=["--namespace", IDLE, "--namespace", RETRIED, "--namespace", WATCHED],
        search_attributes=SEARCH_ATTRIBUTES,
    ) as environment:
        yield environment


@pytest.fixture(scope="session")
async def api_stores(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stores]:
    async with open_stores(tmp_path_factory.mktemp("api")) as stores:
        yield stores


@pytest.fixture(scope="session")
def api_settings(
    api_temporal: WorkflowEnvironment, api_stores: Stores, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    url = api_stores.database._engine.url.set(drivername="postgresql")
    folder: Path = api_stores.vectors._socket
    return Settings(
        data_dir=tmp_path_factory.mktemp("none"),
        database_url=SecretStr(url.render_as_string(hide_password=False)),
        temporal_address=api_temporal.client.service_client.config.target_host,
        vectors_socket=folder,
    )


@pytest.fixture(scope="session")
async def api(api_settings: Settings, api_stores: Stores, api_temporal: WorkflowEnvironment) -> AsyncIterator[ApiStack]:
    """A gateway, with a worker behind it."""
    async with (
        open_gateway(api_settings, api_stores, api_temporal.client) as stack,
        running_worker(api_stores, api_temporal.client),
    ):
        yield stack


@pytest.fixture(scope="session")
async def idle_api(
    api_settings: Settings, api_stores: Stores, api_temporal: WorkflowEnvironment
) -> AsyncIterator[ApiStack]:
    """A gateway behind which no worker ever was."""
    settings = api_settings.model_copy(update={"temporal_namespace": IDLE})
    async with open_gateway(settings, api_stores, api_temporal.client) as stack:
        yield stack


@pytest.fixture(autouse=True)
def patient(patience: None) -> None:
    """For every test here."""
