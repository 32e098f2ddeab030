"""A web server as the place where the files of a repository come from."""

from __future__ import annotations

import http.client
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse
from urllib3.util import parse_url

from jepa_runtime.errors import FetchError, UpdateError
from jepa_runtime.update.sources import Body, Clock, Limits, NotFoundError

_HEADERS = {"User-Agent": "jepa-edge", "Accept-Encoding": "identity"}
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
# What passes by itself within a second or two is no reason to give up an update.
_TRIES = 3
_PAUSE_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")
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


class HttpSource:
    """A web server. It needs to know nothing but files; that it answers to ranges saves time.

    Certificates are verified with those that the system trusts, or ``SSL_CERT_FILE``; a proxy is taken from
    ``https_proxy``, ``http_proxy`` and ``no_proxy``.

    Args:
        base_url: what the paths are relative to, http or https.

    Raises:
        UpdateError: that is no such address.
    """

    def __init__(self, base_url: str, limits: Limits, clock: Clock = time) -> None:
        self._base = base_url.rstrip("/") + "/"
        self._limits = limits
        self._clock = clock
        self._patience = _Patience(clock, limits.read_s)
        try:
            self._pools = _pools(*_checked(self._base), self._patience)
        except exceptions.HTTPError as error:
            raise UpdateError(f"{base_url}: cannot be used: {error}") from error

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file; see :meth:`~jepa_runtime.update.sources.Source.open`."""
        url = self._base + path
        response = self._answer(url, offset)
        try:
            yield _HttpBody(response, url, _start(response, url, offset), self._patience)
        finally:
            response.close()

    def _answer(self, url: str, offset: int) -> BaseHTTPResponse:
        redirects = failures = 0
        while True:
            response = self._request(url, offset)
            if response.status in (200, 206):
                return response
            response.close()
            if response.status in _REDIRECTS and redirects < _MAX_REDIRECTS:
                url = self._followed(url, response.headers.get("Location", ""))
                redirects += 1
            elif response.status == 416 and offset:
                offset = 0
            elif response.status >= 500 and failures < _TRIES - 1:
                failures += 1
                self._clock.sleep(_PAUSE_S * failures)
            else:
                kind = NotFoundError if response.status in (403, 404) else FetchError
                reason = http.client.responses.get(response.status, "of unknown meaning")
                raise kind(f"{url}: the server says {response.status} ({reason})")

    def _request(self, url: str, offset: int) -> BaseHTTPResponse:
        with _told(url):
            return self._pools.urlopen(
                "GET",
                url,
                headers=_HEADERS | ({"Range": f"bytes={offset}-"} if offset else {}),
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self._limits.connect_s, read=self._limits.read_s),
            )

    def _followed(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            same = _origin(target) == _origin(url)
        except ValueError:
            same = False
        if not location or not same:
            raise FetchError(
                f"{url}: the server sends us on to {location or 'nowhere'}, which is another server or "
                "protocol: give that address if it is the right one"
            )
        return target


class _HttpBody:
    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, patience: _Patience) -> None:
        self._response = response
        self._url = url
        self._patience = patience
        self.offset = offset

    def read(self, n: int, /) -> bytes:
        self._patience.renew()
        with _told(self._url):
            # read() would wait until all n bytes are there, however slowly they come.
            return self._response.read1(n) or b""


class _Patience:
    """Until when the next bytes, or all headers, must be there.

    The time-out of a socket begins anew with every byte: who sends a byte now and then, as a header, a chunk
    or a trailer without end, would never be found too slow.
    """

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._until = self._clock.monotonic() + self._seconds

    def check(self) -> None:
        if self._clock.monotonic() > self._until:
            raise TimeoutError("slow")


class _Impatient(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, patience: _Patience) -> None:
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


def _pools(scheme: str, host: str, patience: _Patience) -> urllib3.PoolManager:
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

    proxies = {} if proxy_bypass(host) else getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    pools = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
    pools.pool_classes_by_scheme = {"http": HttpPool, "https": HttpsPool}
    return pools


def _checked(base_url: str) -> tuple[str, str]:
    parts = parse_url(base_url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise UpdateError(f"{base_url}: is no address of a web server: give https://… or http://…")
    if parts.auth or parts.query is not None or parts.fragment is not None:
        raise UpdateError(
            f"the address of a web server ({parts.host}) may have no user, no '?' and no '#': give the "
            "plain address of the folder"
        )
    return parts.scheme, parts.host


def _origin(url: str) -> tuple[str | None, str | None, int | None]:
    parts = parse_url(url)
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(parts.scheme or "")


def _start(response: BaseHTTPResponse, url: str, asked: int) -> int:
    if response.status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start = int(match[1]) if match else -1
    if start not in (0, asked):
        raise FetchError(
            f"{url}: the server sends other bytes than those asked for (from {asked}): try again"
        )
    return start


@contextmanager
def _told(url: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.HTTPError, OSError) as error:
        reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
        raise FetchError(f"{url}: {reason} ({_detail(error)})") from error


def _detail(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error)
