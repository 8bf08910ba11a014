"""JSON Schemas of records: what may be one, and whether a model's answer is valid against it.

Schemas come from requests and answers from a model, so both are taken for hostile: no reference leaves the schema,
patterns are matched in linear time (RE2), and a check that goes on for too long is broken off.
"""

import json
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from ke.contracts.errors import InvalidInput

MAX_SCHEMA_BYTES: Final = 32_768
MAX_SCHEMA_DEPTH: Final = 64
CHECK_S: Final = 1.0
"""Seconds of CPU that one check of an answer may take; nested alternatives can take as long as one likes. Not of the
clock: on a busy machine a right answer would be taken for a wrong one, and be paid for twice."""
MAX_ERRORS: Final = 8
"""Errors that are told, to a model that is asked again and in a dead letter."""
MAX_ERROR_CHARS: Final = 300
LIST: Final = "records"
"""The member in which a list is asked for: structured answers must be objects at the top."""

_DIALECTS: Final = ("https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft/2020-12/schema")
_REFUSED: Final = ("patternProperties", "$dynamicRef", "$recursiveRef", "$vocabulary")
_MAX_STARTS: Final = 20
"""Places in an answer at which JSON is looked for."""


class BadSchema(InvalidInput):
    """This is not a JSON Schema that a record can be checked against."""


class _TooLong(Exception):
    """The check was broken off."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came out of an answer."""

    records: tuple[Any, ...] = ()
    """Valid ones: one, or as many as a list has."""
    errors: tuple[str, ...] = ()
    """Why the answer is not valid; none when it is."""


# The schema


def check_schema(schema: Mapping[str, Any]) -> None:
    """Makes sure that a schema can be used: valid by Draft 2020-12, complete in itself, and of an object or a list.

    Takes up to 100 ms of CPU: not for an event loop.

    Raises:
        BadSchema: It cannot.
    """
    nodes = list(_nodes(schema))
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except ValueError as error:
        raise BadSchema(f"The schema cannot be written as JSON: {error}") from None
    if why := _why_not_storable(schema):
        raise BadSchema(why)
    if size > MAX_SCHEMA_BYTES:
        raise BadSchema(f"The schema has {size} bytes; at most {MAX_SCHEMA_BYTES} are taken.")
    if schema.get("type") not in ["object", "array"]:
        raise BadSchema("The schema's `type` must be object (a record for each source) or array (a list of records).")
    if str(schema.get("$schema", _DIALECTS[0])).rstrip("#") not in _DIALECTS:
        raise BadSchema(f"The schema is read as {_DIALECTS[0]}; `$schema` names another dialect.")
    for number, node in enumerate(nodes):
        _check_node(node, is_root=number == 0)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise BadSchema(f"{_place(error)}: {error.message[:MAX_ERROR_CHARS]}") from None
    except RecursionError:
        raise BadSchema("The schema is nested too deep.") from None
    _check_references(schema, nodes)


