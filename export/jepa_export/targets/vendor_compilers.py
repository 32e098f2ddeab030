"""What the vendors' own compilers say of a bundle's graphs, where they are at hand: for its report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_export.bundling.variants import fixed_count
from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler, tensorrt_check
from jepa_export.targets.npu import PLATFORMS, compile_blob
from jepa_runtime.bundle import Role, Variant
from jepa_runtime.bundle.manifest import blob_path

Row = dict[str, Any]
Graph = tuple[Role, Variant]
"""One variant of a bundle's graph."""
_ESTIMATE = (
    "ms as the cost model of Intel's NPU compiler expects them, not measured: they compare graphs, they "
    "promise nothing"
)
_BUILDER = "NVIDIA TensorRT for RTX, parsed and built for compute capability 8.6; a robot builds its own"


def ask_vendors(
    folder: Path,
    graphs: Sequence[Graph],
    num_samples: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Compile those of ``graphs`` that are for NPUs ahead of time, the blobs next to their IRs, and check
    those for TensorRT.

    Args:
        progress: called with the next step in words, and with what is missing here and how to install it.

    Returns:
        The report of each target, ``npu`` and ``tensorrt``, where ``graphs`` has them. A graph that a
        compiler does not take is a row with a ``problem``.
    """
    found: dict[str, Any] = {}
    if npu := [graph for graph in graphs if graph[1].target == "npu"]:
        found["npu"] = {"about": _ESTIMATE, "graphs": _npu(folder, npu, progress)}
    if tensorrt := [graph for graph in graphs if graph[1].target == "tensorrt"]:
        found["tensorrt"] = {"about": _BUILDER, "graphs": _tensorrt(folder, tensorrt, num_samples, progress)}
    return found


def _npu(folder: Path, graphs: Sequence[Graph], progress: Callable[[str], None]) -> list[Row]:
    try:
        npu_compiler.find()
    except JepaExportError as error:
        progress(f"no blobs for NPUs, a robot compiles the IRs itself: {error}")
        return []
    rows: list[Row] = []
    for role, variant in graphs:
        model = folder / variant.path
        for platform, name in PLATFORMS.items():
            progress(f"NPU {platform} ({name}): compiling the {variant.precision} {role}")
            row: Row = {"graph": role, "precision": variant.precision, "platform": platform}
            try:
                schedule = compile_blob(model, Path(blob_path(str(model), platform)), platform)
                row["estimate"] = {key: round(value, 3) for key, value in asdict(schedule).items()}
            except JepaExportError as error:
                row["problem"] = _without(folder, error)
                progress(f"the NPU's compiler does not take it: {error}")
            rows.append(row)
    return rows


def _tensorrt(
    folder: Path,
    graphs: Sequence[Graph],
    num_samples: int,
    progress: Callable[[str], None],
) -> list[Row]:
    if reason := tensorrt_check.missing():
        progress(f"the graphs for TensorRT are not checked with NVIDIA's builder: {reason}")
        return []
    rows: list[Row] = []
    for role, variant in graphs:
        progress(f"TensorRT: building the {variant.precision} {role}")
        row: Row = {"graph": role, "precision": variant.precision, "built": False}
        try:
            report = tensorrt_check.check(folder / variant.path, count=fixed_count(num_samples))
            row |= asdict(report) | {"built": report.built, "problems": list(report.problems)}
        except JepaExportError as error:
            row["problems"] = [_without(folder, error)]
        if not row["built"]:
            progress(f"TensorRT does not take it: {'; '.join(row['problems'])}")
        rows.append(row)
    return rows


def _without(folder: Path, error: JepaExportError) -> str:
    """Its message without the place of this machine at which the bundle is made."""
    return str(error).replace(f"{folder}/", "")
