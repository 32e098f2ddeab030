"""What a bundle asks of a machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jepa_runtime.bundle import ROLES, Bundle


@dataclass(frozen=True)
class Requirements:
    """Of one bundle.

    Attributes:
        name: model and version.
        targets: the kinds of graph that it has.
        bytes: of all its files.
        graph_bytes: of the graphs that serve together, the largest precision of any target.
    """

    name: str
    targets: frozenset[str]
    bytes: int
    graph_bytes: int

    @classmethod
    def of(cls, path: Path) -> Requirements:
        """Read a bundle.

        Raises:
            BundleError: it is not valid.
        """
        manifest = Bundle.open(path).manifest
        size = {record.path: record.bytes for record in manifest.files}
        sums: dict[tuple[str, str], int] = {}
        for role in ROLES:
            for variant in manifest.graphs.of(role):
                kind = (variant.target, variant.precision)
                sums[kind] = sums.get(kind, 0) + sum(size[file] for file in variant.paths)
        return cls(
            name=f"{manifest.model_id} {manifest.version}",
            targets=frozenset(target for target, _ in sums),
            bytes=sum(size.values()),
            graph_bytes=max(sums.values()),
        )
