"""Retries of dead letters, on real stores, a real Temporal, the whole worker and a real site."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from temporalio.testing import WorkflowEnvironment

from activities import pages
from ke.contracts.jobs import COUNTER_NAMES, JobKind
from ke.contracts.retries import RetryInput
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import connect
from tests.closed_workflows import until_gone
from tests.integration.api.conftest import RETRIED
from tests.integration.api.retry_stage import RetryStage, open_retry_stage
from tests.integration.web_site import site as open_site
from tests.reconciling import execute
from tests.stores import Stores

ZERO = dict.fromkeys(("vectors", "sources", "extractions", "entities", "dead_letters", "pages", "records"), 0)


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


async def test_what_fails_again_adds_up(stage: RetryStage) -> None:
    """A page that is still broken is a dead letter again: attempts add up, its first time stays; the rest is done."""
    stage.page("/b/", "/b/broken", "/b/mended", "/b/gone")
    for name in ("broken", "mended", "gone"):
        stage.broken(f"/b/{name}", 500 if name == "broken" else 404)
    job = await stage.crawl("/b/")
    first = {letter["url"]: letter for letter in await stage.letters(job["id"])}
    stage.page("/b/mended")
    stage.page("/b/gone")
    ids = [first[stage.site.url + path]["id"] for path in ("/b/broken", "/b/mended")]
    ended = await stage.until_over((await stage.retry(job["id"], ids=ids))["id"])
    assert (ended["status"], ended["letters"], ended["succeeded"], ended["failed"]) == ("completed", 2, 1, 1)
    again = {letter["url"]: letter for letter in await stage.letters(job["id"])}
    assert set(again) == {stage.site.url + path for path in ("/b/broken", "/b/gone")}
    was, now = first[stage.site.url + "/b/broken"], again[stage.site.url + "/b/broken"]
    assert (now["id"], now["attempts"], now["first_failed_at"]) == (was["id"], 8, was["first_failed_at"])
    assert now["last_failed_at"] > was["last_failed_at"]
    after = await stage.job(job["id"])
    assert counters(after) == counters(after, "progress")
    assert (after["result"]["pages_failed"], after["result"]["dead_letters"]) == (2, 2)
    rest = await stage.until_over((await stage.retry(job["id"], error_type="http-404"))["id"])
    assert (rest["id"], rest["letters"], rest["succeeded"]) == (f"retry-{job['id']}-2", 1, 1)


async def test_page_that_turns_out_skipped_is_no_dead_letter(stage: RetryStage) -> None:
    """A page that is skipped, or a duplicate, when it is tried again loses its letter too."""
    stage.page("/c/", "/c/pdf", "/c/twin")
    stage.broken("/c/pdf")
    stage.broken("/c/twin")
    job = await stage.crawl("/c/")
    stage.site.serve("/c/pdf", b"\x89PNG", Content_Type="image/png")
    stage.site.pages["/c/twin"] = stage.site.pages["/c/"]
    await stage.until_over((await stage.retry(job["id"]))["id"])
    numbers = counters(await stage.job(job["id"]))
    assert (numbers["pages_skipped"], numbers["pages_duplicate"]) == (1, 1)
    assert not {"pages_failed", "dead_letters"} & set(numbers)


async def test_pages_taken_up_are_fetched_beyond_the_limit_and_new_links_within_it(stage: RetryStage) -> None:
    """`max_pages` never keeps a letter from being retried, and new links take only what those leave of it."""
    stage.page("/d/", "/d/broken-1", "/d/deep")
    stage.page("/d/deep", "/d/broken-2")
    stage.broken("/d/broken-1")
    stage.broken("/d/broken-2")
    job = await stage.crawl("/d/", limits={"max_pages": 3})
    stage.page("/d/broken-1", *(f"/d/new-{n}" for n in range(5)))
    stage.page("/d/broken-2")
    for number in range(5):
        stage.page(f"/d/new-{number}")
    ended = await stage.until_over((await stage.retry(job["id"]))["id"])
    assert (ended["letters"], ended["succeeded"]) == (2, 2)
    numbers = counters(await stage.job(job["id"]))
    assert (numbers["pages_fetched"], numbers["pages_skipped"]) == (4, 5)


async def test_cancel_stops_a_retry(stage: RetryStage) -> None:
    """A cancel of the ended job ends its retry; what was not tried is the dead letter that it was."""
    stage.page("/e/", "/e/broken", "/e/quick")
    stage.broken("/e/broken")
    stage.broken("/e/quick")
    job = await stage.crawl("/e/", rate={"concurrency": 1})
    letters = await stage.letters(job["id"])
    stage.held("/e/broken")
    retry = await stage.retry(job["id"])
    await stage.until_asked("/e/broken", 2)
    assert (await stage.job(job["id"]))["retry_id"] == retry["id"]
    answer = await stage.api.http.post(f"/jobs/{job['id']}/cancel", json={"reason": "enough"})
    assert (answer.status_code, answer.json()["status"]) == (202, job["status"])
    ended = await stage.until_over(retry["id"])
    assert (ended["status"], ended["letters"], ended["error"]) == ("cancelled", 2, None)
    after = await stage.job(job["id"])
    assert (after["status"], after["retry_id"], after["result"]["dead_letters"]) == (job["status"], None, 2)
    assert counters(after) == counters(job)
    assert [one["attempts"] for one in await stage.letters(job["id"])] == [one["attempts"] for one in letters]
    refused = await stage.api.http.post(f"/jobs/{job['id']}/cancel")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:ke:problem:not-cancellable")
    assert refused.json()["allowed_actions"] == ["retry", "cleanup", "delete"]


@pytest.mark.parametrize("by_cancel", [False, True], ids=["cleanup", "cancel-with-cleanup"])
async def test_cleanup_beats_a_retry(stage: RetryStage, by_cancel: bool) -> None:  # noqa: FBT001
    """A cleanup does not wait for a retry: it ends it, and leaves nothing of what it made, either."""
    path = f"/f{by_cancel:d}"
    stage.page(f"{path}/", f"{path}/held", f"{path}/mended")
    stage.broken(f"{path}/held")
    stage.broken(f"{path}/mended")
    job = await stage.crawl(f"{path}/", extract={})
    gate = stage.held(f"{path}/held")
    stage.page(f"{path}/mended")
    retry = await stage.retry(job["id"])
    await stage.until_asked(f"{path}/held", 2)
    if by_cancel:
        assert (await stage.api.http.post(f"/jobs/{job['id']}/cancel", json={"cleanup": True})).status_code == 202
    cleaned = await stage.api.http.post(f"/jobs/{job['id']}/cleanup", headers={"Prefer": "wait=30"})
    gate.set()
    receipt = cleaned.json()
    assert (cleaned.status_code, receipt["status"], receipt["remaining"]) == (200, "cleaned", ZERO)
    assert (await stage.until_over(retry["id"]))["status"] in {"cancelled", "failed"}
    after = await stage.job(job["id"])
    assert (after["artifacts"], after["retry_id"], after["status"]) == ("cleaned", None, job["status"])
    assert (await stage.api.ke.cleanup_job(job["id"], dry_run=True))["planned"] == ZERO


async def test_of_two_retries_at_once_one_is_refused(stage: RetryStage) -> None:
    """A second retry is refused while the first is at work, and the refusal names it."""
    stage.page("/g/", "/g/held")
    stage.broken("/g/held")
    job = await stage.crawl("/g/")
    gate = stage.held("/g/held")
    url = f"/jobs/{job['id']}/dead-letters/retry"
    answers = await asyncio.gather(*(stage.api.http.post(url) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409]
    refused = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refused["type"] == "urn:ke:problem:retry-running"
    assert f"retry-{job['id']}-1" in refused["detail"]
    assert refused["allowed_actions"] == ["cancel", "cleanup", "delete"]
    gate.set()
    assert (await stage.until_over(f"retry-{job['id']}-1"))["succeeded"] == 1


async def test_purge_leaves_what_a_retry_has_in_hand(stage: RetryStage) -> None:
    """Purging while a retry is at work takes the letters that it did not take up, and its own count stays true."""
    stage.page("/h/", "/h/held", "/h/other")
    stage.broken("/h/held")
    stage.broken("/h/other", 410)
    job = await stage.crawl("/h/")
    stage.held("/h/held")
    retry = await stage.retry(job["id"], error_type="http-404")
    await stage.until_asked("/h/held", 2)
    assert await stage.api.ke.purge_dead_letters(job["id"]) == 1
    await stage.api.ke.cancel_job(job["id"])
    await stage.until_over(retry["id"])
    assert [letter["url"] for letter in await stage.letters(job["id"])] == [f"{stage.site.url}/h/held"]
    after = await stage.job(job["id"])
    assert (after["result"]["pages_failed"], after["result"]["dead_letters"]) == (2, 1)
    assert counters(after) == counters(after, "progress")


async def test_filters_choose_among_dead_letters(stage: RetryStage) -> None:
    """Lists, purges and retries take subject, error type and start of the URL; cursors belong to their filters."""
    stage.page("/i/", "/i/a_1", "/i/a_2", "/i/b")
    for name, status in (("a_1", 404), ("a_2", 410), ("b", 404)):
        stage.broken(f"/i/{name}", status)
    job = await stage.crawl("/i/")

    async def paths(**filters: str) -> list[str]:
        return sorted(
            letter["url"].removeprefix(stage.site.url) for letter in await stage.letters(job["id"], **filters)
        )

    assert await paths(error_type="http-404") == ["/i/a_1", "/i/b"]
    assert await paths(url_prefix=f"{stage.site.url}/i/a_") == ["/i/a_1", "/i/a_2"]
    assert await paths(url_prefix=f"{stage.site.url}/i/%") == []
    assert await paths(subject="source") == []
    page = await stage.api.ke.list_dead_letters(job["id"], error_type="http-404", limit=1)
    with_other_filter = {"cursor": page["next_cursor"] or "", "limit": "1"}
    answer = await stage.api.http.get(f"/jobs/{job['id']}/dead-letters", params=with_other_filter)
    assert answer.json()["type"] == "urn:ke:problem:bad-cursor"
    retry = await stage.api.ke.retry_dead_letters(job["id"], url_prefix=f"{stage.site.url}/i/a_")
    assert (await stage.until_over(retry["id"]))["letters"] == 2
    assert await stage.api.ke.purge_dead_letters(job["id"], error_type="http-410") == 1
    assert await paths() == ["/i/a_1", "/i/b"]


async def test_refusals_say_why(stage: RetryStage) -> None:
    """An active job, one without letters, ids of nobody's, and a cleaned job are refused, each in its own way."""
    stage.page("/j/", "/j/held")
    stage.held("/j/held")
    body = {"kind": "crawl", "seeds": [f"{stage.site.url}/j/"], "scope": {"sitemaps": False}}
    active = (await stage.api.http.post("/jobs", json=body)).json()
    url = f"/jobs/{active['id']}/dead-letters/retry"
    assert (await stage.api.http.post(url)).json()["type"] == "urn:ke:problem:job-active"
    await stage.api.http.post(f"/jobs/{active['id']}/cancel")
    await stage.api.until(active["id"], "cancelled")
    nothing = (await stage.api.http.post(url)).json()
    assert (nothing["type"], nothing["allowed_actions"]) == (
        "urn:ke:problem:nothing-to-retry",
        ["cleanup", "delete"],
    )
    unknown = (await stage.api.http.post(url, json={"ids": [active["id"]]})).json()
    assert (unknown["type"], unknown["errors"][0]["pointer"]) == ("urn:ke:problem:unknown-reference", "/ids/0")
    for wrong in ({"ids": []}, {"subject": "job"}, {"url_prefix": ""}):
        assert (await stage.api.http.post(url, json=wrong)).status_code == 422
    await stage.api.http.post(f"/jobs/{active['id']}/cleanup", headers={"Prefer": "wait=30"})
    cleaned = await stage.api.http.post(url)
    assert (cleaned.status_code, cleaned.json()["type"]) == (409, "urn:ke:problem:artifacts-gone")
    assert (await stage.api.http.get(f"/retries/retry-{active['id']}-1")).status_code == 404


