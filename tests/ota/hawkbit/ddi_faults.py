"""What a hawkBit server may do instead of answering."""

from __future__ import annotations

import json

from tests.ota.hawkbit.ddi_server import Action, Fault, Request


def says(status: int, content: bytes = b"", **headers: str) -> Fault:
    """Only this."""
    return lambda request: request.send(status, content, **headers)


def puts_off(action: Action) -> Fault:
    """That the deployment of ``action`` is neither to be fetched nor switched to yet."""
    later = {"id": str(action.id), "deployment": action.deployment | {"download": "skip", "update": "skip"}}
    return says(200, json.dumps(later).encode())


def silent(request: Request) -> None:
    """Nothing."""
    request.server.lock.release()
    try:
        request.server.closing.wait(30)
    finally:
        request.server.lock.acquire()


def trickles(request: Request) -> None:
    """An answer, byte by byte, without end."""
    request.send_response(200)
    request.end_headers()
    request.server.lock.release()
    try:
        while not request.server.closing.wait(0.05):
            request.wfile.write(b" ")
            request.wfile.flush()
    finally:
        request.server.lock.acquire()
