"""Connections to web servers, for whoever speaks HTTP: they lead where they should, wait no longer than they
may, and fail with one kind of error.
"""

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

# The first that fits.
_REASONS = (
    (exceptions.NameResolutionError, "its name is not known here: check the address and the network"),
    (exceptions.NewConnectionError, "no connection: check that the server runs and can be reached"),
    (exceptions.ConnectTimeoutError, "no connection in time: check that the server can be reached"),
    (exceptions.ReadTimeoutError, "the server fell silent, or is too slow: try again"),
    (exceptions.ProxyError, "the proxy does not lead there: check https_proxy, http_proxy and no_proxy"),
    (exceptions.SSLError, "it does not prove who it is: check its certificate and this robot's clock"),
    (Exception, "the connection was cut, or the answer is no HTTP: try again"),
)


class Timeouts:
    """Until when the next bytes, or all headers, must be there.

    The time-out of a socket begins anew with every byte: who sends a byte now and then, as a header, a chunk
    or a trailer without end, would never be found too slow.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        """Begin to wait anew."""
        self._until = self._clock.monotonic() + self._seconds

    def check(self) -> None:
        """Raises TimeoutError if it has been too long."""
        if self._clock.monotonic() > self._until:
            raise TimeoutError("slow")


class _Impatient(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, patience: Timeouts) -> None:
        self._raw = raw
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        self._patience.check()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Connections:
    """Connections to a web server, through the proxy that the environment names.

    Args:
        connect_s, read_s: the longest to get a connection, and to wait for bytes or for all headers.

    Attributes:
        patience: of ``read_s``, to be renewed where an answer may be long.

    Raises:
        UpdateError: that is no address of a web server, or the proxy cannot be used.
    """

    def __init__(self, base_url: str, *, connect_s: float, read_s: float, clock: Clock) -> None:
        self.patience = Timeouts(clock, read_s)
        self._timeout = urllib3.Timeout(connect=connect_s, read=read_s)
        try:
            self._pools = _pools(base_url, self.patience)
        except exceptions.HTTPError as error:
            raise UpdateError(f"{base_url}: cannot be used: {error}") from error

    def ask(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> BaseHTTPResponse:
        """An answer that is to be read, whatever it says; to be closed. Fails as :func:`told` knows it."""
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


def _pools(base_url: str, patience: Timeouts) -> urllib3.PoolManager:
    parts = parse_url(base_url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UpdateError(f"{base_url}: is no address of a web server: give https://… or http://…")
    if parts.auth or parts.query is not None or parts.fragment is not None:
        raise UpdateError(
            f"the address of a web server ({parts.host}) may have no user, no '?' and no '#': give the "
            "plain address of the folder"
        )

    class Response(http.client.HTTPResponse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            patience.renew()
            self.fp = io.BufferedReader(_Impatient(self.fp.detach(), patience))

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
def told(url: str) -> Iterator[None]:
    """Whatever goes wrong with a connection to ``url`` becomes a FetchError that says why, and what to do."""
    try:
        yield
    except (exceptions.HTTPError, OSError) as error:
        reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
        raise FetchError(f"{url}: {reason} ({_detail(error)})") from error


def answer_in_words(url: str, status: int, headers: Mapping[str, str]) -> str:
    """What a server says that does not give what it was asked for.

    Raises:
        BusyError: that it wants to be left alone for a while.
    """
    said = f"{url}: the server says {status} ({http.client.responses.get(status, 'of unknown meaning')})"
    after = headers.get("Retry-After", "")
    if status in (429, 503) and after.isascii() and after.isdecimal() and len(after) < 10:
        raise BusyError(f"{said}: asked to come back after {after} s", float(after))
    return said


def _detail(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
