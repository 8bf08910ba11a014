"""Where the running stack is: the file `endpoints.json` of the embedded one, or what the settings name."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from ke.contracts.errors import InvalidInput, Unavailable
from ke.runtime.embedded.files import write_atomically
from ke.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Pids:
    """The processes of an embedded stack."""

    ke: int
    temporal: int | None = None
    postgres: int | None = None
    vectors: int | None = None
    gateway: int | None = None
    workflows: int | None = None
    workers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What `endpoints.json` says; it is there while an embedded stack is ready."""

    api: str
    """http://127.0.0.1:PORT of the gateway."""
    temporal: str
    """host:port of Temporal's frontend."""
    temporal_ui: str
    database: str = field(repr=False)
    """postgresql://... with its password."""
    vectors: str
    """The path of the vector process's Unix socket."""
    pids: Pids

    def write(self, path: Path) -> None:
        """Writes the file whole, readable by this account alone.

        Raises:
            OSError: The folder is not writable.
        """
        write_atomically(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads the file.

        Raises:
            FileNotFoundError: There is none: no embedded stack is ready in this folder.
            InvalidInput: It is not such a file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            pids = content.pop("pids")
            return cls(**content, pids=Pids(**{**pids, "workers": tuple(pids["workers"])}))
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidInput(f"{path} cannot be read as the endpoints of a stack: {error}") from error


@dataclass(frozen=True, slots=True)
class Connections:
    """What a process of ours connects to."""

    temporal_address: str
    temporal_namespace: str
    database_url: str = field(repr=False)
    qdrant_url: str | None
    """Set: a Qdrant server is used."""
    vectors_socket: Path | None
    """Set where `qdrant_url` is not: the embedded engine is used."""


def read_endpoints(settings: Settings) -> Endpoints:
    """The endpoints of the embedded stack in the data folder.

    Raises:
        Unavailable: None is ready there.
        InvalidInput: The file is not readable as such.
    """
    try:
        return Endpoints.read(settings.endpoints_file)
    except FileNotFoundError as error:
        raise Unavailable(
            f"No stack is running on {settings.data_dir.absolute()}: start one with `ke up`, or set KE_DATA_DIR"
        ) from error


def resolve_temporal(settings: Settings) -> str:
    """host:port of Temporal's frontend: the setting, else that of the running embedded stack.

    Raises:
        Unavailable: Neither is there.
        InvalidInput: `endpoints.json` is not readable as such.
    """
    return settings.temporal_address or read_endpoints(settings).temporal


def resolve(settings: Settings) -> Connections:
    """What to connect to: each setting where it is set, else what the running embedded stack says.

    Raises:
        Unavailable: Something is not set, and no embedded stack is running in the data folder.
        InvalidInput: `endpoints.json` is not readable as such.
    """
    temporal, qdrant, socket = settings.temporal_address, settings.qdrant_url, settings.vectors_socket
    database = settings.database_url.get_secret_value() if settings.database_url else None
    if temporal is None or database is None or (qdrant is None and socket is None):
        try:
            running = Endpoints.read(settings.endpoints_file)
        except FileNotFoundError as error:
            named = {"KE_TEMPORAL_ADDRESS": temporal, "KE_DATABASE_URL": database, "KE_QDRANT_URL": qdrant or socket}
            missing = ", ".join(name for name, value in named.items() if value is None)
            raise Unavailable(
                f"{missing} not set, and no stack is running on {settings.data_dir.absolute()} (`ke up`, KE_DATA_DIR)"
            ) from error
        temporal, database = temporal or running.temporal, database or running.database
        socket = socket or Path(running.vectors)
    return Connections(
        temporal_address=temporal,
        temporal_namespace=settings.temporal_namespace,
        database_url=database,
        qdrant_url=qdrant,
        vectors_socket=None if qdrant else socket,
    )
