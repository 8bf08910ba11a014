"""Finding the gateway, and reading job ids, for all that talks to it from outside: CLI, MCP tools, examples.

`KE_API_URL` names it; else `endpoints.json` of the embedded stack in `KE_DATA_DIR` does. Both are settings like all
others (`ke.runtime.settings`); they are read here by themselves, because loading the rest takes longer than most
commands do.
"""

import json
import os
import re
import uuid
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ke.contracts.errors import InvalidInput, Unavailable
from ke.contracts.jobs import PROJECT_NAME

DEFAULT_DATA_DIR: Final = ".ke"
ENDPOINTS_FILE: Final = "endpoints.json"


_ID_PREFIXES: Final = ("job-", "cleanup-")
_RETRY_ID: Final = re.compile(r"retry-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9]{1,9}", re.ASCII)


class NoGateway(Unavailable):
    """No gateway is running here."""

    code = "no-gateway"


class BadGatewayUrl(InvalidInput):
    """The gateway's address must be an http or https URL."""

    code = "bad-gateway-url"


def job_id_of(text: str) -> str:
    """The job id in `text`: a UUID, as it is or inside the name of its workflow (`job-<id>`) or receipt.

    Raises:
        InvalidInput: There is none; so nothing but an id ever becomes part of a URL.
    """
    found = text.strip()
    for prefix in _ID_PREFIXES:
        found = found.removeprefix(prefix)
    try:
        return str(uuid.UUID(found))
    except ValueError:
        raise InvalidInput(f"{text!r} is not a job id.") from None


def source_id_of(text: str) -> str:
    """The source id in `text`: a UUID.

    Raises:
        InvalidInput: It is none; so nothing but an id ever becomes part of a URL.
    """
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise InvalidInput(f"{text!r} is not a source id.") from None


def entity_id_of(text: str) -> str:
    """The entity id in `text`: a UUID.

    Raises:
        InvalidInput: It is none.
    """
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise InvalidInput(f"{text!r} is not an entity's id.") from None


def retry_id_of(text: str) -> str:
    """The id of a retry of dead letters in `text`: `retry-<job>-<number>`.

    Raises:
        InvalidInput: It is none; so nothing but an id ever becomes part of a URL.
    """
    found = _RETRY_ID.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text!r} is not a retry's id: retry-<job>-<number>.")
    return found[0]


def project_of(text: str) -> str:
    """The name of a project in `text`.

    Raises:
        InvalidInput: No project can be called so; so nothing but a name ever becomes part of a URL.
    """
    found = text.strip()
    if not PROJECT_NAME.fullmatch(found):
        raise InvalidInput(
            f"{text!r} is no project's name: that is 1 to 64 letters, digits, . _ -, a letter or digit first"
        )
    return found


def find_gateway(api_url: str | None = None) -> str:
    """The URL of the gateway, without a slash at its end.

    Args:
        api_url: What the caller was told to use; None: look for it.

    Raises:
        NoGateway: None is named, and no embedded stack is ready in the data folder.
        BadGatewayUrl: What names it is no http or https URL.
    """
    named = api_url or os.environ.get("KE_API_URL")
    return _checked(named or _of_embedded_stack())


def without_password(url: str) -> str:
    """The URL for people to read: of `user:password@host` the host alone is left."""
    # Up to the last @, so that a password with a slash in it is not told either.
    return re.sub(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", r"\1", url, flags=re.DOTALL)


def _of_embedded_stack() -> str:
    folder = Path(os.environ.get("KE_DATA_DIR") or DEFAULT_DATA_DIR)
    path = folder / ENDPOINTS_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NoGateway(
            f"No gateway is running here: KE_API_URL is not set and there is no {path}. Start one with `ke up`."
        ) from None
    except (OSError, ValueError) as error:
        raise NoGateway(f"{path} cannot be read: {error}") from error
    api = content.get("api") if isinstance(content, dict) else None
    if not isinstance(api, str):
        raise NoGateway(f"{path} does not say where the gateway is.")
    return api


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise BadGatewayUrl(f"The gateway's address must be an http or https URL, not {without_password(url)!r}.")
    return url.rstrip("/")
