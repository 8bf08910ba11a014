"""Chunking: cover, limits, offsets, headings, and texts made to be slow."""

import random
import time

import pytest

from ke.contracts.errors import InvalidInput
from ke.extraction.chunk import Chunk, Outline, chunk_piece, chunk_text, count_tokens, cut

GUIDE = """Before all headings.

# Guide

Welcome to the guide.

## Install

Run the *installer*.

```sh
# this is a comment, not a heading
make install
```

After the code.

## [Use](https://example.org/) `it` ##

Use it daily.

# Reference

See below.
"""


def assert_sound(text: str, chunks: list[Chunk], max_tokens: int) -> None:
    """What holds for every text: order, offsets, limits, and nothing but white space left out."""
    position = 0
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.strip()
        assert not text[position : chunk.start].strip()
        position = chunk.end
    assert not text[position:].strip()
    counted = count_tokens([chunk.text for chunk in chunks])
    assert counted == [chunk.tokens for chunk in chunks]
    assert max(counted, default=0) <= max_tokens


def a_document(seed: int, blocks: int) -> str:
    """Markdown at random: prose, lists, tables, code, several scripts, long words."""
    made = random.Random(seed)
    words = [
        "alpha",
        "Ärger",
        "naïve",
        "漢字",
        "ภาษา",
        "🙂",
        "e\u0301",
        "x" * 40,
        "https://example.org/a?b=c",
        "1,234.5",
    ]

    def sentence() -> str:
        return " ".join(made.choices(words, k=made.randint(1, 30))) + made.choice([".", "。", "!", ""])

    kinds = [
        sentence,
        lambda: "#" * made.randint(1, 6) + " " + sentence(),
        lambda: "\n".join("- " + sentence() for _ in range(made.randint(1, 9))),
        lambda: "```\n" + "\n".join(sentence() for _ in range(made.randint(1, 40))) + "\n```",
        lambda: "|a|b|\n|-|-|\n" + "\n".join(f"|{sentence()}|{sentence()}|" for _ in range(made.randint(1, 9))),
        lambda: "> " + sentence(),
        lambda: " " * made.randint(0, 50),
        lambda: sentence() * made.randint(1, 60),
    ]
    return made.choice(["\n\n", "\n", "\r\n\r\n"]).join(made.choice(kinds)() for _ in range(blocks))


@pytest.mark.parametrize("seed", range(12))
def test_any_text_is_covered_within_limits(seed: int) -> None:
    """Whatever the Markdown: chunks are slices in order, within the limit, and leave out white space only."""
    text = a_document(seed, 60)
    for max_tokens in (16, 64, 256):
        assert_sound(text, chunk_text(text, max_tokens=max_tokens), max_tokens)


@pytest.mark.parametrize("text", ["", " \n\t\r\n ", "\x1c\x1f", "\u3000\u2003"])
def test_empty_text_has_no_chunks(text: str) -> None:
    """White space of any kind makes no chunk."""
    assert chunk_text(text, max_tokens=256) == []


def test_short_text_is_one_chunk() -> None:
    """A text within the limit stays whole, without the white space around it."""
    assert chunk_text("  Hello, world.\n", max_tokens=256) == [Chunk(0, "Hello, world.", "", 2, 15, 4)]


def test_chunks_know_their_headings() -> None:
    """A chunk has the path of headings of its first text; comments in code are none; markup is left out."""
    chunks = chunk_text(GUIDE, max_tokens=24)
    assert_sound(GUIDE, chunks, 24)
    headings = {mark: next(c.heading for c in chunks if mark in c.text) for mark in ("Before", "Welcome", "installer")}
    assert headings == {"Before": "", "Welcome": "Guide", "installer": "Guide > Install"}
    assert next(c.heading for c in chunks if "After the code" in c.text) == "Guide > Install"
    assert next(c.heading for c in chunks if "daily" in c.text) == "Guide > Use it"
    assert next(c.heading for c in chunks if "See below" in c.text) == "Reference"


