"""What `ke doctor` prints and exits with, for what a gateway answers."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ke.cli.main import run
from tests.integration.api_twin import ApiTwin, now, problem, serving

KINDS = ("points-without-rows", "rows-without-points", "pending-rows", "open-jobs", "cleanups", "retries")


class DoctorTwin(ApiTwin):
    """A gateway with a reconciliation that is at work when it is asked for, and over when it is read."""

    down: str = ""
    findings: dict[str, dict[str, Any]]
    end: str = "completed"

    def app(self) -> web.Application:
        app = super().app()
        app.add_routes(
            [
                web.get("/readyz", self._ready),
                web.post("/reconciliations", self._begin),
                web.get("/reconciliations/{id}", self._read),
            ]
        )
        return app

    async def _ready(self, _: web.Request) -> web.Response:
        if self.down:
            return problem(503, "not-ready", f"Down: {self.down}.", retry_after=1)
        return web.json_response({"status": "ready", "checks": {}})

    async def _begin(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.asked = {"repair": asked["repair"], "max_share": asked.get("max_share", 0.1)}
        return web.json_response(self._record("running", []), status=202)

    async def _read(self, _: web.Request) -> web.Response:
        plain = {"checked": 40, "found": 0, "repaired": 0, "examples": [], "note": ""}
        return web.json_response(
            self._record(self.end, [{"kind": kind} | plain | self.findings.get(kind, {}) for kind in KINDS])
        )

    def _record(self, status: str, findings: list[dict[str, Any]]) -> dict[str, Any]:
        error = "Stopped: 9 of 40 would be deleted." if status == "stopped" else None
        return {
            "id": "reconcile-1",
            "status": status,
            **self.asked,
            "findings": findings,
            "error": error,
            "started_at": now(),
            "completed_at": None if status == "running" else now(),
        }


@pytest.fixture
def gateway() -> Iterator[DoctorTwin]:
    twin = DoctorTwin()
    twin.findings = {}
    with serving(twin):
        yield twin


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


Doctor = Callable[..., Done]


@pytest.fixture
def doctor(gateway: DoctorTwin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Doctor:
    """Runs the command in this process, as the console script does."""
    monkeypatch.setenv("KE_API_URL", gateway.url)
    monkeypatch.setenv("NO_COLOR", "1")

    def run_doctor(*options: str) -> Done:
        code = run(["doctor", *options])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return run_doctor


def test_healthy_system_says_so(gateway: DoctorTwin, doctor: Doctor) -> None:
    """Each kind is told with what was checked; the exit code is 0, and nothing was asked to be repaired."""
    done = doctor()
    assert done.returncode == 0, done.stderr
    assert all(kind in done.stdout for kind in KINDS)
    assert done.stdout.count(" ok") == len(KINDS)
    assert "All consistent." in done.stdout
    assert gateway.asked == {"repair": False, "max_share": 0.1}


def test_what_is_wrong_is_named_and_fails(gateway: DoctorTwin, doctor: Doctor) -> None:
    """A finding that is not repaired: exit code 1, its numbers, ids and note, and how to go on."""
    wrong = {"found": 3, "examples": ["7a", "7b"], "note": "They are \x1b[31mlost."}
    gateway.findings = {"rows-without-points": wrong}
    done = doctor()
    assert done.returncode == 1
    assert "rows-without-points: 7a, 7b. They are" in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert "ke doctor --repair" in done.stdout


def test_repair_passes_the_share_on(gateway: DoctorTwin, doctor: Doctor) -> None:
    """What is all repaired is exit code 0; as JSON the record is printed as it came."""
    gateway.findings = {"points-without-rows": {"found": 3, "repaired": 3}}
    done = doctor("--repair", "--max-share", "1", "--json")
    assert done.returncode == 0, done.stderr
    assert gateway.asked == {"repair": True, "max_share": 1.0}
    assert json.loads(done.stdout)["findings"][0]["repaired"] == 3


def test_stop_fails_and_says_why(gateway: DoctorTwin, doctor: Doctor) -> None:
    """A reconciliation that stopped is exit code 1, with the gateway's reason."""
    gateway.findings, gateway.end = {"points-without-rows": {"found": 9}}, "stopped"
    done = doctor("--repair")
    assert done.returncode == 1
    assert "9 of 40 would be deleted" in done.stdout


def test_dependency_that_is_down_is_said_in_one_line(gateway: DoctorTwin, doctor: Doctor) -> None:
    """Without the database there is nothing to compare: one line, exit code 5, and no reconciliation."""
    gateway.down = "database"
    done = doctor()
    assert (done.returncode, done.stderr, done.stdout) == (5, "error: Down: database.\n", "")
    assert not any(call.path == "/reconciliations" for call in gateway.calls)


def test_doctor_says_whether_there_is_a_browser(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A machine without one is healthy; it is told what fails on it, and machines are told what there is."""
    monkeypatch.setenv("KE_CHROMIUM", str(tmp_path / "none"))
    done = doctor("--json")
    assert (done.returncode, json.loads(done.stdout)["browser"]) == (0, None)
    assert "none, which KE_CHROMIUM names, cannot be run. Until then jobs with --browser fail" in done.stderr
    monkeypatch.delenv("KE_CHROMIUM")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "none of chromium, chromium-browser" in doctor().stderr
    browser = tmp_path / "chromium"
    browser.touch(mode=0o755)
    found = doctor("--json")
    assert (json.loads(found.stdout)["browser"], found.stderr) == (str(browser), "")
