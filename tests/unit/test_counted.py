"""Numbers of things in messages."""

from ke.contracts.cleanup import STORES, StoreCounts
from ke.contracts.counted import counted


def test_one_thing_is_no_plural_and_thousands_are_apart() -> None:
    """A word with an irregular plural is given both forms."""
    assert [counted(number, "page") for number in (0, 1, 2, 1234567)] == [
        "0 pages",
        "1 page",
        "2 pages",
        "1,234,567 pages",
    ]
    assert [counted(number, "entity", "entities") for number in (1, 2)] == ["1 entity", "2 entities"]


def test_counts_of_stores_name_all_of_them_but_the_empty_ones() -> None:
    """Each store has its word."""
    assert StoreCounts(vectors=1500, dead_letters=1).told() == ["1,500 vectors", "1 dead letter"]
    assert len(StoreCounts(**dict.fromkeys(STORES, 2)).told()) == len(STORES)
    assert StoreCounts().told() == []
