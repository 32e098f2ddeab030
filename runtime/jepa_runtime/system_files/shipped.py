"""The system files that this package carries."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent / "firmware_configs"
DEVICES = ("common", "jetson", "intel_npu")


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A file to install at ``path``, relative to the target's root."""

    path: str
    device: str
    content: bytes

    @property
    def mode(self) -> int:
        """Installers of packages need not keep permissions, so they follow from the content."""
        return 0o755 if self.content.startswith(b"#!") else 0o644


def shipped(devices: Iterable[str]) -> list[Shipped]:
    """The files of some of :data:`DEVICES`, sorted by path."""
    files = [
        Shipped(path=str(file.relative_to(_FOLDER / device)), device=device, content=file.read_bytes())
        for device in set(devices)
        for file in (_FOLDER / device).rglob("*")
        if file.is_file()
    ]
    return sorted(files, key=lambda file: file.path)
