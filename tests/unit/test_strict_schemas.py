"""Which schemas OpenAI's strict mode takes."""

from typing import Any

import pytest

from ke.extraction.schemas import answer_schema, check_schema
from ke.extraction.strict_schemas import takes_strict

TEXT = {"type": "string"}


def closed(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def nested(levels: int) -> dict[str, Any]:
    schema = closed(name=TEXT)
    for _ in range(levels - 1):
        schema = closed(inner=schema)
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        closed(name=TEXT),
        closed(name={"type": ["string", "null"], "description": "A name"}),
        closed(kind={"type": "string", "enum": ["tower", "ship"]}, at={"type": "string", "format": "date"}),
        closed(years={"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 3}),
        closed(height={"anyOf": [{"type": "number"}, {"type": "null"}]}),
        {**closed(next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}), "title": "Node"},
        {**closed(person={"$ref": "#/$defs/person"}), "$defs": {"person": closed(name=TEXT)}},
        nested(10),
    ],
)
def test_schema_that_qualifies(schema: dict[str, Any]) -> None:
    """Closed objects of required properties, with the keywords that the guide names."""
    check_schema(schema)
    assert takes_strict(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**closed(name=TEXT, year=TEXT), "required": ["name"]},
        {"type": "object", "properties": {"name": TEXT}, "required": ["name"]},
        {**closed(name=TEXT), "additionalProperties": TEXT},
        {**closed(name=TEXT), "anyOf": [{"required": ["name"]}]},
        {**closed(name=TEXT), "minProperties": 1},
        closed(name={"type": "string", "minLength": 1}),
        closed(name={"type": "string", "format": "uri"}),
        closed(name={"type": "string", "minimum": 1}),
        closed(name={"type": "string", "default": "x"}),
        closed(name={"description": "of any type"}),
        closed(name=True),
        closed(names={"type": "array"}),
        closed(name={"allOf": [TEXT]}),
        closed(name={"type": "array", "items": {"type": "object", "properties": {"a": TEXT}, "required": ["a"]}}),
        {**closed(person={"$ref": "#/$defs/person"}), "$defs": {"person": {"type": "object"}}},
        {**closed(person={"$ref": "#/$defs/person", "title": "P"}), "$defs": {"person": closed(name=TEXT)}},
        closed(name={"type": "string", "enum": [f"{number:060}" for number in range(251)]}),
        closed(name={"type": "integer", "enum": list(range(1001))}),
        nested(11),
    ],
)
def test_schema_that_does_not_qualify(schema: dict[str, Any]) -> None:
    """What the guide excludes or does not name: valid schemas all the same."""
    check_schema(schema)
    assert not takes_strict(schema)


def test_list_qualifies_as_it_is_asked_for() -> None:
    """A list is asked for within an object, which is closed; what its items are decides."""
    asked = answer_schema({"type": "array", "items": closed(name=TEXT)})
    open_asked = answer_schema({"type": "array", "items": {"type": "object"}})
    assert asked is not None
    assert open_asked is not None
    assert takes_strict(asked)
    assert not takes_strict(open_asked)
