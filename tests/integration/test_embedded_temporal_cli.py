"""Where the Temporal CLI comes from, with small programs in the place of the real ones."""

import asyncio
import shutil
from pathlib import Path

import pytest

from ke.contracts.errors import InvalidInput, Unavailable
from ke.runtime.embedded import temporal_cli
from ke.runtime.embedded.temporal_cli import find_temporal_cli

GO = """#!/bin/sh
echo "go: downloading example.com/module" >&2
[ "$GOWORK$CGO_ENABLED$GOFLAGS" = "off0-mod=readonly" ] || exit 3
[ -f go.mod ] || exit 4
while [ "$1" != "-o" ]; do shift; done
printf '#!/bin/sh\\necho built' > "$2"
chmod +x "$2"
echo built >> "$XDG_CACHE_HOME/builds"
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def path_folder(tmp_path, monkeypatch) -> Path:
    """The only folder on PATH, without Go or Temporal; the cache is empty, and nothing is downloaded."""

    async def no_download(_cache, _report):
        return None

    monkeypatch.setattr(temporal_cli, "_download", no_download)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chmod").symlink_to(str(shutil.which("chmod")))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("GOFLAGS", "-mod=vendor")
    return tmp_path / "bin"


def ignore(_: str) -> None:
    pass


async def test_setting_wins(path_folder, tmp_path):
    """The program that the setting names is taken, whatever else there is."""
    program(path_folder / "temporal", "#!/bin/sh\necho temporal version 1")
    own = program(tmp_path / "own", "#!/bin/sh")
    assert await find_temporal_cli(own, report=ignore) == own


async def test_setting_that_names_no_program_is_refused(path_folder, tmp_path):
    """A setting that names nothing, or no program, is an error and not passed over."""
    (tmp_path / "text").write_text("no program")
    for path in (tmp_path / "missing", tmp_path / "text", tmp_path):
        with pytest.raises(InvalidInput, match="KE_TEMPORAL_CLI"):
            await find_temporal_cli(path, report=ignore)


async def test_program_on_path_is_taken_when_it_is_temporals(path_folder, tmp_path):
    """`temporal` on PATH is taken; another program of that name is not."""
    cache = tmp_path / "cache" / "ke" / "temporal-cli"
    kept = program(cache / temporal_cli._pinned_version() / "temporal", "#!/bin/sh")
    on_path = program(path_folder / "temporal", "#!/bin/sh\necho 'temporal version 1.5.1 (Server 1.29.1)'")
    assert await find_temporal_cli(None, report=ignore) == on_path
    program(on_path, "#!/bin/sh\necho time is an illusion")
    assert await find_temporal_cli(None, report=ignore) == kept


async def test_two_that_need_it_build_once(path_folder, tmp_path):
    """Go builds the pinned version once for all who wait for it, undisturbed by the user's flags, and it is kept."""
    program(path_folder / "go", GO)
    found = await asyncio.gather(*(find_temporal_cli(None, report=ignore) for _ in range(2)))
    cache = tmp_path / "cache" / "ke" / "temporal-cli"
    assert set(found) == {cache / "v1.5.1" / "temporal"}
    assert (tmp_path / "cache" / "builds").read_text() == "built\n"
    assert not list(cache.glob(".build-*"))
    assert await find_temporal_cli(None, report=ignore) == found[0]


async def test_failed_build_says_what_go_said(path_folder):
    """A build that fails gives one message with Go's own words and what else can be done."""
    program(path_folder / "go", "#!/bin/sh\necho 'no space left on device' >&2\nexit 1")
    with pytest.raises(Unavailable, match=r"no space left on device; install it from .* KE_TEMPORAL_CLI"):
        await find_temporal_cli(None, report=ignore)


async def test_without_any_way_it_says_what_to_install(path_folder):
    """Where nothing works one message says what to install."""
    with pytest.raises(Unavailable, match=r"install it from .*, or install Go"):
        await find_temporal_cli(None, report=ignore)
