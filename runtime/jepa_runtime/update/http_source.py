"""A web server as the place where the files of a repository come from."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

from urllib3 import BaseHTTPResponse
from urllib3.util import parse_url

from jepa_runtime.errors import FetchError
from jepa_runtime.update.connections import Connections, Patience, answer_in_words, told
from jepa_runtime.update.sources import Body, Clock, Limits, NotFoundError

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 5
# What passes by itself within a second or two is no reason to give up an update.
_TRIES = 3
_PAUSE_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


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
        self._clock = clock
        self._server = Connections(base_url, connect_s=limits.connect_s, read_s=limits.read_s, clock=clock)

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Body]:
        """Begin to read a file; see :meth:`~jepa_runtime.update.sources.Source.open`."""
        # A version may have one, which S3 takes for a space.
        url = self._base + path.replace("+", "%2B")
        response = self._answer(url, offset)
        try:
            yield _HttpBody(response, url, _start(response, url, offset), self._server.patience)
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
        with told(url):
            return self._server.ask("GET", url, {"Range": f"bytes={offset}-"} if offset else {})

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
    def __init__(self, response: BaseHTTPResponse, url: str, offset: int, patience: Patience) -> None:
        self._response = response
        self._url = url
        self._patience = patience
        self.offset = offset

    def read(self, n: int, /) -> bytes:
        self._patience.renew()
        with told(self._url):
            # read() would wait until all n bytes are there, however slowly they come.
            return self._response.read1(n) or b""


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
