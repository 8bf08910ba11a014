"""Query parameters that tell no two pages apart, taken out of URLs by a job's setting."""

from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_plus

import re2

MAX_DROPPED: Final = 64
"""Names of parameters that a crawl drops, at most."""
MAX_NAME_CHARS: Final = 64


def without_params(url: str, names: tuple[str, ...]) -> str:
    """Leaves the named parameters out of a canonical URL; all others stay as they are written, in their order.

    Args:
        url: Canonical.
        names: Names of parameters, as they read decoded; `*` stands for any characters. Upper and lower case are two
            things, as they are for servers.
    """
    place, mark, query = url.partition("?")
    if not mark or not names:
        return url
    dropped = _pattern(names)
    parts = query.split("&")
    kept = [part for part in parts if not dropped.fullmatch(unquote_plus(part.partition("=")[0]))]
    if len(kept) == len(parts):
        return url
    return f"{place}?{'&'.join(kept)}" if any(kept) else place


@lru_cache(maxsize=64)
def _pattern(names: tuple[str, ...]) -> Any:
    """One pattern for all names: RE2's, since they come from a request, and it matches in linear time."""
    engine: Any = re2  # comes without types
    options = engine.Options()
    options.dot_nl = True
    return engine.compile("|".join(engine.escape(name).replace(r"\*", ".*") for name in names), options)