async def test_retry_that_was_terminated_is_closed_when_the_job_is_read(stage: RetryStage) -> None:
    """A retry whose workflow was terminated is `failed` as soon as somebody looks, and can be started anew."""
    stage.page("/k/", "/k/held")
    stage.broken("/k/held")
    job = await stage.crawl("/k/")
    gate = stage.held("/k/held")
    retry = await stage.retry(job["id"])
    await stage.until_asked("/k/held", 2)
    await stage.api.temporal.get_workflow_handle(retry["id"]).terminate()
    assert (await stage.job(job["id"]))["retry_id"] is None
    ended = await stage.until_over(retry["id"])
    assert (ended["status"], ended["error"]["type"]) == ("failed", "terminated")
    (letter,) = await stage.letters(job["id"])
    assert letter["attempts"] == 1
    gate.set()
    again = await stage.until_over((await stage.retry(job["id"]))["id"])
    assert (again["id"], again["status"], again["succeeded"]) == (f"retry-{job['id']}-2", "completed", 1)


async def test_deletion_of_the_record_beats_a_retry(stage: RetryStage) -> None:
    """A job's record goes while its retry is at work, with the retry's record and history; nothing is written after."""
    stage.page("/l/", "/l/held")
    stage.broken("/l/held")
    job = await stage.crawl("/l/")
    gate = stage.held("/l/held")
    retry = await stage.retry(job["id"])
    await stage.until_asked("/l/held", 2)
    answer = await stage.api.http.delete(f"/jobs/{job['id']}", params={"cleanup": "false"})
    assert answer.status_code == 204
    assert (await stage.api.http.get(f"/retries/{retry['id']}")).status_code == 404
    gate.set()
    receipt = await stage.api.ke.cleanup_job(job["id"], wait_s=30)
    assert (receipt["status"], receipt["remaining"]) == ("cleaned", ZERO)


