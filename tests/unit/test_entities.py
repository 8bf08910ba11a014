"""Named entities."""

import pytest

from ke.contracts.errors import InvalidInput
from ke.extraction import entities
from ke.extraction.entities import MAX_CHARACTERS, Mention, check_entities, find_entities

TEXT = "Ada Lovelace met Charles Babbage in London in 1833."


def test_entities_are_slices_of_their_text() -> None:
    """People, places and dates are found, each a slice of its own text."""
    texts = [TEXT, "Nothing here.", "IBM was founded in the United States.\n\n" + TEXT]
    found = find_entities("spacy", texts)
    assert len(found) == 3
    for text, mentions in zip(texts, found, strict=True):
        for mention in mentions:
            assert text[mention.start : mention.end] == mention.text
    assert {("London", "GPE"), ("1833", "DATE"), ("Charles Babbage", "PERSON")} <= {
        (mention.text, mention.label) for mention in found[0]
    }
    assert {"IBM", "the United States"} <= {mention.text for mention in found[2]}


def test_empty_texts_keep_their_places() -> None:
    """Empty texts have no entities, and do not shift those of others."""
    found = find_entities("spacy", ["", TEXT, " \n", TEXT, ""])
    assert [bool(mentions) for mentions in found] == [False, True, False, True, False]
    assert found[1] == found[3]
    assert find_entities("spacy", []) == []


def test_odd_texts_are_read() -> None:
    """Control characters, emoji and a word of 10,000 letters are no error."""
    texts = ["\x00\x01", "🙂" * 500, "x" * 10_000, "漢字" * 100, "\u200b"]
    assert len(find_entities("spacy", texts)) == len(texts)


def test_too_long_text_is_refused() -> None:
    """A text that would take the model's memory is refused by its number."""
    with pytest.raises(InvalidInput, match="text 1 has"):
        find_entities("spacy", ["a", "a" * (MAX_CHARACTERS + 1)])


def test_unknown_name_lists_the_known() -> None:
    """An unknown finder is an error that names those there are."""
    with pytest.raises(InvalidInput, match="known: spacy"):
        check_entities("nothing")
    with pytest.raises(InvalidInput, match="known: spacy"):
        find_entities("nothing", [TEXT])


def test_where_links_lead_is_no_entity() -> None:
    """Their words are, at their place; nothing is found over the end of a link, as its text would hold the address."""
    linked = "[Ada Lovelace](http://h/people/London) met [Charles Babbage](https://h/1833) in London in 1833."
    (mentions,) = find_entities("spacy", [linked])
    assert {("London", "GPE"), ("1833", "DATE"), ("Charles Babbage", "PERSON")} <= {(m.text, m.label) for m in mentions}
    assert all(linked[m.start : m.end] == m.text for m in mentions)
    assert not [m for m in mentions if "http" in m.text]


PAGE = """# Ada Lovelace

## War

## Helicopters

### Babbage & Co. #

| Name | Height |
| --- | --- |
| *Charles Babbage* | 4 |
| # | % |

She met **Charles Babbage** in *London*. # 3

#

## [Ada Lovelace](http://h/a) of London
"""


def test_marks_of_markdown_are_no_entities() -> None:
    """Headings, tables and emphasis leave no mark on a mention, none is only marks, and each is still a slice."""
    (mentions,) = find_entities("spacy", [PAGE])
    assert {"Ada Lovelace", "Charles Babbage", "London"} <= {mention.text for mention in mentions}
    for mention in mentions:
        assert PAGE[mention.start : mention.end] == mention.text
        assert mention.text == mention.text.strip("*_|~`#> \n")
        assert any(character.isalnum() for character in mention.text)
    assert not {"War", "Helicopters"} & {mention.text for mention in mentions if mention.label == "MONEY"}


@pytest.mark.parametrize(
    ("text", "found", "kept"),
    [
        ("See ## War now", "## War", "War"),
        ("Write C# now", "C#", "C#"),
        ("| c. 1210 |", "| c. 1210 |", "c. 1210"),
        ("The *Weekly*\n\nsaid", "*Weekly*\n\n", "Weekly"),
        (r"See A\* there", r"A\*", r"A\*"),
        ("> The Times, -5 %", "> The Times", "The Times"),
        ("so -5 is", "-5", "-5"),
        ("only | # | here", "| # |", None),
        ("only … here", "…", None),
        ("only * here", "*", None),
        ("nur 東京 hier", "東京", "東京"),
    ],
)
def test_edges_of_a_mention_are_its_own(
    text: str, found: str, kept: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a finder takes with it, a mention ends where its words do; what has no letter or digit is dropped."""
    start = text.index(found)
    mention = Mention(found, "ORG", start, start + len(found))
    monkeypatch.setitem(entities._FINDERS, "one", lambda _: [[mention]])
    (mentions,) = find_entities("one", [text])
    assert [m.text for m in mentions] == ([] if kept is None else [kept])
    assert all(text[m.start : m.end] == m.text for m in mentions)