def _nodes(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All objects in a schema, the schema itself first.

    Raises:
        BadSchema: It is nested too deep.
    """
    todo: list[tuple[Any, int]] = [(schema, 0)]
    while todo:
        node, depth = todo.pop()
        if depth > MAX_SCHEMA_DEPTH:
            raise BadSchema(f"The schema is nested deeper than {MAX_SCHEMA_DEPTH} levels.")
        if isinstance(node, Mapping):
            yield node
            todo.extend((child, depth + 1) for child in node.values())
        elif isinstance(node, list):
            todo.extend((child, depth + 1) for child in node)


def _check_node(node: Mapping[str, Any], *, is_root: bool) -> None:
    for name in _REFUSED:
        if name in node and isinstance(node[name], (str, dict)):
            raise BadSchema(f"`{name}` is not taken in a schema.")
    if not is_root and isinstance(node.get("$id"), str):
        raise BadSchema("`$id` is not taken below the top of a schema.")
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise BadSchema(f"`$ref` {reference[:100]!r} leaves the schema: only those that begin with # are followed.")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        try:
            _compiled(pattern)
        except re2.error as error:
            why = error.args[0].decode(errors="replace")
            raise BadSchema(f"The pattern {pattern[:100]!r} is not one that RE2 takes: {why}") from None


def _check_references(schema: Mapping[str, Any], nodes: list[Mapping[str, Any]]) -> None:
    resolver = _registry(schema).resolver()
    for node in nodes:
        reference = node.get("$ref")
        if not isinstance(reference, str):
            continue
        try:
            resolver.lookup(reference)
        except (Unresolvable, ValueError):
            raise BadSchema(f"`$ref` {reference[:100]!r} leads nowhere in the schema.") from None


def _registry(schema: Mapping[str, Any]) -> Any:
    """The schema and nothing else: what is not in it is not looked for."""
    bare = {name: value for name, value in schema.items() if name != "$id"}
    registry: Any = Registry()
    return registry.with_resource("", DRAFT202012.create_resource(bare))


# What the model is asked for


def is_list(schema: Mapping[str, Any]) -> bool:
    """Whether a source can have any number of records."""
    return schema.get("type") == "array"


def answer_schema(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema as an endpoint takes it, with an object at the top; None when it cannot be put so.

    References of a list's schema are kept where they lead to its definitions, which move to the new top.
    """
    bare = {name: value for name, value in schema.items() if name not in {"$id", "$schema"}}
    if not is_list(schema):
        return bare
    for node in _nodes(bare):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith(("#/$defs/", "#/definitions/")):
            return None
    moved: dict[str, Any] = {name: bare.pop(name) for name in ("$defs", "definitions") if name in bare}
    top: dict[str, Any] = {"type": "object", "properties": {LIST: bare}, "required": [LIST]}
    return {**top, "additionalProperties": False, **moved}


# The answer


def check_answer(schema: Mapping[str, Any], text: str) -> Checked:
    """Finds the JSON in a model's answer and checks it against the schema. Runs in a pool process.

    Takes JSON alone, in a code fence, after a model's thoughts, or with words around it; nothing about the value
    itself is forgiven.
    """
    try:
        with _deadline(CHECK_S):
            return _check(schema, text)
    except _TooLong:
        return Checked(errors=(f"Checking the answer took longer than {CHECK_S:g} s of CPU.",))
    except RecursionError:
        return Checked(errors=("The answer, or the schema, is nested too deep to be checked.",))


def _check(schema: Mapping[str, Any], text: str) -> Checked:
    value, found = _find_json(text, list if is_list(schema) else dict)
    if not found:
        return Checked(errors=("There is no JSON value in the answer, or it is cut off or not well-formed.",))
    if is_list(schema) and isinstance(value, dict) and set(value) == {LIST}:
        value = value[LIST]
    storable = _why_not_storable(value)
    if storable:
        return Checked(errors=(storable,))
    bare = {name: member for name, member in schema.items() if name != "$id"}
    validator = _Validator(bare, registry=_registry(schema), format_checker=_Validator.FORMAT_CHECKER)
    errors = []
    for error in validator.iter_errors(value):
        errors.append(f"{_place(error)}: {error.message}"[:MAX_ERROR_CHARS])
        if len(errors) == MAX_ERRORS:
            break
    if errors:
        return Checked(errors=tuple(errors))
    return Checked(records=tuple(value) if is_list(schema) else (value,))


def _place(error: ValidationError | SchemaError) -> str:
    return "/" + "/".join(str(part) for part in error.absolute_path)


def _find_json(text: str, kind: type) -> tuple[Any, bool]:
    """The first JSON value of this kind in a text, or the first object or list; and whether there is any."""
    _, _, answer = text.rpartition("</think>")
    fenced = answer.split("```")
    candidates = [answer, *(block.removeprefix("json").removeprefix("JSON") for block in fenced[1::2])]
    fallback: tuple[Any, bool] = (None, False)
    for candidate in candidates:
        try:
            value = json.loads(candidate, parse_constant=_refuse)
        except ValueError:
            continue
        if isinstance(value, kind):
            return value, True
        fallback = fallback if fallback[1] else (value, True)
    if fallback[1]:
        return fallback
    for value in _embedded(answer):
        if isinstance(value, kind):
            return value, True
        fallback = fallback if fallback[1] else (value, True)
    return fallback


def _embedded(text: str) -> Iterator[Any]:
    """The JSON values that begin at the braces and brackets of a text."""
    decoder = json.JSONDecoder(parse_constant=_refuse)
    at = 0
    for _ in range(_MAX_STARTS):
        starts = [place for place in (text.find("{", at), text.find("[", at)) if place >= 0]
        if not starts:
            return
        at = min(starts)
        try:
            value, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
            continue
        yield value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _why_not_storable(value: Any) -> str:
    """Why Postgres would not take a value that is JSON; "" when it does."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
        written.encode()
    except UnicodeEncodeError:
        return "A string has half of a surrogate pair."
    except ValueError:
        return "A number is too large."
    return "A string has a NUL character." if "\\u0000" in written.replace("\\\\", "") else ""


# The checker


def _compiled(pattern: str) -> Any:
    engine: Any = re2  # comes without types
    options = engine.Options()
    options.max_mem = 1 << 20
    options.log_errors = False
    return engine.compile(pattern, options=options)


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _compiled(pattern).search(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


_extend: Final[Any] = extend
_Validator: Final[Any] = _extend(Draft202012Validator, {"pattern": _pattern})


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Breaks off what is inside, where this thread can be interrupted: in a pool process it can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