async def test_start_whose_commit_was_lost_heals(stage: RetryStage) -> None:
    """A retry whose workflow runs without a row writes it, and the job tells of it."""
    stage.page("/m/", "/m/broken")
    stage.broken("/m/broken")
    job = await stage.crawl("/m/")
    stage.page("/m/broken")
    lost = RetryInput(f"retry-{job['id']}-1", job["id"], 1, datetime.now(UTC).isoformat())
    engine = stage.api.app.state.gateway.engine
    await engine.retries.start(lost, kind=JobKind.CRAWL, project="default", request="lost")
    await stage.api.temporal.get_workflow_handle(lost.id).result()
    assert (await stage.until_over(lost.id))["succeeded"] == 1
    assert (await stage.job(job["id"]))["result"]["pages_fetched"] == 2


async def a_lost_retry(stage: RetryStage, path: str, **values: str) -> tuple[dict[str, Any], str]:
    """An ended job with one dead letter, and a retry of it that Temporal does not know: only its rows are there."""
    stage.page(f"{path}/", f"{path}/broken")
    stage.broken(f"{path}/broken")
    job = await stage.crawl(f"{path}/")
    job_id, retry = UUID(job["id"]), f"retry-{job['id']}-1"
    changed = "".join(f", {name} = :{name}" for name in values)
    taken = f"UPDATE jobs SET retry_id = :retry, retries = 1{changed} WHERE id = :id"
    await execute(stage.api.stores, taken, retry=retry, id=job_id, **values)
    row = "INSERT INTO retries (id, job_id, number, status, created_at) VALUES (:retry, :id, 1, 'running', now())"
    await execute(stage.api.stores, row, retry=retry, id=job_id)
    return job, retry


