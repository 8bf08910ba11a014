"""Which schemas an endpoint can be asked to keep to strictly: OpenAI's strict mode takes a part of JSON Schema only."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

MAX_LEVELS: Final = 10
"""Objects and lists within each other, the top included; definitions begin anew."""
MAX_CHOICES: Final = 1_000
"""Values of all `enum`s together."""
MAX_LONG_ENUM: Final = 250
"""Values of one `enum` above which their characters are counted."""
MAX_ENUM_CHARS: Final = 15_000

_ANYWHERE: Final = frozenset({"type", "title", "description", "enum", "const", "anyOf", "$defs"})
_OF_TYPE: Final[dict[str, frozenset[str]]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format"}),
    "number": frozenset({"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}),
    "integer": frozenset({"multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
_FORMATS: Final = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


def takes_strict(schema: Mapping[str, Any]) -> bool:
    """Whether `strict: true` may be sent with a schema that is a valid one.

    The rules are those of "Supported schemas" in OpenAI's guide to structured outputs
    (https://platform.openai.com/docs/guides/structured-outputs#supported-schemas): an object at the top that is no
    `anyOf`; every object closed by `additionalProperties: false` and all its properties required; no keywords but those
    that the guide names; at most `MAX_LEVELS`, `MAX_CHOICES` and `MAX_ENUM_CHARS`. Its other limits (5,000 properties,
    120,000 characters of names) are above what a schema of ours may have. Where the guide says nothing, as of a `$ref`
    with other keywords beside it, the answer is no: a schema that is not sent as strict is still sent.
    """
    if schema.get("type") != "object" or "anyOf" in schema:
        return False
    choices = 0
    for node, level in _subschemas(schema, 1):
        if level > MAX_LEVELS or not isinstance(node, Mapping) or not _fits(node):
            return False
        choices += len(node.get("enum", ()))
    return choices <= MAX_CHOICES


def _subschemas(node: Any, level: int) -> Iterator[tuple[Any, int]]:
    """A schema and all within it, each with its level."""
    yield node, level
    if not isinstance(node, Mapping) or level > MAX_LEVELS:
        return
    for child in node.get("properties", {}).values():
        yield from _subschemas(child, level + _is_nest(child))
    if "items" in node:
        yield from _subschemas(node["items"], level + _is_nest(node["items"]))
    for child in node.get("anyOf", ()):
        yield from _subschemas(child, level + _is_nest(child))
    for child in node.get("$defs", {}).values():
        yield from _subschemas(child, 1)


def _is_nest(node: Any) -> bool:
    return isinstance(node, Mapping) and bool({"object", "array"} & set(_types(node)))


def _types(node: Mapping[str, Any]) -> list[str]:
    told = node.get("type", [])
    return [told] if isinstance(told, str) else list(told)


def _fits(node: Mapping[str, Any]) -> bool:
    """Whether one schema, without those within it, is written as strict mode wants it."""
    if "$ref" in node:
        return set(node) == {"$ref"} and (node["$ref"] == "#" or node["$ref"].startswith("#/$defs/"))
    types = _types(node)
    if not types and "anyOf" not in node:
        return False
    if not set(node) <= _ANYWHERE.union(*(_OF_TYPE[name] for name in types)):
        return False
    if "object" in types and not _is_closed(node):
        return False
    if "array" in types and "items" not in node:
        return False
    return node.get("format", "date") in _FORMATS and _is_short(node.get("enum", ()))


def _is_closed(node: Mapping[str, Any]) -> bool:
    return (
        node.get("additionalProperties") is False
        and "properties" in node
        and set(node.get("required", ())) == set(node["properties"])
    )


def _is_short(values: Any) -> bool:
    return len(values) <= MAX_LONG_ENUM or sum(len(str(value)) for value in values) <= MAX_ENUM_CHARS
