"""Which mentions of named entities mean the same one: those with one label and one merge key, in one project.

And which of their labels are of values, not of names.
"""

import unicodedata
from typing import Final

MAX_KEY: Final = 200
"""Characters of a merge key: an index entry has room for it in any script."""

VALUE_LABELS: Final = ("CARDINAL", "DATE", "MONEY", "ORDINAL", "PERCENT", "QUANTITY", "TIME")
"""What the named entities of OntoNotes 5.0, whose labels the finder has, call values; the other eleven are of names."""
ALL_LABELS: Final = "all"
"""In place of a label: names and values."""

_ARTICLES: Final = ("the ", "a ", "an ")
_POSSESSIVES: Final = ("'s", "s'")
_SINGLE_QUOTES: Final = str.maketrans({"\u2019": "'", "\u2018": "'", "\u02bc": "'", "`": "'"})
_AROUND: Final = ' .,;:!?"()[]{}<>*_|\u2013\u2014\u2026\u201c\u201d\u00ab\u00bb'
"""What stands around a name and is no part of it: punctuation, and the marks of Markdown."""
_BEFORE: Final = _AROUND + "'#"
"""In front of it: an apostrophe at the end may be a possessive, and C# is a name."""


def merge_key(text: str) -> str:
    """What the spellings of one name have in common.

    Unicode's compatibility form (NFKC), one space for any white space, case folded; without a leading English article,
    a possessive at the end, and punctuation around it. A text of nothing else is its own key, as a dot or a dash says
    more than nothing.

    Args:
        text: A mention, as it stands in its text.

    Returns:
        The key; never empty for a text that is more than white space, and at most `MAX_KEY` characters.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).translate(_SINGLE_QUOTES).casefold().split())
    key = plain.rstrip(_AROUND).lstrip(_BEFORE)
    if key.endswith(_POSSESSIVES):
        key = key.removesuffix("'s").removesuffix("'")
    for article in _ARTICLES:
        if key.startswith(article):
            key = key.removeprefix(article)
            break
    return (key.rstrip(_AROUND + "'").lstrip(_BEFORE) or plain)[:MAX_KEY].rstrip()