async def test_retry_that_temporal_has_lost_is_closed_when_it_is_read(stage: RetryStage) -> None:
    """A retry that was started in this namespace and is unknown there is `failed`, and its letters are as before."""
    job, retry = await a_lost_retry(stage, "/n")
    async with stage.api.stores.database.transaction() as held:
        await held.execute(sa.text("SELECT 1 FROM jobs WHERE id = :id FOR SHARE"), {"id": UUID(job["id"])})
        # A frozen worker holds the row: the job is read as it was written.
        assert (await stage.job(job["id"]))["retry_id"] == retry
    ended = await stage.until_over(retry)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "workflow-lost")
    after = await stage.job(job["id"])
    assert (after["retry_id"], counters(after)) == (None, counters(job))
    assert len(await stage.letters(job["id"])) == 1


async def test_cancel_ends_a_retry_that_this_temporal_does_not_know(stage: RetryStage) -> None:
    """Where the job was started in another Temporal, reading leaves its lost retry alone, and a cancel ends it."""
    job, retry = await a_lost_retry(stage, "/p", namespace_id="another")
    assert (await stage.job(job["id"]))["retry_id"] == retry
    answer = await stage.api.http.post(f"/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["retry_id"]) == (202, None)
    assert (await stage.until_over(retry))["status"] == "cancelled"
    assert len(await stage.letters(job["id"])) == 1
    assert (await stage.api.http.post(f"/jobs/{job['id']}/cancel")).status_code == 409


async def test_deletion_takes_the_histories_of_retries_along(stage: RetryStage) -> None:
    """What a retry's slices name in Temporal goes with the job's own history, when the record is deleted after it."""
    stage.page("/o/", "/o/broken")
    stage.broken("/o/broken")
    job = await stage.crawl("/o/")
    retry = await stage.until_over((await stage.retry(job["id"]))["id"])
    assert (retry["status"], retry["failed"]) == ("completed", 1)
    answer = await stage.api.http.delete(f"/jobs/{job['id']}", params={"cleanup": "true"})
    assert answer.status_code == 202
    for workflow_id in (retry["id"], f"job-{job['id']}"):
        await until_gone(stage.api.temporal, workflow_id)
    assert (await stage.api.http.get(f"/jobs/{job['id']}")).status_code == 404
    assert (await stage.api.http.get(f"/retries/{retry['id']}")).status_code == 404
