"""Faults of a hawkBit server."""

from __future__ import annotations

import json

from tests.ota.hawkbit.ddi_server import Action, Fault, Request


def answers(status: int, content: bytes = b"", **headers: str) -> Fault:
    """Answer with this status and content."""
    return lambda request: request.send(status, content, **headers)


def delays(action: Action) -> Fault:
    """Answer that the deployment of ``action`` may not be downloaded or activated yet."""
    later = {"id": str(action.id), "deployment": action.deployment | {"download": "skip", "update": "skip"}}
    return answers(200, json.dumps(later).encode())


def silent(request: Request) -> None:
    """Close the connection without an answer."""
    request.server.lock.release()
    try:
        request.server.closing.wait(30)
    finally:
        request.server.lock.acquire()


def trickles(request: Request) -> None:
    """Send an answer byte by byte, without end."""
    request.send_response(200)
    request.end_headers()
    request.server.lock.release()
    try:
        while not request.server.closing.wait(0.05):
            request.wfile.write(b" ")
            request.wfile.flush()
    finally:
        request.server.lock.acquire()
