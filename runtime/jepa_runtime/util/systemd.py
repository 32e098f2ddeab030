"""Tells systemd how a service does (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def is_service() -> bool:
    """Whether systemd started this process and wants to be notified."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(message: str) -> None:
    """Tell systemd, where it asked to be told; one that does not listen holds nothing up."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(message.encode(), socket.MSG_DONTWAIT, address)
