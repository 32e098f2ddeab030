"""Run the vendors' own compilers on the graphs of a bundle, where they are installed, for its report.json."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_export.errors import JepaExportError
from jepa_export.targets import npu_compiler, tensorrt_check
from jepa_export.targets.npu import PLATFORMS, compile_blob
from jepa_export.targets.registry import GraphVariant, targets
from jepa_runtime.bundle import blob_path, compiled_candidates

Row = dict[str, Any]
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
    *,
    compile_blobs: bool = True,
) -> dict[str, Any]:
    """Run the vendors' compilers on the graphs of each target that has one.

    Args:
        folder: Folder of the bundle; blobs are written next to their IRs.
        graphs: Variants; those of targets without a compiler are ignored.
        num_samples: Candidates of the bundle.
        progress: Called with each step in words, and with how to install a missing compiler.
        compile_blobs: Whether compilers run that add compiled graphs to the bundle.

    Returns:
        The report of each target that ``graphs`` has and that has a compiler. A graph that a compiler rejects
        is a row with a ``problem``.
    """
    found: dict[str, Any] = {}
    for name in dict.fromkeys(variant.target for _, variant in graphs):
        target = targets()[name]
        if target.vendor_report is not None and (compile_blobs or not target.writes_blobs):
            own = [graph for graph in graphs if graph[1].target == name]
            found[name] = target.vendor_report(folder, own, num_samples, progress)
    return found


def compile_for_npus(
    folder: Path, graphs: Sequence[GraphVariant], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Compile graphs for every NPU platform; return the report."""
    return {"about": _ESTIMATE, "graphs": _npu(folder, graphs, progress)}


def check_for_tensorrt(
    folder: Path, graphs: Sequence[GraphVariant], num_samples: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Build graphs with NVIDIA's builder; return the report."""
    return {"about": _BUILDER, "graphs": _tensorrt(folder, graphs, num_samples, progress)}


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
            report = tensorrt_check.check(folder / variant.path, count=compiled_candidates(num_samples))
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
