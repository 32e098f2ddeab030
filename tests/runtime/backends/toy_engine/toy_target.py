"""A target for ``--target toy``: ONNX with a mark that names the engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jepa_export.targets.registry import ExportTarget, GraphSource
from jepa_runtime.bundle import Precision


def _write(source: GraphSource, paths: Mapping[Precision, Path]) -> None:
    import onnx

    model = onnx.load(source.onnx)
    model.producer_name = "toy"
    for path in paths.values():
        onnx.save(model, path)


TARGET = ExportTarget(name="toy", precisions=("fp32",), energy_precision="fp32", write=_write)
