"""Notifications to systemd (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def is_service() -> bool:
    """Return whether systemd started this process and expects notifications."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(message: str) -> None:
    """Send a notification if systemd expects one, without blocking."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address[1:]
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.sendto(message.encode(), socket.MSG_DONTWAIT, address)
