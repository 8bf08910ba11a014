"""Every setting there is, in one place: `KE_` and its name in capitals, from the environment."""

import logging
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ke.contracts.naming import TaskQueue
from ke.wrong_values import detail_of

_MAX_PORT: Final = 65535
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s:/@?#\\\[\]]+")
"""A name, an IPv4 address, or an IPv6 address in brackets."""


class Settings(BaseSettings):
    """The settings of all of `ke`'s processes.

    Raises:
        pydantic.ValidationError: A value does not fit; its message names the setting.
    """

    model_config = SettingsConfigDict(env_prefix="KE_", frozen=True, populate_by_name=True)

    # Where things are
    data_dir: Path = Path(".ke")
    """The folder of the embedded stack; also where `endpoints.json` is looked for."""
    api_url: str | None = None
    """The gateway that the CLI and the MCP tools talk to; else the one in `endpoints.json`."""
    temporal_address: str | None = None
    """host:port of Temporal's frontend; unset: the embedded one."""
    temporal_namespace: str = "default"
    temporal_api_key: SecretStr | None = None
    """API key for Temporal Cloud; turns TLS on."""
    temporal_tls: bool = False
    database_url: SecretStr | None = None
    """postgresql://user:password@host:port/name; unset: the embedded one."""
    qdrant_url: str | None = None
    """http://host:6333 of a Qdrant server; unset: the embedded engine."""
    qdrant_api_key: SecretStr | None = None
    vectors_socket: Path | None = None
    """The Unix socket of the embedded engine's process; unset: the one in `endpoints.json`."""

    # The embedded stack
    api_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the gateway; 0: any free one."""
    ui_port: Annotated[int, Field(ge=0, le=65535)] = 8233
    """Port of Temporal's web UI; 0: any free one."""
    temporal_port: Annotated[int, Field(ge=0, le=65535)] = 7233
    """Port of Temporal's frontend; 0: any free one."""
    workers: Annotated[int, Field(ge=0, le=64)] = 1
    """Worker processes that `ke up` starts, beside the one for workflows; 0: none at all."""
    temporal_cli: Path | None = None
    """The `temporal` binary to use, before any other."""

    # The gateway
    api_hosts: Annotated[frozenset[str], NoDecode] = frozenset({"127.0.0.1", "localhost", "[::1]"})
    """Host names, comma-separated and without ports, that the gateway answers for; `*`: all."""

    # Reconciliation
    reconcile_every_s: Annotated[int, Field(ge=0, le=31_536_000)] = 900
    """Seconds between two reconciliations by the schedule; 0: none."""
    reconcile_max_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    """The largest share of a store that a reconciliation deletes without being told; 1: anything."""

    # Work
    task_queues: Annotated[tuple[TaskQueue, ...], NoDecode] = tuple(TaskQueue)
    """The task queues a worker serves, comma-separated."""
    heartbeat_cap_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    """Seconds between two heartbeats, at most; a cancel is seen at the next one. The embedded stack sets 0.2."""
    collect_shards: Annotated[int, Field(ge=1, le=64)] = 4
    """Shards of hosts in which a crawl of several hosts goes on, on as many workers; 1: none is split."""
    cpu_processes: Annotated[int | None, Field(ge=1, le=64)] = None
    """Processes for parsing and embedding in each worker; unset: one for each core."""
    entity_processes: Annotated[int | None, Field(ge=1, le=64)] = None
    """Processes for finding entities in each worker; unset: as many as for parsing and embedding."""
    graceful_shutdown_s: Annotated[float, Field(ge=0, le=600)] = 20.0
    """Seconds a worker gives its activities to hand back their work on SIGTERM."""
    fetch_allow: Annotated[frozenset[str], NoDecode] = frozenset()
    """Exact host:port pairs, comma-separated, that may be fetched though they are not public."""
    user_agent: str = "ke/0.1"
    """What the fetcher calls itself; robots.txt groups are chosen by the part before the slash."""
    fetch_timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Seconds for one request, redirects and body included."""
    fetch_max_bytes: Annotated[int, Field(ge=1024)] = 10_000_000
    """The longest body, decompressed, in bytes."""
    chromium: str | None = None
    """The Chromium that shows pages for jobs that ask for it, by path or name; unset: looked for on PATH."""
    llm_url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, before `/chat/completions`; without a path it is `/v1`."""
    llm_api_key: SecretStr | None = None
    llm_model: str | None = None
    """The model of jobs that name none."""
    llm_concurrency: Annotated[int, Field(ge=1, le=256)] = 4
    """Calls at once, of each worker."""
    llm_timeout_s: Annotated[float, Field(gt=0, le=600)] = 60.0
    """Seconds for one call."""
    llm_max_output_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 4096
    """What a model may answer to one call, in tokens."""
    llm_max_chars: Annotated[int, Field(ge=1000, le=10_000_000)] = 48_000
    """Characters of a source in one call: what the model's context holds beside schema and answer."""
    llm_price_in: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Of a million tokens of questions, in any currency."""
    llm_price_out: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Of a million tokens of answers."""
    log_level: str = "INFO"

    @field_validator("data_dir", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        return Path(".ke") if value == "" else value

    @field_validator("task_queues", mode="before")
    @classmethod
    def _split_queues(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("task_queues")
    @classmethod
    def _check_queues(cls, value: tuple[TaskQueue, ...]) -> tuple[TaskQueue, ...]:
        if not value:
            raise ValueError(f"names no task queue; there are {', '.join(TaskQueue)} (unset: all)")
        return value

    @field_validator("api_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return frozenset(part.strip().lower() for part in value.split(",") if part.strip())

    @field_validator("fetch_allow", mode="before")
    @classmethod
    def _split_allow(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = frozenset(part.strip().lower() for part in value.split(",") if part.strip())
        for pair in pairs:
            _check_host_port(pair)
        return pairs

    @field_validator(
        "temporal_address",
        "database_url",
        "qdrant_url",
        "chromium",
        "llm_url",
        "llm_api_key",
        "llm_model",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("temporal_address")
    @classmethod
    def _check_temporal_address(cls, value: str | None) -> str | None:
        if value is not None:
            _check_host_port(value)
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            # What commands without a database need not wait for.
            from sqlalchemy import exc, make_url  # noqa: PLC0415

            try:
                backend = make_url(value.get_secret_value()).get_backend_name()
            except (ValueError, exc.ArgumentError):
                backend = ""
            if backend not in {"postgresql", "postgres"}:
                # Without the value: there is a password in it.
                raise ValueError("is not postgresql://user:password@host:port/name")
        return value

    @field_validator("qdrant_url")
    @classmethod
    def _check_qdrant_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
            except ValueError:
                fits = False
            if not (fits and value.isprintable() and " " not in value):
                raise ValueError("is not http://host:port or https://host:port")
        return value

    @field_validator("llm_url")
    @classmethod
    def _check_llm_url(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parts = urlsplit(value)
                fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
                fits = fits and parts.username is None and not (parts.query or parts.fragment)
            except ValueError:
                fits = False
            if not (fits and value.isprintable() and " " not in value):
                # Without the value: there may be a password in it.
                raise ValueError("is not http://host/v1 or https://host/v1, without user, query and fragment")
        return value

    @field_validator("llm_api_key")
    @classmethod
    def _check_llm_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = value.get_secret_value() if value is not None else "unset"
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise ValueError("must be printable ASCII without spaces: it is sent as a header")
        return value

    @field_validator("user_agent")
    @classmethod
    def _check_user_agent(cls, value: str) -> str:
        if not (value.strip() and value.isascii() and value.isprintable()):
            raise ValueError("must be printable ASCII, and not empty: it is sent as a header")
        return value

    @field_validator("log_level")
    @classmethod
    def _check_log_level(cls, value: str) -> str:
        if value.upper() not in logging.getLevelNamesMapping():
            raise ValueError(f"{value!r} is no log level; there are DEBUG, INFO, WARNING, ERROR, CRITICAL")
        return value

    @cached_property
    def endpoints_file(self) -> Path:
        """The file by which a running embedded stack is found."""
        return self.data_dir / "endpoints.json"


def _check_host_port(text: str) -> None:
    host, _, port = text.rpartition(":")
    fits = _HOST.fullmatch(host) and re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) <= _MAX_PORT
    if not fits:
        raise ValueError(f"{text!r} is not host:port, with a port of 1 to {_MAX_PORT} and no scheme or path")


def describe_invalid_settings(error: ValidationError) -> str:
    """One line that names each setting that does not fit, and why."""
    faults = error.errors(include_url=False, include_input=False)
    return "; ".join(
        f"KE_{'_'.join(map(str, fault['loc']))}".upper() + f": {detail_of(fault).removesuffix('.')}" for fault in faults
    )
