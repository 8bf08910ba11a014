"""What the client's methods stand on: its errors, and one call with its deadline."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx

from ke.client_types import Page
from ke.gateway import without_password

ItemT = TypeVar("ItemT")

DEFAULT_TIMEOUT_S: Final = 30.0


class ClientError(Exception):
    """A call to the gateway failed."""


class RequestRefused(ClientError):
    """The request cannot be sent as it is written."""


class GatewayUnreachable(ClientError):
    """The gateway did not answer."""


class ApiError(ClientError):
    """The gateway refused; the members of its problem document (RFC 9457) are here as they came.

    Attributes:
        type: The problem's stable URI: tell problems apart by this, never by text.
        title: The same for every problem of this type.
        status: The HTTP status.
        detail: What is wrong with this very request.
        problem: The whole document.
        retry_after_s: Seconds after which another try makes sense, where the gateway said so.
    """

    def __init__(self, problem: Mapping[str, Any], status: int, *, retry_after_s: float | None = None) -> None:
        self.problem = dict(problem)
        self.type = str(problem.get("type", "about:blank"))
        self.title = str(problem.get("title", ""))
        self.status = status
        self.detail = str(problem.get("detail") or self.title)
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.detail} ({status}, {self.type})")


class Calls:
    """The connection to one gateway, and one call over it.

    Args:
        base_url: http://host:port of the gateway.
        timeout_s: Seconds for one call; a call that asks the gateway to wait gets that time on top.
        transport: For tests: where requests go instead of the network.
    """

    def __init__(
        self,
        base_url: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._base_url = without_password(base_url)
        self._http = httpx.AsyncClient(
            base_url=base_url,
            timeout=httpx.Timeout(timeout_s, connect=min(5.0, timeout_s)),
            headers={"Accept": "application/json"},
            transport=transport,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    async def _list(self, path: str, limit: int, cursor: str | None, **filters: Any) -> Any:
        return await self._call("GET", path, params={"limit": limit, "cursor": cursor, **filters})

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        headers: dict[str, str] | None = None,
        wait_s: float = 0,
        repeatable: bool = False,
    ) -> Any:
        """Sends one request; when the connection broke and a repeat is safe, once more."""
        given = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            request = self._http.build_request(
                method,
                path,
                params=given or None,
                json=json,
                headers=headers,
                timeout=httpx.Timeout(self._timeout_s + wait_s, connect=min(5.0, self._timeout_s)),
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise _refused(error) from error
        try:
            response = await self._http.send(request)
        except httpx.LocalProtocolError as error:
            raise _refused(error) from error
        except (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError) as error:
            if not (repeatable or method == "GET"):
                raise GatewayUnreachable(f"The connection to {self._base_url} broke: {error}") from error
            response = await self._send_again(request)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        return _content(response)

    async def _send_again(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._http.send(request)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> GatewayUnreachable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return GatewayUnreachable(f"The gateway at {self._base_url} did not answer in time.")
        return GatewayUnreachable(f"There is no connection to the gateway at {self._base_url}: {error}")


def segment(name: str) -> str:
    """An id as one segment of a path: whatever it contains, it leads nowhere else."""
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise _refused(error) from error


def _refused(error: Exception) -> RequestRefused:
    if isinstance(error, UnicodeEncodeError):
        return RequestRefused("The request holds text that is not valid Unicode, such as bytes that are not UTF-8.")
    return RequestRefused(f"The request cannot be sent as it is written: {error}")


def _content(response: httpx.Response) -> Any:
    """The body of a good answer.

    Raises:
        ApiError: The answer is a problem, or none that this gateway gives.
    """
    if response.status_code == httpx.codes.NO_CONTENT:
        return None
    try:
        content = response.json()
    except ValueError:
        content = None
    if response.is_success and content is not None:
        return content
    if not isinstance(content, dict):
        content = {
            "title": response.reason_phrase,
            "detail": f"{without_password(str(response.url))} is not an API of ke",
        }
    after = response.headers.get("Retry-After", "")
    raise ApiError(content, response.status_code, retry_after_s=float(after) if after.isdigit() else None)


async def each(fetch: Callable[[str | None], Awaitable[Page[ItemT]]]) -> AsyncIterator[ItemT]:
    """Every item of a list, part by part."""
    cursor: str | None = None
    while True:
        page = await fetch(cursor)
        for item in page["data"]:
            yield item
        cursor = page["next_cursor"]
        if cursor is None:
            return
