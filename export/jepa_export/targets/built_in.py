"""The targets of this package.

Converters are imported when a graph is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jepa_export.targets.registry import ExportTarget, GraphSource, GraphVariant

if TYPE_CHECKING:
    from jepa_runtime.bundle import Precision


def _write_openvino(source: GraphSource, paths: Mapping[Precision, Path]) -> None:
    from jepa_export.targets.openvino import save

    for precision, path in paths.items():
        save(source.ir(precision), path)


def _write_onnx(source: GraphSource, paths: Mapping[Precision, Path]) -> None:
    for path in paths.values():
        shutil.copyfile(source.onnx, path)


def _write_npu(source: GraphSource, paths: Mapping[Precision, Path]) -> None:
    from jepa_export.targets.npu import static_ir
    from jepa_export.targets.openvino import save

    for precision, path in paths.items():
        save(static_ir(source.ir(precision), source.shapes), path, halve=precision == "fp16")


def _write_npu_step(predictor: Path, step: Path, precision: Precision) -> None:
    import openvino as ov

    from jepa_export.targets.npu import first_step
    from jepa_export.targets.openvino import save

    save(first_step(ov.Core().read_model(predictor)), step, halve=precision == "fp16")


def _write_tensorrt(source: GraphSource, paths: Mapping[Precision, Path]) -> None:
    import onnx

    from jepa_export.targets.tensorrt import calibrate, to_fp16, to_int8

    model = onnx.load(source.onnx)
    ranges = calibrate(model, source.samples)
    for precision, path in paths.items():
        onnx.save((to_int8 if precision == "int8" else to_fp16)(model, ranges), path)


def _compile_npu(
    folder: Path, graphs: Sequence[GraphVariant], num_samples: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    from jepa_export.targets.vendor_compilers import compile_for_npus

    return compile_for_npus(folder, graphs, progress)


def _check_tensorrt(
    folder: Path, graphs: Sequence[GraphVariant], num_samples: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    from jepa_export.targets.vendor_compilers import check_for_tensorrt

    return check_for_tensorrt(folder, graphs, num_samples, progress)


# The variants of a bundle are in this order.
TARGETS = (
    ExportTarget(
        name="openvino",
        precisions=("int8", "fp32"),
        # Few CPUs support bf16.
        on_request=("bf16",),
        energy_precision="fp32",
        write=_write_openvino,
        is_default=True,
        uses_ir=True,
    ),
    ExportTarget(
        name="onnx",
        precisions=("fp32",),
        energy_precision="fp32",
        write=_write_onnx,
        is_default=True,
    ),
    ExportTarget(
        name="npu",
        # NPUs compute in fp16 what is not INT8.
        precisions=("int8", "fp16"),
        energy_precision="fp16",
        write=_write_npu,
        uses_ir=True,
        write_step=_write_npu_step,
        vendor_report=_compile_npu,
        writes_blobs=True,
    ),
    ExportTarget(
        name="tensorrt",
        precisions=("int8", "fp16"),
        energy_precision="fp16",
        write=_write_tensorrt,
        vendor_report=_check_tensorrt,
    ),
)
