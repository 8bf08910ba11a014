"""Snippets: where the words are, and which part is shown."""

import pytest

from api.service.snippets import CUT, SNIPPET_CHARS, cut_snippet, find_marks, new_marks

MARKS = ("bQb", "eQe")


def test_marks_are_places_in_the_text() -> None:
    """A marked copy gives the places of its words; a copy of another text gives none."""
    assert find_marks("a lamp, Lamp", "a bQblampeQe, bQbLampeQe", MARKS) == [(2, 6), (8, 12)]
    assert find_marks("a lamp", "a  bQblampeQe", MARKS) == []
    assert find_marks("a lamp", "", MARKS) == []
    assert find_marks("", "", MARKS) == []


def test_marks_are_new_each_time() -> None:
    """No page can have them in its text beforehand."""
    assert len({mark for _ in range(50) for mark in new_marks()}) == 100


def test_snippet_has_most_different_words() -> None:
    """The part with the most different words is shown, not the one with one word often."""
    text = "lamp lamp lamp " + "x " * 400 + "lamp tower " + "y " * 400
    words = [(0, 4), (5, 9), (10, 14), (815, 819), (820, 825)]
    snippet = cut_snippet(text, words)
    assert [snippet.text[a:b] for a, b in snippet.marks] == ["lamp", "tower"]
    assert text[snippet.start : snippet.start + len(snippet.text) - 2 * len(CUT)] == snippet.text.strip(CUT)


def test_snippet_shows_where_its_text_is_cut() -> None:
    """A mark at either end where more follows, and none where the text itself ends; words stay where they are."""
    text = "lamp " + "x " * 400 + "tower"
    first, last = cut_snippet(text, [(0, 4)]), cut_snippet(text, [(len(text) - 5, len(text))])
    assert (first.text[:6], first.text[-3:]) == ("lamp x", "x x…".removeprefix("x"))
    assert (last.text[:2], last.text[-7:]) == ("…x", "x tower")
    assert [s.text[a:b] for s in (first, last) for a, b in s.marks] == ["lamp", "tower"]
    assert CUT not in cut_snippet("a lamp \n", [(2, 6)]).text


@pytest.mark.parametrize("text", ["", "short", "x" * 5000, "wörter 🙂 " * 100])
def test_snippet_of_anything_is_a_part_of_it(text: str) -> None:
    """Without marks it is the beginning; it is never too long, nor outside."""
    snippet = cut_snippet(text, [])
    assert snippet.start == 0
    assert text.startswith(snippet.text.removesuffix(CUT))
    assert len(snippet.text) <= SNIPPET_CHARS + len(CUT)
    last = cut_snippet(text, [(len(text) - 1, len(text))] if text else [])
    assert text[last.start :].startswith(last.text.strip(CUT))
    assert len(last.marks) == bool(text)


def test_snippet_is_plain_text_with_its_words_marked() -> None:
    """Marks of Markdown and targets of links are no part of it; a word that stands in a target only is not marked."""
    text = "x " * 300 + "## The [oil **lamp**](http://lamp.example/lamp) of `the **lamp**`"
    words = [(i, i + 4) for i in range(len(text)) if text.startswith("lamp", i)]
    snippet = cut_snippet(text, words)
    assert snippet.text.endswith("x ## The oil lamp of the **lamp**")
    assert [snippet.text[a:b] for a, b in snippet.marks] == ["lamp", "lamp"]
    assert text[snippet.start :].startswith(snippet.text[1:20])
