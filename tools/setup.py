"""Makes `.venv` what `requirements.lock` says: run by `make` with any Python from 3.11 on, standard library alone.

It does nothing when the environment is up to date. Two at once in one clone wait for each other, and one that was
interrupted is done again.
"""

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "ke-setup"
INPUTS = ("requirements.lock", "pyproject.toml", "tools/setup.py")
MIN_VERSION = (3, 11)
PIP_OPTIONS = ("--quiet", "--disable-pip-version-check", "--no-input")


def main() -> int:
    """Sets the environment up if it is not; returns the exit status."""
    if sys.version_info < MIN_VERSION:
        return fail(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
    with (ROOT / ".venv.lock").open("a") as lock:
        wait_for(lock.fileno())
        wanted = fingerprint()
        if STAMP.exists() and STAMP.read_text() == wanted and (VENV / "bin" / "python").exists():
            return 0
        started = time.monotonic()
        try:
            set_up()
        except subprocess.CalledProcessError as error:
            return fail(f"{' '.join(map(str, error.cmd[1:4]))} ended with exit status {error.returncode}; see above")
        STAMP.write_text(wanted)
        say(f"ready after {time.monotonic() - started:.0f} s: .venv")
    return 0


def wait_for(handle: int) -> None:
    """Takes the lock that keeps two set-ups of one clone apart; the system lets go of it when this process ends."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up of this clone")
        fcntl.flock(handle, fcntl.LOCK_EX)


def fingerprint() -> str:
    """What the environment is made from."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in INPUTS:
        digest.update(hashlib.sha256((ROOT / name).read_bytes()).digest())
    return digest.hexdigest()


def set_up() -> None:
    """Makes the environment and installs what is locked, and this project in place."""
    python = VENV / "bin" / "python"
    STAMP.unlink(missing_ok=True)
    if not usable(python):
        say(f"making .venv with Python {sys.version.split()[0]}")
        shutil.rmtree(VENV, ignore_errors=True)
        venv.create(VENV, with_pip=True)
    say("installing the locked dependencies (some 800 MB)")
    # Everything is in the lock: nothing is resolved, and what has no hash there is refused.
    locked = ("--require-hashes", "--no-deps", "-r", "requirements.lock")
    if not install_with_uv(python, *locked):
        run(python, "-m", "pip", "install", *PIP_OPTIONS, *locked)
    run(python, "-m", "pip", "install", *PIP_OPTIONS, "--no-deps", "--no-build-isolation", "--editable", ".")


def install_with_uv(python: Path, *arguments: str) -> bool:
    """Installs with the uv that is itself locked; False where it cannot, say behind a mirror that only pip knows."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("uv=="))
    end = next(number for number, line in enumerate(lines[start:], start) if not line.endswith("\\"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as only_uv:
        only_uv.write("\n".join(lines[start : end + 1]) + "\n")
        only_uv.flush()
        run(python, "-m", "pip", "install", *PIP_OPTIONS, "--require-hashes", "--no-deps", "-r", only_uv.name)
    # On a terminal it shows its progress; elsewhere it would list each package.
    quiet = () if sys.stderr.isatty() else ("--quiet",)
    options = ("--python", str(python), "--compile-bytecode", "--no-config", *quiet)
    try:
        run(python, "-m", "uv", "pip", "install", *options, *arguments)
    except subprocess.CalledProcessError:
        say("uv could not; once more with pip")
        return False
    return True


def usable(python: Path) -> bool:
    """Whether there is an environment of a Python that still works and is new enough."""
    check = f"import pip, sys; sys.exit(sys.version_info < {MIN_VERSION})"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run(*command: str | Path) -> None:
    """Runs a program, its own progress shown.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def say(line: str) -> None:
    """Shows progress."""
    sys.stderr.write(f"setup: {line}\n")
    sys.stderr.flush()


def fail(reason: str) -> int:
    """Says why it did not work."""
    sys.stderr.write(f"setup: error: {reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
