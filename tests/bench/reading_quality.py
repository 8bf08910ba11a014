"""How much of each labelled page the reader gets, and how much else; `python -m tests.bench.reading_quality`.

F1 is that of the public benchmarks of article extraction: over the multisets of tokens of what was read and of the gold
text. What is kept of a page's structure is measured apart: headings, code blocks, list items and table rows that are
there, each in its Markdown notation.
"""

import gzip
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trafilatura

from ke.contracts.jobs import Reading
from ke.web.parse import parse_page

FOLDER: Final = Path(__file__).parents[1] / "data" / "reading"
KINDS: Final = ("headings", "code", "items", "rows")
ROUNDS: Final = 3

_LINK: Final = re.compile(r"\[((?:[^\[\]\\]|\\.)*)\]\([^()\s]*\)")
_TOKEN: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")
_EMPHASIS: Final = re.compile(r"[*`]+")
_NUMBER: Final = re.compile(r"^[> ]*\d+\. ", re.MULTILINE)
_FENCED: Final = re.compile(r"^[> ]*```[^\n]*\n(.*?)^[> ]*```", re.MULTILINE | re.DOTALL)
_STARTS: Final = {
    "headings": re.compile(r"^[> ]*#{1,6} (.*)", re.MULTILINE),
    "items": re.compile(r"^[> ]*(?:[-*+]|\d+\.) (.*(?:\n(?!\s*\n|[> ]*(?:[-*+]|\d+\.) ).*)*)", re.MULTILINE),
    "rows": re.compile(r"^[> ]*\|(.*)\|", re.MULTILINE),
}
_PREFIX: Final = 5
"""Tokens by which an item is recognised."""


@dataclass(frozen=True, slots=True)
class Gold:
    """A page and what a perfect reader would make of it."""

    name: str
    body: bytes
    text: str
    structure: dict[str, list[list[str]]]
    """Of each kind the parts' tokens."""

    @property
    def layout(self) -> str:
        """The site's layout."""
        return self.name.split("-", 1)[0]


@dataclass(frozen=True, slots=True)
class Score:
    """How one page was read."""

    precision: float
    recall: float
    found: dict[str, tuple[int, int]]
    """Of each kind how many parts were found, of how many."""

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


Reader = Callable[[bytes], str]


def load() -> list[Gold]:
    """The labelled pages, by name."""
    pages = []
    for file in sorted(FOLDER.glob("*.json.gz")):
        name = file.name.removesuffix(".json.gz")
        gold = json.loads(gzip.decompress(file.read_bytes()))
        structure = {kind: [tokens(_flat(part)) for part in gold[kind]] for kind in KINDS}
        body = gzip.decompress((FOLDER / f"{name}.html.gz").read_bytes())
        pages.append(Gold(name, body, gold["text"], {k: [p for p in parts if p] for k, parts in structure.items()}))
    return pages


def tokens(text: str) -> list[str]:
    """Words in lower case, without Markdown's marks and the targets of links; each ideograph and kana alone."""
    return _TOKEN.findall(_EMPHASIS.sub("", _LINK.sub(r"\1", text)).lower())


def score(text: str, gold: Gold) -> Score:
    """Compares what was read of a page with its gold."""
    read, wanted = Counter(tokens(_NUMBER.sub("", text))), Counter(tokens(gold.text))
    both = (read & wanted).total()
    found = {kind: _found(kind, text, parts) for kind, parts in gold.structure.items()}
    return Score(both / max(read.total(), 1), both / max(wanted.total(), 1), found)


def ours(reading: Reading) -> Reader:
    """The product's reader."""
    return lambda body: parse_page(body, "text/html", None, "http://site.test/dir/page.html", reading).text


def trafilatura_fast(body: bytes) -> str:
    """The peer, as its documentation recommends for speed."""
    return trafilatura.extract(body, fast=True, include_comments=False) or ""


def trafilatura_markdown(body: bytes) -> str:
    """The peer with structure."""
    return (
        trafilatura.extract(body, fast=True, include_comments=False, output_format="markdown", include_formatting=True)
        or ""
    )


def mean_f1(scores: Sequence[Score]) -> float:
    """The mean over pages."""
    return statistics.fmean(score.f1 for score in scores)


def structure_recall(scores: Sequence[Score], kind: str) -> float:
    """The share of all parts of a kind that were found."""
    pairs = [score.found[kind] for score in scores]
    return sum(found for found, _ in pairs) / max(sum(of for _, of in pairs), 1)


def _flat(part: str | list[str]) -> str:
    return part if isinstance(part, str) else " ".join(part)


def _found(kind: str, text: str, parts: list[list[str]]) -> tuple[int, int]:
    pattern = _FENCED if kind == "code" else _STARTS[kind]
    limit = _PREFIX if kind == "items" else None
    there = Counter(tuple(tokens(match[1])[:limit]) for match in pattern.finditer(text))
    wanted = Counter(tuple(part[:limit]) for part in parts)
    return (there & wanted).total(), wanted.total()


def mean_ms(reader: Reader, pages: Sequence[Gold]) -> float:
    """The mean over pages of the processor time, of each the best of three."""
    best = []
    for page in pages:
        times = []
        for _ in range(ROUNDS):
            began = time.process_time()
            reader(page.body)
            times.append(time.process_time() - began)
        best.append(min(times))
    return 1000 * statistics.fmean(best)


def main() -> None:
    """Prints one line a reader, and the F1 of each layout."""
    pages = load()
    readers: dict[str, Reader] = {
        "thorough": ours(Reading.THOROUGH),
        "fast": ours(Reading.FAST),
        "trafilatura": trafilatura_fast,
        "trafilatura md": trafilatura_markdown,
    }
    scores = {name: [score(reader(page.body), page) for page in pages] for name, reader in readers.items()}
    layouts = sorted({page.layout for page in pages})
    print(f"{len(pages)} pages, {len(layouts)} layouts")
    print("| reader | F1 | precision | recall | headings | code | items | rows | ms |\n|---|" + "---|" * 8)
    for name, found in scores.items():
        means = [mean_f1(found), *(statistics.fmean(getattr(s, k) for s in found) for k in ("precision", "recall"))]
        cells = [f"{value:.3f}" for value in (*means, *(structure_recall(found, kind) for kind in KINDS))]
        print(f"| {name} | {' | '.join(cells)} | {mean_ms(readers[name], pages):.1f} |")
    print(f"\n| F1 | {' | '.join(readers)} |\n|---|" + "---|" * len(readers))
    for layout in layouts:
        chosen = [n for n, page in enumerate(pages) if page.layout == layout]
        means = (f"{mean_f1([scores[name][n] for n in chosen]):.3f}" for name in readers)
        print(f"| {layout} | {' | '.join(means)} |")


if __name__ == "__main__":
    main()
