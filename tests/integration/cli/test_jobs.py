"""The commands that list jobs, steer them, and clean up after them."""

import json

from tests.integration.api_twin import COUNTS, ZEROS, ApiTwin, now
from tests.integration.cli.process import RunKe, document


def test_list_shows_jobs_and_filters_them(ke: RunKe, api: ApiTwin) -> None:
    """One line a job, whole ids also in a pipe; filters go to the gateway."""
    first, second = api.add_job("running"), api.add_job("completed")
    done = ke("jobs", "list")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["ID", "KIND", "STATUS"]
    assert {line.split()[0] for line in lines[1:]} == {first, second}
    assert lines[1].split()[3:7] == ["present", "12", "11", "40"]
    page = document(ke("jobs", "list", "--status", "completed", "--kind", "crawl", "--json"))
    assert [job["id"] for job in page["data"]] == [second]


def test_cancel_with_wait_returns_when_the_job_has_ended(ke: RunKe, api: ApiTwin) -> None:
    """Reason and cleanup reach the gateway; the answer is the cancelled job with its receipt."""
    job = api.add_job("running")
    ended = document(ke("jobs", "cancel", job, "--reason", "enough", "--cleanup", "--wait", "--json"))
    assert ended["status"] == "cancelled"
    assert ended["artifacts"] == "cleaned"
    assert ended["result"]["cancellation"]["reason"] == "enough"
    sent = next(call.body for call in api.calls if call.method == "POST")
    assert sent == {"cleanup": True, "reason": "enough"}


def test_a_cancel_that_came_too_late_is_exit_code_1(ke: RunKe, api: ApiTwin) -> None:
    """When the job completed first, what was asked for did not come true."""
    job = api.add_job("running")
    api.finish_at_cancel = {"status": "completed", "completed_at": now()}
    done = ke("jobs", "cancel", job, "--wait")
    assert done.returncode == 1
    assert "completed before the cancel took effect" in done.stderr


def test_cancelling_a_retry_waits_for_its_end_and_tells_its_numbers(ke: RunKe, api: ApiTwin) -> None:
    """The job stays what it is; a retry that ended by itself first is exit code 1; without --wait its id is told."""
    job = api.add_job("completed_with_errors", retry_id="retry-1")
    api.retry = {"id": "retry-1", "job_id": job, "letters": 5, "succeeded": 3, "failed": 1, "error": None}
    api.retry_end = {"status": "cancelled"}
    ended = document(ke("jobs", "cancel", job, "--wait", "--json"))
    assert (ended["status"], ended["retry_id"], ended["retry"]) == ("completed_with_errors", None, api.retry)
    api.jobs[job]["retry_id"] = "retry-1"
    told = ke("jobs", "cancel", job, "--wait")
    assert (told.returncode, told.stderr) == (0, "")
    assert {"cancelled", "succeeded", "3"} <= set(told.stdout.split())
    api.jobs[job]["retry_id"] = "retry-1"
    started = ke("jobs", "cancel", job)
    assert started.returncode == 0
    assert "ke retries get retry-1" in started.stderr
    api.jobs[job]["retry_id"], api.retry_end = "retry-1", {"status": "completed"}
    late = ke("jobs", "cancel", job, "--wait")
    assert (late.returncode, late.stderr) == (1, "error: retry-1 completed before the cancel took effect\n")
    api.jobs[job]["retry_id"] = "retry-1"
    assert ke("jobs", "cancel", job, "--cleanup", "--wait").returncode == 0, "all that it made is gone all the same"


def test_a_refused_cancel_is_exit_code_3_with_the_gateways_own_words(ke: RunKe, api: ApiTwin) -> None:
    """409 passes through: one line for people, the problem document for machines."""
    job = api.add_job("completed")
    done = ke("jobs", "cancel", job)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: The job is completed: it cannot be cancelled.\n"
    for_machines = ke("jobs", "cancel", job, "--json")
    assert (for_machines.returncode, for_machines.stdout) == (3, "")
    problem = json.loads(for_machines.stderr)
    assert problem["type"] == "urn:ke:problem:not-cancellable"
    assert problem["status"] == 409
    assert problem["current_status"] == "completed"
    assert problem["allowed_actions"] == ["cleanup", "delete"]


