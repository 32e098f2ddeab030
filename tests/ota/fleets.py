"""A signed repository, the robot that follows it by ``jepa-runtime update``, and its service."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jepa_runtime.bundle import Bundle
from jepa_runtime.cli import main
from tests.ota.repositories import Repository
from tests.ota.robots import CHANNEL, MODEL, release_of, variant

COMMAND = Path(sys.executable).with_name("jepa-runtime")


class Fleet:
    """A signed repository, and one robot that follows it."""

    def __init__(self, folder: Path, toy: Path) -> None:
        self.repository = Repository(folder / "repository", now=datetime.now(timezone.utc))
        self.root = folder / "robot"
        self.bundles = [variant(toy, folder / str(number), f"{number}.0.0") for number in (1, 2, 3)]
        self.trusted_root = folder / "root.json"
        self.trusted_root.write_bytes(self.repository.first_root)

    def provision(self, *more: str, bundle: Path | None = None) -> int:
        return main(
            ["update", "provision", "--robot", str(self.root), "--trusted-root", str(self.trusted_root),
             "--repository", str(self.repository.folder), "--channel", CHANNEL, "--model", MODEL,
             "--device-id", "robot-1", "--hardware", "bench", str(bundle or self.bundles[0].path), *more]
        )  # fmt: skip

    def publish(self, bundle: Bundle, seq: int, **fields: Any) -> None:
        self.repository.release(bundle, release_of(bundle, seq, **fields))

    def run(self, action: str, *more: str) -> int:
        return main(["update", action, "--robot", str(self.root), *more])

    @property
    def version(self) -> str:
        return Bundle.open(self.root / "current").manifest.version


def edit(root: Path, **fields: Any) -> None:
    """Edit a file as an operator would."""
    path = root / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


class Daemon:
    """``jepa-runtime update daemon`` in a process, with a receiver of its notifications to systemd."""

    def __init__(self, root: Path, address: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))
        self.socket.settimeout(60)
        self.process = subprocess.Popen(
            [COMMAND, "update", "daemon", "--robot", str(root)],
            env=os.environ | {"NOTIFY_SOCKET": str(address)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def received(self, prefix: str) -> str:
        while not (message := self.socket.recv(4096).decode()).startswith(prefix):
            pass
        return message

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.socket.close()


def until(holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait until a condition is met, or fail."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
