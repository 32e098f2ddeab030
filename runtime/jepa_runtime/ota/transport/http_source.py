"""A web server as the place where the files of a repository come from."""

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
from jepa_runtime.ota.transport.connections import Connections, Timeouts, answer_in_words, told
from jepa_runtime.ota.transport.repository_sources import Body, Clock, Limits, NotFoundError

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
# What passes by itself within a second or two is no reason to give up an update.
_TRIES = 3
_PAUSE_S = 0.5
_COMPRESSED_BYTES = 1 << 14
# zlib's number for a header and trailer of gzip.
_GZIP = 31
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class HttpSource:
    """A web server. It needs to know nothing but files; that it answers to ranges saves time. JSON may come
    compressed (gzip).

    Certificates are verified with those that the system trusts, or ``SSL_CERT_FILE``; a proxy is taken from
    ``https_proxy``, ``http_proxy`` and ``no_proxy``.

    Args:
        base_url: what the paths are relative to, http or https.

    Raises:
        UpdateError: that is no such address.
    """

    def __init__(self, base_url: str, limits: Limits, clock: Clock = time) -> None:
        self._base = base_url.rstrip("/") + "/"
        self._clock = clock
        self._server = Connections(base_url, connect_s=limits.connect_s, read_s=limits.read_s, clock=clock)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file; see :meth:`~jepa_runtime.ota.transport.repository_sources.Source.open`."""
        # A version may have one, which S3 takes for a space.
        url = self._base + path.replace("+", "%2B")
        response = self._answer(url, offset)
        try:
            start = _start(response, url, offset)
            if not offset and response.headers.get("Content-Encoding", "").lower() == "gzip":
                yield _GzipBody(response, url, start, self._server.patience)
            else:
                yield _HttpBody(response, url, start, self._server.patience)
        finally:
            response.close()

    def _answer(self, url: str, offset: int) -> BaseHTTPResponse:
        redirects = failures = 0
        while True:
            response = self._request(url, offset)
            if response.status in (200, 206):
                return response
            response.close()
            said = answer_in_words(url, response.status, response.headers)
            if response.status in _REDIRECTS and redirects < _MAX_REDIRECTS:
                url = self._followed(url, response.headers.get("Location", ""))
                redirects += 1
            elif response.status == 416 and offset:
                offset = 0
            elif response.status >= 500 and failures < _TRIES - 1:
                failures += 1
                self._clock.sleep(_PAUSE_S * failures)
            else:
                raise (NotFoundError if response.status in (403, 404) else FetchError)(said)

    def _request(self, url: str, offset: int) -> BaseHTTPResponse:
        headers = {"Accept-Encoding": "gzip"} if url.endswith(".json") else {}
        if offset:
            # Of the file itself, not of a compressed form of it.
            headers = {"Range": f"bytes={offset}-"}
        with told(url):
            return self._server.ask("GET", url, headers)

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
    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, patience: Timeouts) -> None:
        self._response = response
        self._url = url
        self._patience = patience
        self.offset = offset

    def read(self, n: int, /) -> bytes:
        self._patience.renew()
        with told(self._url):
            # read() would wait until all n bytes are there, however slowly they come.
            return self._response.read1(n) or b""


class _GzipBody(_HttpBody):
    """A compressed body. What is inflated at once is never more than asked for, and bytes from which nothing
    comes do not renew the patience."""

    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, patience: Timeouts) -> None:
        super().__init__(response, url, offset, patience)
        self._inflate = zlib.decompressobj(_GZIP)

    def read(self, n: int, /) -> bytes:
        self._patience.renew()
        with told(self._url):
            while not self._inflate.eof:
                compressed = self._inflate.unconsumed_tail or self._response.read1(_COMPRESSED_BYTES) or b""
                try:
                    content = self._inflate.decompress(compressed, n)
                except zlib.error as error:
                    raise FetchError(
                        f"{self._url}: is no gzip, though the server says so: try again"
                    ) from error
                if content:
                    return content
                if not compressed:
                    raise FetchError(f"{self._url}: the compressed answer was cut: try again")
        return b""


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
