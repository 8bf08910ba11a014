"""Retries of dead letters, on real stores, a real Temporal, the whole worker and a real site."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from temporalio.testing import WorkflowEnvironment

from activities import pages
from ke.contracts.jobs import COUNTER_NAMES
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import connect
from tests.integration.api.conftest import RETRIED
from tests.integration.api.retry_stage import RetryStage, open_retry_stage
from tests.integration.web_site import site as open_site
from tests.stores import Stores

ZERO = dict.fromkeys(("vectors", "sources", "extractions", "entities", "dead_letters", "pages"), 0)


@pytest.fixture(scope="module")
async def stage(
    api_settings: Settings, api_stores: Stores, api_temporal: WorkflowEnvironment
) -> AsyncIterator[RetryStage]:
    """The real worker on a namespace of its own, where a page that fails is tried again at once."""
    async with open_site() as site:
        settings = api_settings.model_copy(
            update={
                "temporal_namespace": RETRIED,
                "fetch_allow": frozenset({site.key}),
                "cpu_processes": 1,
                "heartbeat_cap_s": 0.1,
            }
        )
        temporal = await connect(api_temporal.client.service_client.config.target_host, settings)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
            async with open_retry_stage(settings, api_stores, temporal, site) as stage:
                yield stage


def counters(job: dict[str, Any], where: str = "result") -> dict[str, int]:
    """The numbers that are not zero."""
    return {name: job[where][name] for name in COUNTER_NAMES if job[where][name]}


async def test_retry_finds_what_was_missing(stage: RetryStage) -> None:
    """A page that failed is fetched, its links are followed, all is extracted; the state stays, the numbers grow."""
    stage.page("/a/", "/a/broken", "/a/fine")
    stage.page("/a/fine")
    stage.broken("/a/broken", 500)
    before = await stage.crawl("/a/", extract={})
    (letter,) = await stage.letters(before["id"])
    assert (letter["error_type"], letter["attempts"]) == ("http-500", 4)
    stage.page("/a/broken", "/a/new-1", "/a/new-2")
    stage.page("/a/new-1")
    stage.page("/a/new-2", "/a/fine")

    retry = await stage.retry(before["id"])
    assert retry["id"] == f"retry-{before['id']}-1"
    ended = await stage.until_over(retry["id"])
    assert (ended["status"], ended["letters"], ended["succeeded"], ended["failed"]) == ("completed", 1, 1, 0)

    after = await stage.job(before["id"])
    kept = ("status", "completed_at", "artifacts", "error")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert (after["status"], after["retry_id"]) == ("completed_with_errors", None)
    numbers = counters(after)
    assert (numbers["pages_fetched"], numbers["sources"], numbers["sources_extracted"]) == (5, 5, 5)
    assert not {"pages_failed", "dead_letters", "pages_skipped"} & set(numbers)
    assert counters(after, "progress") == numbers
    assert numbers["extractions"] == numbers["vectors"] > before["result"]["vectors"]
    assert await stage.api.stores.vectors.count_job("wordllama-256", after["id"]) == numbers["vectors"]
    assert await stage.letters(before["id"]) == []
