"""docker-compose.yml and the Dockerfile, held against the code; nothing here needs a Docker engine."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ke.runtime.settings import Settings

ROOT = Path(__file__).parents[2]
OWN_SERVICES = ("init", "gateway", "workflows", "worker")
SETTING = re.compile(r"\bKE_[A-Z_]+\b")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in os.environ:
        if name.startswith("KE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def resolved(value: object) -> str:
    """A value with its ${NAME:-default} and ${NAME:?message} filled in."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))
    return re.sub(r"\$\{\w+:\?[^}]*\}", "secret", text)


def test_every_ke_variable_is_a_setting(compose):
    """Each KE_ variable that compose file and Dockerfile name is one that the settings know."""
    named = set()
    for name in ("docker-compose.yml", "Dockerfile"):
        named |= set(SETTING.findall((ROOT / name).read_text()))
    assert named
    assert {name.removeprefix("KE_").lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("service", OWN_SERVICES)
def test_own_services_get_settings_that_validate(compose, service):
    """What each of our services gets makes valid settings that name Temporal, Postgres and Qdrant."""
    given = {
        name.removeprefix("KE_").lower(): resolved(value)
        for name, value in compose["services"][service]["environment"].items()
    }
    settings = Settings.model_validate(given)
    assert settings.temporal_address == "temporal:7233"
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://ke:secret@postgres:5432/ke"
    assert settings.qdrant_url == "http://qdrant:6333"


def test_images_are_pinned(compose):
    """Each image that is not built here has an exact version."""
    for name, service in compose["services"].items():
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"]), name


def test_only_loopback_is_published(compose):
    """No port is published beyond the machine."""
    for name, service in compose["services"].items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_services_wait_for_healthy_ones(compose):
    """What a service waits for has a health check, or is the one that ends; stores keep their data in a volume."""
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other == "init" else "service_healthy"
            assert how["condition"] == expected, name
            assert other == "init" or "healthcheck" in services[other]
    mounted = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert mounted == set(compose["volumes"])


def test_a_stopped_worker_has_time_to_drain(compose):
    """The time until a worker is killed is longer than the one it gives its activities."""
    worker = compose["services"]["worker"]
    assert float(worker["stop_grace_period"].removesuffix("s")) > float(worker["environment"]["KE_GRACEFUL_SHUTDOWN_S"])


def test_image_copies_what_the_package_contains():
    """The Dockerfile copies each part that the wheel is made of, and .dockerignore lets it through."""
    copied = set(re.findall(r"^COPY (\S+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == {"ke", "workflows", "activities", "api", "worker.py"}
    assert copied <= let_through
