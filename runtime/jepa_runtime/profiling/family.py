"""Families: bundles of several sizes for the same robot, of which it runs one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jepa_runtime.bundle import MANIFEST_NAME, ROLES, Bundle
from jepa_runtime.errors import ProfileError

SizeMeasure = Literal["multiply_adds", "graph_bytes"]
"""By what the bundles of a family are ordered."""


@dataclass(frozen=True)
class Member:
    """A bundle of a family and its size.

    Attributes:
        bundle: The bundle.
        multiply_adds: Multiply-adds of one call of each graph, from the bundle's report; None: not reported.
        graph_bytes: Size of the files of all graphs in the bundle's preferred variant.
    """

    bundle: Bundle
    multiply_adds: int | None
    graph_bytes: int


@dataclass(frozen=True)
class Family:
    """Bundles with the same interface.

    Attributes:
        members: The bundles, the smallest first.
        ordered_by: The measure of size: multiply-adds if all bundles report them.
    """

    members: tuple[Member, ...]
    ordered_by: SizeMeasure


def find_bundles(path: Path) -> list[Path]:
    """Return the bundles directly in the folder ``path``, by name; ``path`` itself if it is or has none."""
    if (path / MANIFEST_NAME).exists():
        return [path]
    return sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST_NAME}")) or [path]


def open_family(paths: Iterable[Path]) -> Family:
    """Open the bundles in the folders ``paths``.

    Raises:
        BundleError: A bundle is invalid.
        ProfileError: Their interfaces differ, so that one cannot replace another on a robot.
    """
    bundles = [Bundle.open(path) for path in paths]
    _check_interfaces(bundles)
    members = [Member(bundle, _multiply_adds(bundle), _graph_bytes(bundle)) for bundle in bundles]
    counts = [member.multiply_adds for member in members if member.multiply_adds is not None]
    ordered_by: SizeMeasure = "multiply_adds" if len(counts) == len(members) else "graph_bytes"
    return Family(tuple(sorted(members, key=lambda member: getattr(member, ordered_by))), ordered_by)


def _check_interfaces(bundles: Sequence[Bundle]) -> None:
    first = _interface(bundles[0])
    for bundle in bundles[1:]:
        other = _interface(bundle)
        if differ := [name for name in first if first[name] != other[name]]:
            raise ProfileError(
                f"{bundle.path} cannot replace {bundles[0].path} on a robot: they differ in "
                f"{', '.join(differ)}; give the bundles of one family",
                code="profile.different_families",
            )


def _interface(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return manifest.interface() | {
        "rate_hz": manifest.io.frame.rate_hz,
        "relative_pose": bool(manifest.graphs.relative_pose),
    }


def _multiply_adds(bundle: Bundle) -> int | None:
    report = bundle.report()
    counts = report.get("multiply_adds") if isinstance(report, dict) else None
    if not isinstance(counts, dict):
        return None
    values = [counts.get(role) for role in ROLES if bundle.manifest.graphs.variants(role)]
    known = [value for value in values if isinstance(value, int)]
    return sum(known) if len(known) == len(values) else None


def _graph_bytes(bundle: Bundle) -> int:
    graphs = bundle.manifest.graphs
    used = {path for role in ROLES for variant in graphs.variants(role)[:1] for path in variant.paths}
    return sum(record.bytes for record in bundle.manifest.files if record.path in used)
