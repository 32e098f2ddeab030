"""A web server on loopback that serves a folder, with faults by path."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

# Faults that replace a correct answer.
Fault = Callable[["Request", bytes], None]


class Request(BaseHTTPRequestHandler):
    """One request and the ways to answer it."""

    protocol_version = "HTTP/1.1"
    server: FaultServer

    def do_GET(self) -> None:
        path = unquote(self.path.removeprefix("/"))
        self.server.requests.append((path, self.headers.get("Range")))
        file = self.server.folder / path
        content = file.read_bytes() if file.is_file() else None
        fault = self.server.faults.get(path, serve if content is not None else status(404))
        fault(self, content or b"")

    @property
    def offset(self) -> int:
        """Return the requested start of the content."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def head_of(self, content: bytes) -> bytes:
        """Send the headers of a correct answer and return its body."""
        if not self.offset:
            self.head(200, Content_Length=len(content))
            return content
        if self.offset >= len(content):
            self.head(416, Content_Length=0)
            return b""
        body = content[self.offset :]
        where = f"bytes {self.offset}-{len(content) - 1}/{len(content)}"
        self.head(206, Content_Length=len(body), Content_Range=where)
        return body

    def send(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def wait(self, seconds: float | None = None) -> bool:
        """Return whether the server closed meanwhile."""
        return self.server.closing.wait(seconds)

    def log_message(self, *_: object) -> None:
        pass


class Loopback(ThreadingHTTPServer):
    """Serve until the end of the block; clients may disconnect."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.closing = threading.Event()

    def __enter__(self) -> FaultServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Wait without blocking the shutdown of the server."""


class FaultServer(Loopback):
    """Serve a folder.

    Attributes:
        faults: Faults by path.
        requests: Path and Range header of each request, in order.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(Request)
        self.folder = folder
        self.faults: dict[str, Fault] = {}
        self.requests: list[tuple[str, str | None]] = []
        self._scheme = "https" if tls else "http"
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.server_port}"


def serve(request: Request, content: bytes) -> None:
    """Answer without a fault."""
    request.send(request.head_of(content))


def status(code: int, **headers: object) -> Fault:
    """Answer with a status only."""
    return lambda request, _: request.head(code, Content_Length=0, **headers)


def first(times: int, fault: Fault) -> Fault:
    """Apply a fault only to the first requests."""
    left = [fault] * times

    def act(request: Request, content: bytes) -> None:
        (left.pop() if left else serve)(request, content)

    return act


def cut(after: int) -> Fault:
    """Close the connection after this number of bytes of the body."""

    def act(request: Request, content: bytes) -> None:
        request.send(request.head_of(content)[:after])
        request.close_connection = True

    return act


def stall(after: int) -> Fault:
    """Send nothing after this number of bytes of the body."""

    def act(request: Request, content: bytes) -> None:
        request.send(request.head_of(content)[:after])
        request.wait()

    return act


def trickle(every_s: float, step: int = 1) -> Fault:
    """Send the body in steps of this number of bytes."""

    def act(request: Request, content: bytes) -> None:
        body = request.head_of(content)
        for start in range(0, len(body), step):
            request.send(body[start : start + step])
            if request.wait(every_s):
                return

    return act


def slow_headers(every_s: float) -> Fault:
    """Send headers without end."""

    def act(request: Request, _: bytes) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not request.wait(every_s):
            request.send(b"x")

    return act


def slow_trailers(every_s: float) -> Fault:
    """Send the whole body, and then trailers without end."""

    def act(request: Request, content: bytes) -> None:
        request.head(200, Transfer_Encoding="chunked")
        request.send(b"%x\r\n%b\r\n0\r\n" % (len(content), content))
        while not request.wait(every_s):
            request.send(b"X: y\r\n")

    return act


def chunked(request: Request, content: bytes) -> None:
    """Answer correctly without a length."""
    request.head(200, Transfer_Encoding="chunked")
    request.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))


def whole(request: Request, content: bytes) -> None:
    """Send the whole content for any range."""
    request.head(200, Content_Length=len(content))
    request.send(content)


def shifted(request: Request, content: bytes) -> None:
    """Send another range than the requested one."""
    body = content[request.offset + 1 :]
    where = f"bytes {request.offset + 1}-{len(content) - 1}/{len(content)}"
    request.head(206, Content_Length=len(body), Content_Range=where)
    request.send(body)


def longer(extra: bytes) -> Fault:
    """Send more than announced."""
    return lambda request, content: request.send(request.head_of(content) + extra)


def instead(other: bytes) -> Fault:
    """Send another content."""
    return lambda request, _: serve(request, other)


def endless(request: Request, _: bytes) -> None:
    """Send a body without end."""
    request.head(200)
    while not request.server.closing.is_set():
        request.send(b"\0" * 65536)


def garbage(request: Request, _: bytes) -> None:
    """Answer with bytes that are no HTTP."""
    request.send(b"\x15\x03\x01 this is no answer\r\n\r\n")
    request.close_connection = True


class FastClock:
    """A clock that runs a hundred times faster."""

    def monotonic(self) -> float:
        return time.monotonic() * 100

    def sleep(self, seconds: float, /) -> None:
        time.sleep(seconds / 100)


class FakeClock:
    """A clock that advances only during sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
