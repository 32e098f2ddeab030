"""Notifications of a service to systemd."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jepa_runtime.util.systemd import notify


@pytest.mark.parametrize("abstract", [False, True])
def test_message_is_received_by_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    address = f"{tmp_path}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{address}" if abstract else address)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{address}" if abstract else address)
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_message_without_a_receiver_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/gone")
    notify("READY=1")
