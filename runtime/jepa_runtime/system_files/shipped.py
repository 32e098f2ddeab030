"""The system files that this package contains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "firmware_configs"
DEVICES = ("common", "jetson", "intel_npu")
"""The groups of system files; ``common`` suits every robot."""


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A file to install at ``path``, which is relative to the root."""

    path: str
    device: str
    content: bytes

    @property
    def mode(self) -> int:
        """Permission bits, derived from the content because package installers may not preserve them."""
        return 0o755 if self.content.startswith(b"#!") else 0o644


def find_shipped(devices: Iterable[str]) -> list[Shipped]:
    """Return the files of the given :data:`DEVICES`, sorted by path."""
    files = [
        Shipped(path=str(file.relative_to(_FOLDER / device)), device=device, content=file.read_bytes())
        for device in set(devices)
        for file in (_FOLDER / device).rglob("*")
        if file.is_file()
    ]
    return sorted(files, key=lambda file: file.path)
