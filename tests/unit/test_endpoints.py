"""Finding the running stack."""

import os
from pathlib import Path

import pytest

from ke.contracts.errors import InvalidInput, Unavailable
from ke.runtime.endpoints import Connections, Endpoints, Pids, read_endpoints, resolve, resolve_temporal
from ke.runtime.settings import Settings

RUNNING = Endpoints(
    api="http://127.0.0.1:1",
    temporal="127.0.0.1:2",
    temporal_ui="http://127.0.0.1:3",
    database="postgresql://ke:pw@127.0.0.1:4/ke",
    vectors="/tmp/vectors.sock",
    pids=Pids(ke=1, temporal=2, postgres=3, vectors=4, gateway=5, workers=(6, 7)),
)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    for name in os.environ:
        if name.startswith("KE_"):
            monkeypatch.delenv(name)


def settings(folder: Path, **values: object) -> Settings:
    return Settings.model_validate({"data_dir": folder, **values})


def test_endpoints_come_back_as_written(tmp_path):
    """What is written is read back equal, and the password is not in its repr."""
    RUNNING.write(tmp_path / "endpoints.json")
    assert read_endpoints(settings(tmp_path)) == RUNNING
    assert "pw" not in repr(RUNNING)


def test_running_stack_is_joined_by_its_folder(tmp_path):
    """With the data folder alone everything is found in endpoints.json."""
    RUNNING.write(tmp_path / "endpoints.json")
    found = resolve(settings(tmp_path))
    assert found == Connections("127.0.0.1:2", "default", RUNNING.database, None, Path("/tmp/vectors.sock"))
    assert "pw" not in repr(found)


def test_settings_go_before_the_running_stack(tmp_path):
    """Each setting that is set wins over what endpoints.json says."""
    RUNNING.write(tmp_path / "endpoints.json")
    found = resolve(settings(tmp_path, temporal_address="temporal:7233", qdrant_url="http://qdrant:6333"))
    assert (found.temporal_address, found.database_url) == ("temporal:7233", RUNNING.database)
    assert (found.qdrant_url, found.vectors_socket) == ("http://qdrant:6333", None)


def test_full_settings_need_no_stack(tmp_path):
    """Where all is set no file is looked for."""
    found = resolve(
        settings(tmp_path, temporal_address="t:1", database_url="postgresql://db/ke", vectors_socket="/tmp/v.sock")
    )
    assert found == Connections("t:1", "default", "postgresql://db/ke", None, Path("/tmp/v.sock"))


def test_missing_stack_is_named(tmp_path):
    """Without a stack the message names the settings that are missing and the folder."""
    with pytest.raises(Unavailable, match=f"KE_DATABASE_URL, KE_QDRANT_URL not set, .*{tmp_path}"):
        resolve(settings(tmp_path, temporal_address="t:1"))
    with pytest.raises(Unavailable, match="No stack is running on"):
        resolve_temporal(settings(tmp_path))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"api": "x", "pids": {}}'])
def test_damaged_file_is_refused(tmp_path, text):
    """A file that is not of the right shape is named, not guessed at."""
    (tmp_path / "endpoints.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"endpoints\.json cannot be read"):
        read_endpoints(settings(tmp_path))
