"""What is wrong with a value that was sent, in the words of JSON: pydantic's own are those of Python."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from ke.contracts.counted import counted

Facts = Mapping[str, Any]
"""What pydantic tells of a limit that was passed."""

_STRING: Final = "This must be a string"
_WHOLE: Final = "This must be a whole number"
_NUMBER: Final = "This must be a number"
_ID: Final = "This must be an id (a UUID)"
_MOMENT: Final = "This must be a time with its zone, as 2026-03-31T12:00:00Z"
_OBJECT: Final = "This must be an object"


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def _too_short(facts: Facts) -> str:
    least = facts["min_length"]
    return "This must not be empty" if least == 1 else f"This must have at least {least:,} characters"


_DETAILS: Final[Mapping[str, str | Callable[[Facts], str]]] = {
    "bool_parsing": "This must be true or false",
    "bool_type": "This must be true or false",
    "date_from_datetime_parsing": "There is no such day",
    "datetime_from_date_parsing": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_type": _MOMENT,
    "dict_type": _OBJECT,
    "enum": lambda facts: f"This must be {facts['expected']}",
    "extra_forbidden": "There is no such field here",
    "finite_number": "This must be a finite number",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": lambda facts: f"This must be more than {_number(facts['gt'])}",
    "greater_than_equal": lambda facts: f"This must be at least {_number(facts['ge'])}",
    "int_from_float": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": "This number has too many digits",
    "int_type": _WHOLE,
    "less_than": lambda facts: f"This must be less than {_number(facts['lt'])}",
    "less_than_equal": lambda facts: f"This must be at most {_number(facts['le'])}",
    "list_type": "This must be an array",
    "literal_error": lambda facts: f"This must be {facts['expected']}",
    "missing": "This is required",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "string_pattern_mismatch": lambda facts: f"This must match {facts['pattern']}",
    "string_too_long": lambda facts: f"This must have at most {counted(facts['max_length'], 'character')}",
    "string_too_short": _too_short,
    "string_type": _STRING,
    "string_unicode": "This has half of a surrogate pair, which is no character",
    "timezone_aware": _MOMENT,
    "too_long": lambda facts: f"This must have at most {counted(facts['max_length'], 'member')}",
    "too_short": lambda facts: f"This must have at least {counted(facts['min_length'], 'member')}",
    "tuple_type": "This must be an array",
    "union_tag_invalid": "This must be scrape, crawl or extract",
    "union_tag_not_found": "This is required: scrape, crawl or extract",
    "uuid_parsing": _ID,
    "uuid_type": _ID,
}
"""By the type of pydantic's error (https://docs.pydantic.dev/latest/errors/validation_errors/); checks of ours have
types and words of their own."""


def detail_of(wrong: Mapping[str, Any]) -> str:
    """A sentence that says what a value must be.

    Args:
        wrong: An entry of `ValidationError.errors()`, with its context.
    """
    words = _DETAILS.get(wrong["type"], str(wrong["msg"]).removeprefix("Value error, "))
    text = words if isinstance(words, str) else words(wrong["ctx"])
    return text if text.endswith(".") else f"{text}."
