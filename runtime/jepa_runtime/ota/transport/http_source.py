"""A web server as the source of a repository's files."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse
from urllib3.util import parse_url

from jepa_runtime.errors import FetchError
from jepa_runtime.ota.transport.connections import Connections, Timeouts, connection_errors, describe_response
from jepa_runtime.ota.transport.repository_sources import Body, Clock, Limits, NotFoundError

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
# Errors that pass within a second or two do not fail an update.
_MAX_ATTEMPTS = 3
_PAUSE_S = 0.5
_COMPRESSED_BYTES = 1 << 14
# zlib's window size for gzip headers and trailers.
_GZIP = 31
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class HttpSource:
    """A web server for static files; support for ranges is optional. JSON may be compressed (gzip).

    Certificates are verified with the system's trust store, or ``SSL_CERT_FILE``; the proxy is configured by
    ``https_proxy``, ``http_proxy`` and ``no_proxy``.

    Args:
        base_url: The http or https address that paths are relative to.
        limits: Timeouts.
        clock: The clock for timeouts and pauses.

    Raises:
        UpdateError: The address is invalid.
    """

    def __init__(self, base_url: str, limits: Limits, clock: Clock = time) -> None:
        self._base = base_url.rstrip("/") + "/"
        self._clock = clock
        self._server = Connections(base_url, connect_s=limits.connect_s, read_s=limits.read_s, clock=clock)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Open a file; see :meth:`~jepa_runtime.ota.transport.repository_sources.Source.open`."""
        # Version names may contain "+", which S3 interprets as a space.
        url = self._base + path.replace("+", "%2B")
        response = self._open(url, offset)
        try:
            start = _start(response, url, offset)
            if not offset and response.headers.get("Content-Encoding", "").lower() == "gzip":
                yield _GzipBody(response, url, start, self._server.timeouts)
            else:
                yield _HttpBody(response, url, start, self._server.timeouts)
        finally:
            response.close()

    def _open(self, url: str, offset: int) -> BaseHTTPResponse:
        redirects = failures = 0
        while True:
            response = self._request(url, offset)
            if response.status in (200, 206):
                return response
            response.close()
            message = describe_response(url, response.status, response.headers)
            if response.status in _REDIRECTS and redirects < _MAX_REDIRECTS:
                url = self._redirect_target(url, response.headers.get("Location", ""))
                redirects += 1
            elif response.status == 416 and offset:
                offset = 0
            elif response.status >= 500 and failures < _MAX_ATTEMPTS - 1:
                failures += 1
                self._clock.sleep(_PAUSE_S * failures)
            else:
                missing = response.status in (403, 404)
                error, code = (NotFoundError, "http.not_found") if missing else (FetchError, "http.status")
                raise error(message, code=code)

    def _request(self, url: str, offset: int) -> BaseHTTPResponse:
        headers = {"Accept-Encoding": "gzip"} if url.endswith(".json") else {}
        if offset:
            # A range of the file itself, not of its compressed form.
            headers = {"Range": f"bytes={offset}-"}
        with connection_errors(url):
            return self._server.request("GET", url, headers)

    def _redirect_target(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            same = _origin(target) == _origin(url)
        except ValueError:
            same = False
        if not location or not same:
            raise FetchError(
                f"{url}: the server redirects to {location or 'no location'}, which is another server or "
                "protocol: configure that address if it is the right one",
                code="http.foreign_redirect",
            )
        return target


class _HttpBody:
    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, timeouts: Timeouts) -> None:
        self._response = response
        self._url = url
        self._timeouts = timeouts
        self.offset = offset

    def read(self, n: int, /) -> bytes:
        self._timeouts.renew()
        with connection_errors(self._url):
            # read() would wait for all n bytes, however slowly they arrive.
            return self._response.read1(n) or b""


class _GzipBody(_HttpBody):
    """A compressed body.

    At most the requested number of bytes is decompressed at once. Compressed bytes without output do not
    renew the timeout.
    """

    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, timeouts: Timeouts) -> None:
        super().__init__(response, url, offset, timeouts)
        self._inflate = zlib.decompressobj(_GZIP)

    def read(self, n: int, /) -> bytes:
        self._timeouts.renew()
        with connection_errors(self._url):
            while not self._inflate.eof:
                compressed = self._inflate.unconsumed_tail or self._response.read1(_COMPRESSED_BYTES) or b""
                try:
                    content = self._inflate.decompress(compressed, n)
                except zlib.error as error:
                    raise FetchError(
                        f"{self._url}: the response is not gzip, though its headers say so: try again",
                        code="http.invalid_gzip",
                    ) from error
                if content:
                    return content
                if not compressed:
                    raise FetchError(
                        f"{self._url}: the compressed response is truncated: try again",
                        code="http.invalid_gzip",
                    )
        return b""


def _origin(url: str) -> tuple[str | None, str | None, int | None]:
    parts = parse_url(url)
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(parts.scheme or "")


def _start(response: BaseHTTPResponse, url: str, requested: int) -> int:
    if response.status == 200:
        return 0
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    start = int(match[1]) if match else -1
    if start not in (0, requested):
        raise FetchError(
            f"{url}: the server sent another range than the requested one (from {requested}): try again",
            code="http.wrong_range",
        )
    return start
