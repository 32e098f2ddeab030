"""The registry of targets: the formats in which graphs are exported.

A target of this package is declared in :mod:`jepa_export.targets.built_in`. A package adds one by an entry
point that refers to an :class:`ExportTarget` of the same name::

    [project.entry-points."jepa_export.targets"]
    toy = "toy_target:TARGET"

Then ``jepa-export build --target toy`` writes its variants. They are verified by the engine that declares
``reference_for`` this target, see :class:`jepa_runtime.backends.Engine`. The module of a target should import
its converter only when a graph is written, so that ``--help`` is fast.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import openvino as ov

    from jepa_export.targets.openvino import Sample
    from jepa_runtime.bundle import Precision, Role, Target, Variant

ENTRY_POINTS = "jepa_export.targets"
GraphVariant: TypeAlias = "tuple[Role, Variant]"
"""One variant of one of the bundle's graphs."""
SOURCE: tuple[Target, Precision] = ("onnx", "fp32")
"""The variant from which those of all other targets are made."""
_LOG = logging.getLogger(__name__)


class GraphSource:
    """Represent a graph from which variants are made.

    Attributes:
        onnx: The ONNX file, in fp32.
        samples: Inputs by name, to calibrate on.
        shapes: Shapes of the inputs that have a free axis.
    """

    def __init__(
        self,
        onnx: Path,
        irs: Mapping[str, Callable[[], ov.Model]],
        samples: Sequence[Sample],
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        self.onnx, self.samples, self.shapes = onnx, samples, shapes
        self._irs = irs
        self._made: dict[str, ov.Model] = {}

    def ir(self, precision: str) -> ov.Model:
        """Return the OpenVINO IR in INT8, or in fp32 for any other precision. It must not be changed."""
        key = "int8" if precision == "int8" else "fp32"
        if key not in self._made:
            self._made[key] = self._irs[key]()
        return self._made[key]


@dataclass(frozen=True, kw_only=True)
class ExportTarget:
    """Declare a target: everything that the rest of the program must know about it.

    Attributes:
        name: The name in manifests and of ``--target``. An entry point has the same name.
        precisions: The precisions of its variants, the preferred first.
        energy_precision: The precision of the energy and relative pose graphs. They decide where the robot
            drives and when it stops, and are small: one variant, in the best precision that the target
            supports.
        write: Writes the variants of one graph, given the path of each precision.
        on_request: Further precisions, for variants that are built only on request.
        is_default: Whether bundles have its variants unless targets are given.
        uses_ir: Whether it is made from the OpenVINO IR, so that INT8 needs no calibration if the bundle has
            INT8 for OpenVINO.
        write_step: For targets with fixed shapes, which cannot run the predictor for one candidate: writes
            the graph ``step``, given the paths of predictor and step and the precision.
        vendor_report: Runs the vendor's compiler on graphs, if it is installed, for report.json, given the
            folder of the bundle, the graphs, the number of candidates, and a function that is called with
            each step in words.
        writes_blobs: Whether ``vendor_report`` adds compiled graphs to the bundle.
    """

    name: str
    precisions: tuple[Precision, ...]
    energy_precision: Precision
    write: Callable[[GraphSource, Mapping[Precision, Path]], None] = field(repr=False)
    on_request: tuple[Precision, ...] = ()
    is_default: bool = False
    uses_ir: bool = False
    write_step: Callable[[Path, Path, Precision], None] | None = field(default=None, repr=False)
    vendor_report: (
        Callable[[Path, Sequence[GraphVariant], int, Callable[[str], None]], dict[str, Any]] | None
    ) = field(default=None, repr=False)
    writes_blobs: bool = False


@cache
def targets() -> dict[str, ExportTarget]:
    """Return all targets by name, those of this package first. Broken ones of other packages are logged."""
    from jepa_export.targets.built_in import TARGETS

    found = {target.name: target for target in TARGETS}
    for entry in entry_points(group=ENTRY_POINTS):
        package = entry.dist.name if entry.dist is not None else entry.value
        try:
            target = entry.load()
            if not isinstance(target, ExportTarget) or target.name != entry.name:
                raise TypeError(f"{entry.value} is not an ExportTarget of this name")
        # A package can raise anything while it is imported.
        except Exception as error:
            _LOG.warning(
                "target %s of the package %s cannot be loaded: %s: update or remove the package",
                entry.name,
                package,
                error,
            )
        else:
            found.setdefault(entry.name, target)
    return found


def target_names() -> list[str]:
    """Return the names of all targets, the default ones first."""
    return [
        each.name for each in sorted(targets().values(), key=lambda each: (not each.is_default, each.name))
    ]


def default_target_names() -> list[str]:
    """Return the targets of bundles for which none are given."""
    return [name for name in target_names() if targets()[name].is_default]
