"""What the settings accept, and how they refuse."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ke.runtime.settings import Settings, describe_invalid_settings


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in os.environ:
        if name.startswith("KE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KE_TASK_QUEUES", ""),
        ("KE_TASK_QUEUES", " , "),
        ("KE_LOG_LEVEL", "LOUD"),
        ("KE_TEMPORAL_ADDRESS", "temporal"),
        ("KE_TEMPORAL_ADDRESS", "http://temporal:7233"),
        ("KE_TEMPORAL_ADDRESS", "temporal:0"),
        ("KE_TEMPORAL_ADDRESS", "temporal:70000"),
        ("KE_TEMPORAL_ADDRESS", "::1:7233"),
        ("KE_DATABASE_URL", "mysql://u:secret@db/ke"),
        ("KE_DATABASE_URL", "postgresql://u:secret@db:port/ke"),
        ("KE_DATABASE_URL", "secret"),
        ("KE_QDRANT_URL", "qdrant:6333"),
        ("KE_QDRANT_URL", "http://qdrant:port"),
        ("KE_FETCH_ALLOW", "localhost:0"),
        ("KE_FETCH_ALLOW", "localhost:65536"),
        ("KE_FETCH_ALLOW", "localhost:²"),
        ("KE_FETCH_ALLOW", "http://localhost:80"),
        ("KE_FETCH_ALLOW", "localhost/x:80"),
        ("KE_USER_AGENT", "ke\r\nX: y"),
        ("KE_USER_AGENT", "kü/1"),
        ("KE_USER_AGENT", " "),
        ("KE_LLM_URL", "127.0.0.1:11434"),
        ("KE_LLM_URL", "ftp://host/v1"),
        ("KE_LLM_URL", "http://me:secret@host/v1"),
        ("KE_LLM_URL", "http://host/v1?key=secret"),
        ("KE_LLM_API_KEY", "secret\r\nX: y"),
        ("KE_LLM_API_KEY", "secrét"),
    ],
)
def test_unusable_value_is_refused_by_name(monkeypatch, name, value):
    """A value that can never work is refused in one line that names the setting and tells no password."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    line = describe_invalid_settings(caught.value)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KE_LOG_LEVEL", "debug"),
        ("KE_TEMPORAL_ADDRESS", "[::1]:7233"),
        ("KE_TEMPORAL_ADDRESS", "name.space.tmprl.cloud:7233"),
        ("KE_DATABASE_URL", "postgresql://u:p%23#w@db/ke"),
        ("KE_DATABASE_URL", "postgres://u:p@db:5432/ke?ssl=require"),
        ("KE_QDRANT_URL", "https://q.example.com"),
        ("KE_FETCH_ALLOW", "localhost:80, [::1]:8000,127.0.0.1:65535"),
        ("KE_USER_AGENT", "Mine/2.0 (+https://example.com/bot; a@b.c)"),
        ("KE_LLM_URL", "http://127.0.0.1:11434"),
        ("KE_LLM_URL", "https://models.example.com/openai/v1/"),
    ],
)
def test_usable_value_is_taken(monkeypatch, name, value):
    """Each form that the documents promise is taken."""
    monkeypatch.setenv(name, value)
    assert Settings()


@pytest.mark.parametrize(
    "name", ["temporal_address", "database_url", "qdrant_url", "llm_url", "llm_api_key", "llm_model"]
)
def test_empty_address_is_unset(monkeypatch, name):
    """An empty variable, as compose files make them, is one that is not set."""
    monkeypatch.setenv(f"KE_{name.upper()}", "")
    assert getattr(Settings(), name) is None


def test_empty_data_folder_is_the_default(monkeypatch):
    """An empty KE_DATA_DIR is never the working folder."""
    monkeypatch.setenv("KE_DATA_DIR", "")
    assert Settings().data_dir == Path(".ke")
