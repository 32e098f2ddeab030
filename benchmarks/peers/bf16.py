"""A bundle in bf16, on processors that have bf16 and on those where OpenVINO emulates it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset15

from jepa_runtime.backends.openvino.backend import OpenVINOBackend
from jepa_runtime.bundle import Bundle
from jepa_runtime.errors import JepaRuntimeError
from jepa_runtime.model import golden_parity

ENGINE = "openvino:CPU"


def has_bf16() -> bool:
    """Return whether the processor has AMX or AVX512-BF16."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def is_computed() -> bool:
    """Return whether OpenVINO computes or emulates bf16 here; without AVX-512 it uses fp32 instead."""
    values = opset15.parameter([1, 1], np.float32)
    model = openvino.Model([opset15.matmul(values, values, False, False)], [values], "model")
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    return bool(compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.bf16)


@contextmanager
def allowed() -> Iterator[None]:
    """Let the runtime compute bf16 on any x86 with AVX-512, where OpenVINO emulates it slower than fp32."""
    check = OpenVINOBackend._check_bf16
    OpenVINOBackend._check_bf16 = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        OpenVINOBackend._check_bf16 = check  # type: ignore[method-assign]


def with_bf16(bundle: Bundle, folder: Path) -> Bundle:
    """Return a copy of a bundle with variants in bf16, as created by ``jepa-export add-variant``.

    Call it within :func:`allowed`.

    Raises:
        JepaRuntimeError: They cannot be created, do not compute the golden outputs, or OpenVINO does not even
            emulate bf16 on this processor.
    """
    if not is_computed():
        raise JepaRuntimeError("bf16: OpenVINO neither computes nor emulates it on this processor")
    try:
        from jepa_export.bundling.add_variants import add_variants
        from jepa_export.errors import JepaExportError
    except ImportError as error:
        raise JepaRuntimeError("bf16 variants need torch: pip install 'jepa-edge[export]'") from error
    try:
        return add_variants(
            bundle,
            folder,
            [("openvino", "bf16")],
            frames=None,
            command="",
            progress=lambda _: None,
            compile_blobs=False,
        )
    except JepaExportError as error:
        raise JepaRuntimeError(f"bf16: {error}") from error


def parity(bundle: Bundle) -> dict[str, Any]:
    """Return how closely each graph in bf16 reproduces the golden outputs."""
    reports = golden_parity(bundle, engine=ENGINE, precision="bf16")
    return {each.graph: asdict(each) | {"tolerance": each.tolerance.model_dump()} for each in reports}
