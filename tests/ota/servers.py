"""A web server on loopback that serves a folder, and whose faults are switched on path by path."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

# What is done instead of serving the content as it is.
Fault = Callable[["Request", bytes], None]


class Request(BaseHTTPRequestHandler):
    """One request, and what can be done with it."""

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
        """From where on the client asks for the content."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def head(self, code: int, **headers: object) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def head_of(self, content: bytes) -> bytes:
        """Send the headers of an honest answer, return the body that would follow."""
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
        """Whether the server closed meanwhile."""
        return self.server.closing.wait(seconds)

    def log_message(self, *_: object) -> None:
        pass


class Loopback(ThreadingHTTPServer):
    """Serves here until the end of the block; a client that has gone is part of the game."""

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
        """See above."""


class FaultServer(Loopback):
    """Serves a folder.

    Attributes:
        faults: by path.
        requests: path and Range header of each, in order.
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
    """No fault."""
    request.send(request.head_of(content))


def status(code: int, **headers: object) -> Fault:
    """Only a status."""
    return lambda request, _: request.head(code, Content_Length=0, **headers)


def first(times: int, fault: Fault) -> Fault:
    """A fault that passes."""
    left = [fault] * times

    def act(request: Request, content: bytes) -> None:
        (left.pop() if left else serve)(request, content)

    return act


def cut(after: int) -> Fault:
    """The connection ends after so many bytes of the body."""

    def act(request: Request, content: bytes) -> None:
        request.send(request.head_of(content)[:after])
        request.close_connection = True

    return act


def stall(after: int) -> Fault:
    """Nothing comes after so many bytes of the body."""

    def act(request: Request, content: bytes) -> None:
        request.send(request.head_of(content)[:after])
        request.wait()

    return act


def trickle(every_s: float, step: int = 1) -> Fault:
    """The body comes in small steps, of so many bytes."""

    def act(request: Request, content: bytes) -> None:
        body = request.head_of(content)
        for start in range(0, len(body), step):
            request.send(body[start : start + step])
            if request.wait(every_s):
                return

    return act


def slow_headers(every_s: float) -> Fault:
    """One header after the other, without end."""

    def act(request: Request, _: bytes) -> None:
        request.send(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not request.wait(every_s):
            request.send(b"x")

    return act


def slow_trailers(every_s: float) -> Fault:
    """The whole body, and then trailers without end."""

    def act(request: Request, content: bytes) -> None:
        request.head(200, Transfer_Encoding="chunked")
        request.send(b"%x\r\n%b\r\n0\r\n" % (len(content), content))
        while not request.wait(every_s):
            request.send(b"X: y\r\n")

    return act


def chunked(request: Request, content: bytes) -> None:
    """An honest answer without a length."""
    request.head(200, Transfer_Encoding="chunked")
    request.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content))


def whole(request: Request, content: bytes) -> None:
    """All of it, whatever range was asked for."""
    request.head(200, Content_Length=len(content))
    request.send(content)


def shifted(request: Request, content: bytes) -> None:
    """Another range than the one asked for."""
    body = content[request.offset + 1 :]
    where = f"bytes {request.offset + 1}-{len(content) - 1}/{len(content)}"
    request.head(206, Content_Length=len(body), Content_Range=where)
    request.send(body)


def longer(extra: bytes) -> Fault:
    """More than was announced."""
    return lambda request, content: request.send(request.head_of(content) + extra)


def instead(other: bytes) -> Fault:
    """Another content."""
    return lambda request, _: serve(request, other)


def endless(request: Request, _: bytes) -> None:
    """A body without end."""
    request.head(200)
    while not request.server.closing.is_set():
        request.send(b"\0" * 65536)


def garbage(request: Request, _: bytes) -> None:
    """No HTTP."""
    request.send(b"\x15\x03\x01 this is no answer\r\n\r\n")
    request.close_connection = True


class FastClock:
    """Time that passes a hundred times faster."""

    def monotonic(self) -> float:
        return time.monotonic() * 100

    def sleep(self, seconds: float, /) -> None:
        time.sleep(seconds / 100)


class FakeClock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds
