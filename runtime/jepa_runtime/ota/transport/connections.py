"""Connections to web servers: restricted to one server, with timeouts, and with one type of error."""

from __future__ import annotations

import http.client
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import BaseHTTPResponse, exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.ota.transport.repository_sources import BusyError, Clock

# The first match counts.
_REASONS = (
    (
        exceptions.NameResolutionError,
        "http.unknown_host",
        "unknown host name: check the address and the network",
    ),
    (exceptions.NewConnectionError, "http.no_connection", "no connection: check that the server is running"),
    (exceptions.ConnectTimeoutError, "http.connect_timeout", "connection timed out: check the server"),
    (exceptions.ReadTimeoutError, "http.read_timeout", "the server is silent or too slow: try again"),
    (exceptions.ProxyError, "http.proxy", "the proxy failed: check https_proxy, http_proxy and no_proxy"),
    (exceptions.SSLError, "http.certificate", "invalid certificate: check it, and this robot's clock"),
    (Exception, "http.connection_lost", "the connection was lost, or the response is not HTTP: try again"),
)


class Timeouts:
    """The deadline for the next bytes, or for all headers.

    The timeout of a socket restarts with every byte. A server that sends an endless header, chunk or trailer
    byte by byte would never exceed it.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Restart the timeout."""
        self._until = self._clock.monotonic() + self._seconds

    def check(self) -> None:
        """Raise TimeoutError if the deadline has passed."""
        if self._clock.monotonic() > self._until:
            raise TimeoutError("slow")


class _DeadlineReader(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, timeouts: Timeouts) -> None:
        self._raw = raw
        self._timeouts = timeouts

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._timeouts.check()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Connections:
    """Connections to a web server, through the proxy from the environment.

    Args:
        base_url: The address of the server.
        connect_s: Timeout of a connection.
        read_s: Timeout for the next bytes, or for all headers.
        clock: The clock for timeouts.

    Attributes:
        timeouts: The timeout of ``read_s``, to be renewed during a long response.

    Raises:
        UpdateError: The address is invalid, or the proxy cannot be used.
    """

    def __init__(self, base_url: str, *, connect_s: float, read_s: float, clock: Clock) -> None:
        self.timeouts = Timeouts(clock, read_s)
        self._timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        try:
            self._pools = _pools(base_url, self.timeouts)
        except exceptions.HTTPError as error:
            raise UpdateError(f"{base_url}: cannot connect: {error}", code="http.invalid_proxy") from error

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> BaseHTTPResponse:
        """Return an open response with any status; errors are those of :func:`connection_errors`."""
        return self._pools.urlopen(
            method,
            url,
            body=body,
            headers={"User-Agent": "jepa-edge", "Accept-Encoding": "identity"} | dict(headers),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=self._timeout,
        )


def _pools(base_url: str, timeouts: Timeouts) -> urllib3.PoolManager:
    parts = parse_url(base_url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UpdateError(
            f"{base_url}: not the address of a web server: use https://… or http://…",
            code="http.invalid_address",
        )
    if parts.auth or parts.query is not None or parts.fragment is not None:
        raise UpdateError(
            f"the address of a web server ({parts.host}) must not have a user, '?' or '#': use the plain "
            "address of the folder",
            code="http.invalid_address",
        )

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            timeouts.renew()
            self.fp = io.BufferedReader(_DeadlineReader(self.fp.detach(), timeouts))

    class Http(HTTPConnection):
        response_class = Response

    class Https(HTTPSConnection):
        response_class = Response

    class HttpPool(HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(HTTPSConnectionPool):
        ConnectionCls = Https

    proxies = {} if proxy_bypass(parts.host) else getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    manager = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
    manager.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
    return manager


@contextmanager
def connection_errors(url: str) -> Iterator[None]:
    """Convert errors of a connection to ``url`` into FetchError."""
    try:
        yield
    except (exceptions.HTTPError, OSError) as error:
        code, reason = next((code, reason) for kind, code, reason in _REASONS if isinstance(error, kind))
        raise FetchError(f"{url}: {reason} ({_detail(error)})", code=code) from error


def describe_response(url: str, status: int, headers: Mapping[str, str]) -> str:
    """Describe an unexpected response.

    Raises:
        BusyError: The server requests a pause.
    """
    message = f"{url}: the server responded {status} ({http.client.responses.get(status, 'unknown status')})"
    after = headers.get("Retry-After", "")
    if status in (429, 503) and after.isascii() and after.isdecimal() and len(after) < 10:
        raise BusyError(f"{message}: retry after {after} s", float(after))
    return message


def _detail(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
