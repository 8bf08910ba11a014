"""Deterministic ids, so that whatever is done twice has one effect.

Every id is a version 5 UUID (RFC 9562) of its parts within one namespace. Parts are joined with an ASCII
unit separator, which none of them contains, so different parts never give the same name.
"""

import uuid
from typing import Final

_NAMESPACE: Final = uuid.UUID("6e6b1f0c-3b0a-5c0e-9a63-2f3d0c1f7a55")
_SEPARATOR: Final = "\x1f"


def _named(kind: str, *parts: str | int) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, _SEPARATOR.join((kind, *map(str, parts))))


def job_id_for_key(tenant: str, idempotency_key: str) -> uuid.UUID:
    """The job that a tenant's `Idempotency-Key` names."""
    return _named("job", tenant, idempotency_key)


def page_id(job_id: uuid.UUID, url: str) -> uuid.UUID:
    """The frontier entry of a canonical URL; unique per job."""
    return _named("page", job_id.hex, url)


def source_id(job_id: uuid.UUID, url: str) -> uuid.UUID:
    """The source that a job stored from a canonical URL."""
    return _named("source", job_id.hex, url)


def extraction_id(
    job_id: uuid.UUID, source_id: uuid.UUID, content_hash: bytes, chunk_number: int, embedder: str
) -> uuid.UUID:
    """The extraction of one chunk, which is also the id of its point in the vector store."""
    return _named("extraction", job_id.hex, source_id.hex, content_hash.hex(), chunk_number, embedder)


def entity_id(extraction_id: uuid.UUID, start: int, end: int, label: str) -> uuid.UUID:
    """One mention of an entity, by its place in its chunk."""
    return _named("entity", extraction_id.hex, start, end, label)


def merged_entity_id(project: str, label: str, key: str) -> uuid.UUID:
    """The entity that all mentions with this label and merge key have in common, in one project."""
    return _named("merged-entity", project, label, key)


def record_id(job_id: uuid.UUID, source_id: uuid.UUID, schema_hash: bytes, number: int) -> uuid.UUID:
    """One of the records that a job made of a source by a schema, by its place among them."""
    return _named("record", job_id.hex, source_id.hex, schema_hash.hex(), number)


def dead_letter_id(job_id: uuid.UUID, subject: str, subject_id: uuid.UUID) -> uuid.UUID:
    """The one dead letter of a page or a source that failed for good."""
    return _named("dead-letter", job_id.hex, subject, subject_id.hex)
