"""The committed description of the API."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from api.app import assemble

COMMITTED = Path(__file__).parents[2] / "openapi.json"


def _operations() -> list[dict[str, Any]]:
    return [operation for path in assemble().openapi()["paths"].values() for operation in path.values()]


def test_committed_description_is_what_the_code_says() -> None:
    """openapi.json is what `python -m api.openapi` prints; `make openapi` writes it anew."""
    printed = subprocess.run([sys.executable, "-m", "api.openapi"], capture_output=True, check=True, timeout=60).stdout
    assert printed.decode() == COMMITTED.read_text(encoding="utf-8")


def test_operations_have_ids_summaries_and_problems() -> None:
    """Every operation has an id of its own, a summary, a tag; every one that can fail describes how."""
    operations = _operations()
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["tags"]
        if operation["operationId"] not in {"isAlive", "readIndex"}:
            content = operation["responses"]["503"]["content"]
            assert content == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_references_lead_somewhere() -> None:
    """No reference in the document is dangling, and the framework's own error shapes are not in it."""
    document = assemble().openapi()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas
    assert "HTTPValidationError" not in text
