"""Which spellings of a name come to the same key."""

import pytest

from ke.contracts.ids import merged_entity_id
from ke.contracts.merging import MAX_KEY, merge_key


@pytest.mark.parametrize(
    ("key", "spellings"),
    [
        (
            "united states",
            ["United States", "the United\nStates", "The  UNITED STATES,", "United States'", "«United States»"],
        ),
        (
            "postgresql",
            ["PostgreSQL", "PostgreSQL's", "PostgreSQL\u2019s", "**PostgreSQL**", "## PostgreSQL:", "`PostgreSQL`"],
        ),
        ("ibm", ["IBM", "\uff29\uff22\uff2d", "(IBM)", "an IBM"]),
        ("strasse", ["Straße", "STRASSE"]),
        ("c#", ["C#", "the C#"]),
        ("c++", ["C++", "C++,"]),
        ("o'reilly", ["O'Reilly", "O\u2019Reilly's"]),
        ("1,000", ["1,000", "1,000."]),
        ("-5", ["-5"]),
    ],
)
def test_spellings_of_one_name_have_one_key(key: str, spellings: list[str]) -> None:
    """Unicode form, case, white space, articles, possessives and punctuation around a name make no other name."""
    assert {merge_key(text) for text in spellings} == {key}


@pytest.mark.parametrize("text", ["the", "...", "-", "a", "'s", "\u201c\u201d", "*", "\x1f1"])
def test_nothing_comes_to_nothing(text: str) -> None:
    """A text that is more than white space has a key, however little of it is a name."""
    assert merge_key(text)


def test_different_names_stay_apart() -> None:
    """What is inside a name counts."""
    names = ["New York", "York", "C", "C#", "C++", "Ada Lovelace", "A. Lovelace", "10", "-10", "10%"]
    assert len({merge_key(name) for name in names}) == len(names)


def test_key_has_a_bound_and_is_its_own_key() -> None:
    """An index entry has room for a key, and merging what is merged changes nothing."""
    assert len(merge_key("\u3042" * 1000)) == MAX_KEY
    for text in ("The United States'", "O\u2019Reilly's", "\ufdfa" * 50):
        assert merge_key(merge_key(text)) == merge_key(text)


def test_id_is_of_project_label_and_key() -> None:
    """The same name is another entity in another project, or with another label."""
    ids = {merged_entity_id(p, label, "paris") for p in ("a", "b") for label in ("GPE", "PERSON")}
    assert len(ids) == 4
    assert merged_entity_id("a", "GPE", "paris") in ids
