"""The command line and its gateway: found or not, up or down, refusing or not."""

import json
import uuid
from pathlib import Path

from tests.integration.api_twin import ApiTwin
from tests.integration.cli.process import RunKe, document


def test_a_word_that_is_no_id_is_refused_before_anything_is_sent(ke: RunKe, api: ApiTwin) -> None:
    """Exit code 2, one line, no request."""
    done = ke("jobs", "get", "../readyz")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert not api.calls


def test_an_unknown_job_is_exit_code_4(ke: RunKe) -> None:
    """404 passes through."""
    assert ke("jobs", "get", str(uuid.uuid4())).returncode == 4


def test_a_dependency_that_is_down_is_exit_code_5(ke: RunKe, api: ApiTwin) -> None:
    """503 passes through."""
    api.broken = True
    done = ke("jobs", "list")
    assert done.returncode == 5
    assert done.stderr == "error: The database did not answer in time.\n"


def test_no_gateway_is_exit_code_5_and_says_how_to_start_one(ke: RunKe, tmp_path: Path) -> None:
    """Nothing listens, or nothing says where: one line each, no traceback."""
    refused = ke("jobs", "list", KE_API_URL="http://127.0.0.1:1")
    assert refused.returncode == 5
    assert "Traceback" not in refused.stderr
    unnamed = ke("jobs", "list", KE_API_URL="", KE_DATA_DIR=str(tmp_path / "none"))
    assert unnamed.returncode == 5
    assert "ke up" in unnamed.stderr
    assert ke("jobs", "list", "--api-url", "not a url").returncode == 2


def test_the_gateway_is_found_by_endpoints_json(ke: RunKe, api: ApiTwin, tmp_path: Path) -> None:
    """Without KE_API_URL the running embedded stack of KE_DATA_DIR is asked."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "endpoints.json").write_text(json.dumps({"api": api.url}))
    job = api.add_job("running")
    found = document(ke("jobs", "get", job, "--json", KE_API_URL="", KE_DATA_DIR=str(tmp_path / "data")))
    assert found["id"] == job


def test_wrong_usage_is_one_line_and_exit_code_2(ke: RunKe) -> None:
    """An unknown command or option, for people and for machines."""
    done = ke("jobs", "lst")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    problem = json.loads(ke("jobs", "list", "--json", "--limit", "many").stderr)
    assert problem["type"] == "urn:ke:problem:usage"


def test_help_names_the_exit_codes(ke: RunKe) -> None:
    """A script's author finds them without reading the source."""
    text = " ".join(ke("--help").stdout.split())
    for code in ("0 done", "1 the job failed", "2 wrong usage", "3 conflict", "4 not found", "5 the gateway", "130"):
        assert code in text
