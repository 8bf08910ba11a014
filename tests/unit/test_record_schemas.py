"""Which schemas may be asked for, and which answers are valid against them."""

import json
import time
from typing import Any

import pytest

from ke.extraction import schemas
from ke.extraction.records import cut_windows
from ke.extraction.schemas import BadSchema, answer_schema, check_answer, check_schema

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]"},
        "built": {"type": "string", "format": "date"},
        "floors": {"$ref": "#/$defs/number"},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"number": {"type": "integer", "minimum": 1}},
}


def of(**member: Any) -> dict[str, Any]:
    """A schema with one property."""
    return {"type": "object", "properties": {"a": member}}


def deep(levels: int) -> dict[str, Any]:
    """A schema of so many levels."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"type": "array", "items": SCHEMA["properties"]["name"]},
        {"type": "object", "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://site.example/s"},
        of(properties={"$ref": {"type": "string"}, "pattern": {"type": "string"}, "$id": {"type": "string"}}),
        {"type": "object", "properties": {"child": {"$ref": "#"}}},
        deep(20),
    ],
)
def test_usable_schemas_are_taken(schema: dict[str, Any]) -> None:
    """References within a schema, recursion, a dialect that is ours and properties with odd names are fine."""
    check_schema(schema)


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({}, "must be object"),
        ({"type": "string"}, "must be object"),
        ({"type": ["object", "null"]}, "must be object"),
        (of(type="strin"), "/properties/a/type"),
        (of(minimum="1"), "/properties/a/minimum"),
        (of(**{"$ref": "https://site.example/other"}), "leaves the schema"),
        (of(**{"$ref": "file:///etc/passwd"}), "leaves the schema"),
        (of(**{"$ref": "other.json"}), "leaves the schema"),
        (of(**{"$ref": "#/$defs/nowhere"}), "leads nowhere"),
        (of(**{"$id": "https://site.example/inner"}), "below the top"),
        (of(**{"$dynamicRef": "#a"}), "is not taken"),
        (of(patternProperties={"a": {}}), "is not taken"),
        (of(pattern="(a)\\1"), "RE2"),
        (of(pattern="("), "RE2"),
        ({"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"}, "another dialect"),
        (of(const="\x00"), "NUL"),
        (of(const="\ud800"), "surrogate"),
        (of(const=float("inf")), "cannot be written"),
        (of(description="x" * 33_000), "at most 32768"),
        (deep(100), "nested deeper"),
        (deep(2000), "nested"),
    ],
)
def test_unusable_schemas_are_refused_with_the_reason(schema: dict[str, Any], why: str) -> None:
    """What is no schema, leaves itself, or could not be checked or stored is refused."""
    with pytest.raises(BadSchema, match=r".") as caught:
        check_schema(schema)
    assert why in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Tower", "floors": 3}',
        ' \n```json\n{"name": "Tower", "floors": 3}\n```\n',
        'Of course! {"name": "Tower", "floors": 3} I hope that helps {you}.',
        'An example is [1], so: ```\n{"name": "Tower", "floors": 3}\n```',
        '<think>{"name": "wrong"}</think>{"name": "Tower", "floors": 3}',
    ],
)
def test_the_json_in_an_answer_is_found(text: str) -> None:
    """It may stand alone, in a fence, among words, or after thoughts."""
    assert check_answer(SCHEMA, text).records == ({"name": "Tower", "floors": 3},)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no JSON value"),
        ("I do not know.", "no JSON value"),
        ('{"name": "Tower"', "no JSON value"),
        ('{"name": NaN}', "no JSON value"),
        ("[" * 100_000, "nested too deep"),
        ('{"floors": 3}', "'name' is a required property"),
        ('{"name": "tower"}', "/name: 'tower' does not match"),
        ('{"name": "Tower", "floors": 0}', "/floors: 0 is less than the minimum"),
        ('{"name": "Tower", "floors": "3"}', "/floors: '3' is not of type 'integer'"),
        ('{"name": "Tower", "built": "yesterday"}', "/built: 'yesterday' is not a 'date'"),
        ('{"name": "Tower", "height": 3}', "Additional properties are not allowed"),
        ('{"name": "Tower\\u0000"}', "NUL"),
        ('{"name": "Tower\\ud800"}', "surrogate"),
        ('{"name": "Tower", "floors": 1e999}', "too large"),
        ('[{"name": "Tower"}]', "is not of type 'object'"),
    ],
)
def test_what_is_not_valid_is_told(text: str, error: str) -> None:
    """Nothing about a value is forgiven, and what Postgres could not keep is not valid either."""
    checked = check_answer(SCHEMA, text)
    assert checked.records == ()
    assert error in checked.errors[0]


def test_list_has_a_record_for_each_item() -> None:
    """A list may come bare or in the object in which it was asked for; it may be empty."""
    schema = {"type": "array", "items": {"type": "integer"}}
    for text, expected in (("[1, 2]", (1, 2)), ('{"records": [3]}', (3,)), ('{"records": []}', ())):
        checked = check_answer(schema, text)
        assert (checked.records, checked.errors) == (expected, ())
    assert check_answer(schema, '{"records": [1, "two"]}').errors == ("/1: 'two' is not of type 'integer'",)


def test_list_is_asked_for_in_an_object() -> None:
    """Definitions move to the new top; where references would break, no structure is asked for."""
    schema = {"type": "array", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "integer"}}, "$id": "x:y"}
    asked = answer_schema(schema)
    assert asked == {
        "type": "object",
        "properties": {"records": {"type": "array", "items": {"$ref": "#/$defs/n"}}},
        "required": ["records"],
        "additionalProperties": False,
        "$defs": {"n": {"type": "integer"}},
    }
    assert answer_schema({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}}) is None


def test_endless_check_is_broken_off() -> None:
    """Alternatives that double at each of sixty levels would take for ever; the answer is not valid after a second."""
    levels = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    schema = {**of(**{"$ref": "#/$defs/d0"}), "$defs": {**levels, "d60": {"type": "string"}}}
    check_schema(schema)
    began = time.monotonic()
    assert "took longer" in check_answer(schema, '{"a": 1}').errors[0]
    assert time.monotonic() - began < 30


def test_check_that_waits_for_the_machine_is_not_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its limit is one of CPU: a process that others keep from running takes a right answer for a right one."""
    check = schemas._check

    def kept_waiting(*arguments: Any) -> schemas.Checked:
        time.sleep(1.0)
        return check(*arguments)

    monkeypatch.setattr(schemas, "CHECK_S", 0.5)
    monkeypatch.setattr(schemas, "_check", kept_waiting)
    assert check_answer({"type": "object"}, '{"a": 1}').records == ({"a": 1},)


def test_errors_are_bounded() -> None:
    """A wrong answer of any size has a few short errors."""
    schema = {"type": "object", "additionalProperties": {"type": "integer"}}
    checked = check_answer(schema, json.dumps({f"m{n}": "x" * 10_000 for n in range(100)}))
    assert len(checked.errors) == 8
    assert max(map(len, checked.errors)) <= 300


@pytest.mark.parametrize("text", ["", "short", "a\n\nb" * 500, "x" * 5000, ("line\n" * 50 + "\n") * 20])
def test_windows_lose_nothing(text: str) -> None:
    """The parts of a text put together are the text, and none is longer than it may be."""
    windows = cut_windows(text, 300)
    assert "".join(windows) == text
    assert all(0 < len(window) <= 300 for window in windows) or windows == [""]
