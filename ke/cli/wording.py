"""What the API says in terms of HTTP and JSON, in terms of the command line: options, and commands."""

import re
from typing import Final

_OPTIONS: Final = {
    "browser": "--browser",
    "chunk_size": "--chunk-size",
    "chunk_tokens": "--chunk-tokens",
    "concurrency": "--concurrency",
    "cursor": "--cursor",
    "date_from": "--date-from",
    "date_to": "--date-to",
    "delay_s": "--delay",
    "drop_params": "--drop-param",
    "embedder": "--embedder",
    "entities": "--no-entities",
    "entity": "--entity",
    "entity_label": "--entity-label",
    "error_type": "--error-type",
    "exclude": "--exclude",
    "Idempotency-Key": "--key",
    "ids": "--id",
    "include": "--include",
    "instructions": "--instructions",
    "job_ids": "--job",
    "label": "--label",
    "labels": "--label",
    "language": "--language",
    "limit": "--limit",
    "max_bytes": "--max-bytes",
    "max_depth": "--max-depth",
    "max_pages": "--max-pages",
    "max_seconds": "--max-seconds",
    "max_gone_share": "--max-gone-share",
    "max_share": "--max-share",
    "max_tokens": "--max-tokens",
    "model": "--model",
    "project": "--project",
    "q": "--name",
    "query": "QUERY",
    "reading": "--reading",
    "reason": "--reason",
    "recrawl_of": "--recrawl-of",
    "forget_replaced": "--forget-replaced",
    "rerank": "--rerank",
    "robots": "--no-robots",
    "same_host": "--any-host",
    "schema": "--schema",
    "seeds": "URL",
    "sitemaps": "--no-sitemaps",
    "source_ids": "--source",
    "source_job_id": "JOB",
    "state": "--state",
    "subject": "--subject",
    "url_prefix": "--url-prefix",
    "urls": "URL",
}
"""The fields and parameters of the API, by the options that stand for them."""
_GROUPS: Final = ("extract", "limits", "rate", "scope")
_IN_TEXT: Final = re.compile(r"\b(" + "|".join(name for name in _OPTIONS if "_" in name) + r")\b")
_COMMANDS: Final = (
    (re.compile(r"\bPOST /jobs/([\w-]+)/cleanup\b"), r"ke jobs cleanup \1"),
    (re.compile(r"\bDELETE with \?cleanup=true\b"), "Delete with --cleanup"),
    (re.compile(r"\?cleanup=true\b"), "--cleanup"),
    (re.compile(r"\?cleanup=false\b"), "--keep-artifacts"),
    (re.compile(r"\bGET /cleanups/([\w.-]*\w)"), r"ke receipts get \1"),
)


def option_of(place: str) -> str:
    """The option or argument for a JSON pointer into a body, or a parameter's name; the place itself where none is.

    Of a list of URLs it says which one: `URL 3`. Of a label its name: `--label team`.
    """
    head, *rest = [step for step in place.split("/") if step not in _GROUPS and step] or [""]
    option = _OPTIONS.get(head)
    if option is None:
        return place
    if rest and rest[0].isdigit() and option == "URL":
        return f"URL {int(rest[0]) + 1}"
    return f"{option} {rest[0]}" if rest and head == "labels" else option


def as_commands(text: str) -> str:
    """A sentence of the API's with the commands in the place of its routes, and options in that of its fields."""
    for route, command in _COMMANDS:
        text = route.sub(command, text)
    return _IN_TEXT.sub(lambda found: _OPTIONS[found[0]], text)
