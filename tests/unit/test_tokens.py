"""Tokens word by word: they must be the ones that the tokenizer makes of the whole text."""

import json
import random
import re
from pathlib import Path

import pytest

from ke.extraction import tokens
from ke.extraction.tokens import token_ids
from ke.extraction.wordllama_files import load_tokenizer

ROOT = Path(__file__).parents[2]
SPACE = "\u2581"


def of_the_whole(text: str) -> list[int]:
    """The tokenizer's own answer."""
    return list(load_tokenizer().encode(text, add_special_tokens=False).ids)


def test_every_piece_of_the_tokenizer_is_one_word() -> None:
    """So no merge reaches over the end of a word, and the tokens of a text are those of its words."""
    model = json.loads(load_tokenizer().to_str())["model"]
    marks = {"<unk>", "<s>", "</s>"}
    pieces = {piece for piece in model["vocab"] if piece not in marks and not re.fullmatch("<0x..>", piece)}
    pieces |= {"".join(pair) for pair in model["merges"]}
    assert len(pieces) > 31_000
    assert [piece for piece in pieces if tokens._WORD.findall(piece) != [piece]] == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md")), ids=lambda p: p.name)
def test_real_pages_have_the_same_tokens(path: Path) -> None:
    """Of our own documents, whole and line by line, what is made word by word is what the tokenizer makes of all."""
    text = path.read_text(encoding="utf-8")
    assert token_ids(text).tolist() == of_the_whole(text)
    for line in text.splitlines():
        assert token_ids(line).tolist() == of_the_whole(line)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        " \n  \n",
        "   three before, two  between, one after ",
        f"{SPACE}{SPACE}the {SPACE}mark itself{SPACE}",
        "a\r\nb\r\n\r\n  if (x) {\r\n}\r\n\tc\n\n\nd",
        "<s>a</s> b <unk> c<s",
        " <s> a  </s>\n<unk>",
        "\x00\x01\u200b\ufeff\u00a0\u3000no-break",
        "漢字かな交じり文。ภาษาไทย 🙂🙂 e\u0301 naïve Ärger",
        "x" * 10_000,
        " " * 100 + "y" * 50 + " " * 17,
    ],
)
def test_odd_texts_have_the_same_tokens(text: str) -> None:
    """The same where words are hard to tell apart: runs of spaces, marks of the model, other scripts, long words."""
    assert token_ids(text).tolist() == of_the_whole(text)


@pytest.mark.parametrize("seed", range(20))
def test_random_texts_have_the_same_tokens(seed: int) -> None:
    """The same for whatever such signs add up to."""
    made = random.Random(seed)
    signs = ["", *"  \n\r\t<>{};é語🙂", "  ", SPACE, "<s>", "//", "the", "ing"]
    for _ in range(50):
        text = "".join(made.choices(signs, k=made.randint(1, 60)))
        assert token_ids(text).tolist() == of_the_whole(text), repr(text)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more words are kept than the limit, and no long ones; what was dropped is made anew, the same."""
    monkeypatch.setattr(tokens, "_MAX_WORDS", 100)
    made = random.Random(1)
    for _ in range(50):
        text = " ".join("".join(made.choices("abcdefgh", k=9)) for _ in range(10)) + " " + "z" * 1000
        assert token_ids(text).tolist() == of_the_whole(text)
    kept = tokens._kept()
    assert len(kept) <= 100
    assert max(map(len, kept)) <= 40


def test_lone_surrogates_are_refused() -> None:
    """A text that is no Unicode is refused, as the tokenizer itself does."""
    with pytest.raises(TypeError):
        token_ids("a \ud800 b")
