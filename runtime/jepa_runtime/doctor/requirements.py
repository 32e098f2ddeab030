"""The requirements of a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.bundle import ROLES, Bundle


@dataclass(frozen=True)
class Requirements:
    """What one bundle requires of a machine.

    Attributes:
        name: Model id and version.
        targets: The targets that it has graphs for.
        bytes: The size of all files.
        graph_bytes: The size of the graphs that are loaded together; the largest combination of target and
            precision.
    """

    name: str
    targets: frozenset[str]
    bytes: int
    graph_bytes: int

    @classmethod
    def from_bundle(cls, path: Path) -> Requirements:
        """Return the requirements of the bundle in the folder ``path``.

        Raises:
            BundleError: The bundle is invalid.
        """
        manifest = Bundle.open(path).manifest
        size = {record.path: record.bytes for record in manifest.files}
        sums: dict[tuple[str, str], int] = {}
        for role in ROLES:
            for variant in manifest.graphs.variants(role):
                key = (variant.target, variant.precision)
                sums[key] = sums.get(key, 0) + sum(size[file] for file in variant.paths)
        return cls(
            name=f"{manifest.model_id} {manifest.version}",
            targets=frozenset(target for target, _ in sums),
            bytes=sum(size.values()),
            graph_bytes=max(sums.values()),
        )