def test_pause_and_resume_act_on_the_job(ke: RunKe, api: ApiTwin) -> None:
    """Each gives the job as it is then; a wrong state is exit code 3."""
    job = api.add_job("running")
    assert document(ke("jobs", "pause", job, "--json"))["status"] == "paused"
    assert ke("jobs", "pause", job).returncode == 3
    assert document(ke("jobs", "resume", f"job-{job}", "--json"))["status"] == "running"


def test_list_shows_no_numbers_of_what_is_deleted(ke: RunKe, api: ApiTwin) -> None:
    """A job that was cleaned up has nothing stored, whatever it has counted; its document keeps the numbers."""
    job = api.add_job("completed", artifacts="cleaned")
    assert ke("jobs", "list").stdout.splitlines()[1].split()[3:7] == ["cleaned", "-", "-", "-"]
    assert document(ke("jobs", "get", job, "--json"))["result"]["sources"] == 11


def test_cleanup_dry_run_counts_and_deletes_nothing(ke: RunKe, api: ApiTwin) -> None:
    """The plan is shown and no receipt exists afterwards."""
    job = api.add_job("completed")
    plan = document(ke("jobs", "cleanup", job, "--dry-run", "--json"))
    assert plan["planned"] == COUNTS
    assert not api.receipts


def test_cleanup_with_wait_shows_the_receipt(ke: RunKe, api: ApiTwin) -> None:
    """What was deleted and that nothing remains, store by store; the receipt can be had again."""
    job = api.add_job("completed")
    done = ke("jobs", "cleanup", job, "--wait")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line.split()[-3:] for line in done.stdout.splitlines() if line.split()[-1:] == ["0"]}
    assert rows["vectors"] == ["40", "40", "0"]
    assert rows["entities"] == ["90", "90", "0"]
    assert {"started", "completed", "took"} <= {line.split()[0] for line in done.stdout.splitlines() if line}
    assert document(ke("receipts", "get", job, "--json"))["remaining"] == ZEROS
    assert document(ke("jobs", "receipt", f"cleanup-{job}", "--json"))["job_id"] == job


def test_a_failed_cleanup_is_exit_code_1(ke: RunKe, api: ApiTwin) -> None:
    """Something remains: the receipt is printed, and the exit code says that it is not done."""
    job = api.add_job("completed")
    failed = {"status": "failed", "error": "3 vectors remain", "remaining": {**ZEROS, "vectors": 3}}
    api.receipts[f"cleanup-{job}"] = {
        "id": f"cleanup-{job}",
        "job_id": job,
        "planned": COUNTS,
        "deleted": ZEROS,
    } | failed
    done = ke("jobs", "cleanup", job, "--wait")
    assert done.returncode == 1
    assert "3 vectors remain" in done.stderr


def test_delete_asks_what_becomes_of_the_artifacts(ke: RunKe, api: ApiTwin) -> None:
    """Without a choice the gateway refuses (3); with one the job is gone, and then unknown (4)."""
    job = api.add_job("completed")
    refused = ke("jobs", "delete", job)
    assert refused.returncode == 3
    assert "delete with --cleanup, or keep them with --keep-artifacts" in refused.stderr
    assert document(ke("jobs", "delete", job, "--keep-artifacts", "--json")) == {"id": job, "deleted": True}
    assert ke("jobs", "get", job).returncode == 4


def test_delete_with_cleanup_waits_for_the_receipt(ke: RunKe, api: ApiTwin) -> None:
    """`--cleanup --wait` ends with the receipt of what was deleted."""
    job = api.add_job("cancelled")
    assert document(ke("jobs", "delete", job, "--cleanup", "--wait", "--json"))["deleted"] == COUNTS