def test_leading_headings_count_for_their_chunk() -> None:
    """A chunk that starts with headings stands under them; a deeper one that has none above it is no gap."""
    text = "# Guide\n\n### Notes\n\nA note.\n"
    assert [chunk.heading for chunk in chunk_text(text, max_tokens=64)] == ["Guide > Notes"]
    assert [chunk.heading for chunk in chunk_text("# Only\n", max_tokens=64)] == ["Only"]


def test_pieces_carry_the_outline() -> None:
    """A text given in pieces has the numbers, offsets and headings it has as a whole, also across a code block."""
    text = "# One\n\nIntro.\n\n## Two\n\n```\n" + "# comment\n" * 5000 + "```\n\nEnd.\n"
    chunks: list[Chunk] = []
    outline = Outline()
    for start, end in cut(text, 20_000):
        found, outline = chunk_piece(text[start:end], 64, start, len(chunks), outline)
        chunks += found
    assert_sound(text, chunks, 64)
    assert {chunk.heading for chunk in chunks if "comment" in chunk.text} == {"One > Two"}
    assert chunks[-1].heading == "One > Two"
    assert outline.path == "One > Two"


def test_long_titles_are_shortened() -> None:
    """A heading of a megabyte is kept to a line's length in the path."""
    (first, *_) = chunk_text("# " + "word " * 200_000 + "\n\nText.", max_tokens=256)
    assert len(first.heading) <= 200


@pytest.mark.parametrize("size", [100, 5_000, 16_384])
def test_cut_prefers_structure(size: int) -> None:
    """Pieces join up to the text and are within the size; a heading begins a piece where one is near."""
    text = a_document(3, 200) + "x" * 30_000
    pieces = list(cut(text, size))
    assert "".join(text[start:end] for start, end in pieces) == text
    assert all(0 < end - start <= size for start, end in pieces)
    assert list(cut("", size)) == []
    assert list(cut("a" * 60 + "\n# B\n" + "c" * 60, 100)) == [(0, 61), (61, 125)]


SLOW_TEXTS = {
    "one line": "x" * 1_000_000,
    "headings": "\n".join(f"# h{i}" for i in range(100_000)),
    "deep headings": "\n".join("#" * (i % 6 + 1) + f" h{i}" for i in range(100_000)),
    "no word breaks": "漢字" * 250_000,
    "quotes": ">" * 500_000,
    "open brackets": "[" * 500_000,
    "links": "# " + "[a](" * 125_000,
    "emphasis": "*a_" * 160_000,
    "fences": "```\n" * 125_000,
    "nested lists": "\n".join(" " * (i % 400) + "- a" for i in range(2000)),
    "joined emoji": "\U0001f468\u200d" * 125_000,
    "accents": "e" + "\u0301" * 500_000,
    "spaces": " " * 1_000_000,
    "backticks": "`" * 500_000,
}


@pytest.mark.parametrize("name", SLOW_TEXTS)
@pytest.mark.timeout(60)
def test_texts_made_to_be_slow_are_not(name: str) -> None:
    """A text that drives a Markdown parser or a word splitter into quadratic time, or recursion, is like any other."""
    began = time.process_time()
    chunks = chunk_text(SLOW_TEXTS[name], max_tokens=256)
    assert_sound(SLOW_TEXTS[name], chunks, 256)
    assert time.process_time() - began < 30  # half a second; the splitter alone takes minutes for some


@pytest.mark.parametrize("max_tokens", [-1, 0, 15, 8193])
def test_limit_out_of_range_is_refused(max_tokens: int) -> None:
    """A limit that no chunk could keep, or that no embedder reads, is an error."""
    with pytest.raises(InvalidInput, match="16 to 8192"):
        chunk_text("text", max_tokens=max_tokens)


def test_lone_surrogates_are_refused() -> None:
    """Half a character is no text, and the message says where it is."""
    with pytest.raises(InvalidInput, match="character 3"):
        chunk_text("abc\ud800", max_tokens=64)
