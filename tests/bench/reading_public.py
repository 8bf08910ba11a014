"""The reader on two public sets of pages of the news; `python -m tests.bench.reading_public`.

`trafilatura`'s own set names, for each of 983 pages, some strings that belong to the content and some that do not, and
counts these; that of Mozilla's Readability has 118 pages with the article as HTML. Both are taken from the Go modules
that are tested with them, by `go mod download`, and nothing of them is part of this project.
"""

import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from selectolax.lexbor import LexborHTMLParser

from ke.contracts.jobs import Reading
from ke.extraction.links import without_targets
from tests.bench.reading_quality import ours, tokens, trafilatura_fast

TRAFILATURA: Final = "github.com/markusmobius/go-trafilatura@v1.12.2"
READABILITY: Final = "github.com/go-shiori/go-readability@v0.0.0-20251205110129-5db1dc9836f0"
DOWNLOAD_S: Final = 600

_ENTRY: Final = re.compile(r'^\t(?:"(?:[^"\\]|\\.)*"|`[^`]*`): \{\n(.*?)^\t\},', re.MULTILINE | re.DOTALL)
_FIELD: Final = r"^\t\t{}:\s*(.*?),\n(?=\t\t[A-Z]|\Z)"
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"|`[^`]*`')
_MARKS: Final = re.compile(r"[*`\\]+")

READERS: Final[dict[str, Callable[[bytes], str]]] = {
    "thorough": ours(Reading.THOROUGH),
    "fast": ours(Reading.FAST),
    "trafilatura": trafilatura_fast,
}


@dataclass(frozen=True, slots=True)
class Article:
    """A page with all of its content."""

    page: Path
    text: str


@dataclass(frozen=True, slots=True)
class Excerpts:
    """A page with some of its content, and some of what is none."""

    page: Path
    content: list[str]
    other: list[str]


def readability_set() -> list[Article]:
    """The pages of Mozilla's Readability."""
    folders = sorted((_module(READABILITY) / "test-pages").glob("*/expected.html"))
    return [Article(gold.with_name("source.html"), _words(gold.read_bytes())) for gold in folders]


def trafilatura_set() -> list[Excerpts]:
    """The pages of trafilatura's evaluation."""
    root = _module(TRAFILATURA)
    files = {file.name: file for file in (root / "test-files").rglob("*.html")}
    source = (root / "scripts" / "comparison" / "data.go").read_text(encoding="utf-8")
    entries = ([_strings(body, name) for name in ("File", "With", "Without")] for body in _ENTRY.findall(source))
    return [Excerpts(files[name[0]], content, other) for name, content, other in entries if name and name[0] in files]


def _module(name: str) -> Path:
    """The folder of a Go module of this version, downloaded where it is not there yet."""
    go = shutil.which("go")
    if go is None:
        sys.exit("these sets come as Go modules: `go` is needed")
    command = [go, "mod", "download", "-json", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_S, check=False)
    if done.returncode:
        sys.exit(f"{name} cannot be had: {done.stdout.strip()[-500:]}{done.stderr.strip()[-500:]}")
    return Path(json.loads(done.stdout)["Dir"])


def _words(html: bytes) -> str:
    tree = LexborHTMLParser(html)
    for node in tree.css("script, style"):
        node.decompose()
    return tree.body.text(deep=True, separator=" ") if tree.body is not None else ""


def _strings(entry: str, field: str) -> list[str]:
    """The strings of one field of a Go literal."""
    found = re.search(_FIELD.format(field), entry, re.MULTILINE | re.DOTALL)
    return [_unquoted(literal) for literal in _STRING.findall(found[1])] if found else []


def _unquoted(literal: str) -> str:
    if literal.startswith("`"):
        return literal[1:-1]
    try:
        return str(json.loads(literal))
    except ValueError:
        return literal[1:-1]


def _plain(text: str) -> str:
    return " ".join(_MARKS.sub("", without_targets(text)).split())


def _read(reader: str, page: Path) -> tuple[str, float]:
    """The text, and the milliseconds of a processor that it took."""
    body = page.read_bytes()
    began = time.process_time()
    text = READERS[reader](body)
    return text, 1000 * (time.process_time() - began)


def score_article(reader: str, gold: Article) -> tuple[float, float, float, float]:
    """Precision, recall and F1 of a page by its tokens, and the milliseconds."""
    text, ms = _read(reader, gold.page)
    read, wanted = Counter(tokens(_plain(text))), Counter(tokens(gold.text))
    both = (read & wanted).total()
    precision, recall = both / max(read.total(), 1), both / max(wanted.total(), 1)
    return precision, recall, _f1(precision, recall), ms


def score_excerpts(reader: str, gold: Excerpts) -> tuple[int, int, int, float]:
    """Strings found that are content, missed ones, found ones that are none, and the milliseconds."""
    text, ms = _read(reader, gold.page)
    text = _plain(text)
    right = sum(_plain(part) in text for part in gold.content)
    wrong = sum(_plain(part) in text for part in gold.other)
    return right, len(gold.content) - right, wrong, ms


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _row(*cells: str | float) -> str:
    return f"| {' | '.join(cell if isinstance(cell, str) else f'{cell:.3f}' for cell in cells)} |"


def _articles(reader: str, scores: Iterable[tuple[float, float, float, float]]) -> str:
    precision, recall, f1, ms = (statistics.fmean(column) for column in zip(*scores, strict=True))
    return _row("Readability", reader, f1, precision, recall, f"{ms:.1f}")


def _excerpts(reader: str, scores: Iterable[tuple[int, int, int, float]]) -> str:
    right, missed, wrong, ms = zip(*scores, strict=True)
    precision, recall = sum(right) / (sum(right) + sum(wrong)), sum(right) / (sum(right) + sum(missed))
    return _row("trafilatura", reader, _f1(precision, recall), precision, recall, f"{statistics.fmean(ms):.1f}")


def main() -> None:
    """Prints one line a set and reader."""
    articles, excerpts = readability_set(), trafilatura_set()
    print(f"{len(articles)} pages of Readability, {len(excerpts)} of trafilatura")
    print("| set | reader | F1 | precision | recall | ms |\n|---|---|---|---|---|---|")
    with ProcessPoolExecutor(2) as pool:
        for reader in READERS:
            print(_articles(reader, pool.map(partial(score_article, reader), articles, chunksize=8)), flush=True)
        for reader in READERS:
            print(_excerpts(reader, pool.map(partial(score_excerpts, reader), excerpts, chunksize=16)), flush=True)


if __name__ == "__main__":
    main()
