"""What a new installation needs once: tables in Postgres; search attributes and the schedule in Temporal.

The embedded stack does this at each start; elsewhere it is `ke init`, which may be repeated at will.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ke.contracts.errors import InvalidInput, TemporalUnavailable
from ke.contracts.naming import SEARCH_ATTRIBUTES
from ke.runtime.endpoints import resolve
from ke.runtime.schedule import set_reconcile_schedule
from ke.runtime.settings import Settings
from ke.runtime.temporal_client import RPC_TIMEOUT, connect, translated_rpc_errors
from ke.storage.database import migrate

VISIBLE_WITHIN_S: Final = 30.0
"""Seconds until every frontend knows a new search attribute; Temporal refreshes its caches within 10 s or so."""
_POLL_S: Final = 0.5
_KEYWORD: Final = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `initialise` has made sure of."""

    temporal_address: str
    temporal_namespace: str
    search_attributes_added: tuple[str, ...]
    """Those that were not there before."""
    reconcile_every_s: int
    """Seconds between two runs of the schedule that reconciles; 0: there is none."""


async def initialise(settings: Settings) -> Initialised:
    """Bring the database to the newest schema, register the search attributes and set the schedule that reconciles.

    What is there already stays as it is, but for the schedule, which becomes what the settings say.

    Raises:
        Unavailable: Postgres or Temporal did not answer, or nothing says where they are.
        InvalidInput: A setting does not fit, or a search attribute exists with another type.
    """
    where = resolve(settings)
    await migrate(where.database_url)
    client = await connect(where.temporal_address, settings)
    added = await register_search_attributes(client, where.temporal_namespace)
    await set_reconcile_schedule(client, settings)
    return Initialised(where.temporal_address, where.temporal_namespace, added, settings.reconcile_every_s)


async def register_search_attributes(client: Client, namespace: str) -> tuple[str, ...]:
    """Register the search attributes of our jobs that are missing, and wait until they can be used.

    Args:
        client: A client of the Temporal service.
        namespace: Where to register them.

    Returns:
        The names of those that were missing.

    Raises:
        InvalidInput: One exists with another type, or this client may not register any.
        TemporalUnavailable: Temporal did not answer, or they were not there after `VISIBLE_WITHIN_S` seconds.
    """
    missing = await _missing(client, namespace)
    if not missing:
        return ()
    request = AddSearchAttributesRequest(namespace=namespace, search_attributes=dict.fromkeys(missing, _KEYWORD))
    with translated_rpc_errors():
        try:
            await client.operator_service.add_search_attributes(request, timeout=RPC_TIMEOUT)
        except RPCError as error:
            if error.status is RPCStatusCode.PERMISSION_DENIED:
                names = ", ".join(f"{name} (Keyword)" for name in missing)
                raise InvalidInput(
                    f"This account may not add search attributes to namespace {namespace!r}; add them by hand: {names}"
                ) from error
            if error.status is not RPCStatusCode.ALREADY_EXISTS:
                raise
    await _until_visible(client, namespace)
    return missing


async def _missing(client: Client, namespace: str) -> tuple[str, ...]:
    with translated_rpc_errors():
        known = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=namespace), timeout=RPC_TIMEOUT
        )
    types = known.custom_attributes
    for key in SEARCH_ATTRIBUTES:
        if key.name in types and types[key.name] != _KEYWORD:
            raise InvalidInput(
                f"Search attribute {key.name} exists in namespace {namespace!r} with another type than Keyword"
            )
    return tuple(key.name for key in SEARCH_ATTRIBUTES if key.name not in types)


async def _until_visible(client: Client, namespace: str) -> None:
    try:
        async with asyncio.timeout(VISIBLE_WITHIN_S):
            while await _missing(client, namespace):  # noqa: ASYNC110  (another machine's state: it can only be asked)
                await asyncio.sleep(_POLL_S)
    except TimeoutError as error:
        raise TemporalUnavailable("Temporal has not taken over the new search attributes in time.") from error
