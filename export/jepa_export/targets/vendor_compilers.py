"""Run the vendors' own compilers on the graphs of a bundle, where they are installed, for its report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_export.bundling.variants import fixed_num_samples
from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler, tensorrt_check
from jepa_export.targets.npu import PLATFORMS, compile_blob
from jepa_runtime.bundle import Role, Variant, blob_path

Row = dict[str, Any]
GraphVariant = tuple[Role, Variant]
"""One variant of one of the bundle's graphs."""
_ESTIMATE = (
    "ms as estimated by the cost model of Intel's NPU compiler, not measured: useful to compare graphs only"
)
_BUILDER = (
    "NVIDIA TensorRT for RTX, parsed and built for compute capability 8.6; a robot builds its own engine"
)


def run_vendor_compilers(
    folder: Path,
    graphs: Sequence[GraphVariant],
    num_samples: int,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Compile graphs for NPUs ahead of time, and check graphs for TensorRT.

    Args:
        folder: Folder of the bundle; blobs are written next to their IRs.
        graphs: Variants; those of other targets are ignored.
        num_samples: Candidates of the bundle.
        progress: Called with each step in words, and with how to install a missing compiler.

    Returns:
        The report of each target that ``graphs`` has, ``npu`` and ``tensorrt``. A graph that a compiler
        rejects is a row with a ``problem``.
    """
    found: dict[str, Any] = {}
    if npu := [graph for graph in graphs if graph[1].target == "npu"]:
        found["npu"] = {"about": _ESTIMATE, "graphs": _npu(folder, npu, progress)}
    if tensorrt := [graph for graph in graphs if graph[1].target == "tensorrt"]:
        found["tensorrt"] = {"about": _BUILDER, "graphs": _tensorrt(folder, tensorrt, num_samples, progress)}
    return found


def _npu(folder: Path, graphs: Sequence[GraphVariant], progress: Callable[[str], None]) -> list[Row]:
    try:
        npu_compiler.find()
    except JepaExportError as error:
        progress(f"no NPU blobs, a robot compiles the IRs itself: {error}")
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
                progress(f"the NPU compiler rejects it: {error}")
            rows.append(row)
    return rows


def _tensorrt(
    folder: Path,
    graphs: Sequence[GraphVariant],
    num_samples: int,
    progress: Callable[[str], None],
) -> list[Row]:
    if reason := tensorrt_check.missing():
        progress(f"the TensorRT graphs are not checked with NVIDIA's builder: {reason}")
        return []
    rows: list[Row] = []
    for role, variant in graphs:
        progress(f"TensorRT: building the {variant.precision} {role}")
        row: Row = {"graph": role, "precision": variant.precision, "built": False}
        try:
            report = tensorrt_check.check(folder / variant.path, count=fixed_num_samples(num_samples))
            row |= asdict(report) | {"built": report.built, "problems": list(report.problems)}
        except JepaExportError as error:
            row["problems"] = [_without(folder, error)]
        if not row["built"]:
            progress(f"TensorRT rejects it: {'; '.join(row['problems'])}")
        rows.append(row)
    return rows


def _without(folder: Path, error: JepaExportError) -> str:
    """Return the message without the path of the folder in which the bundle is built."""
    return str(error).replace(f"{folder}/", "")
