"""ONNX -> OpenVINO IR, and INT8 by NNCF."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

Sample = dict[str, NDArray[np.generic]]


def convert(onnx_path: Path) -> ov.Model:
    """The IR of an ONNX file, in fp32."""
    return ov.convert_model(onnx_path)


def quantize_int8(model: ov.Model, samples: Sequence[Sample]) -> ov.Model:
    """Post-training quantization by NNCF, calibrated on ``samples`` (real inputs by tensor name): symmetric
    weights, asymmetric activations, with bias correction."""
    import nncf  # Takes seconds to load, and only this function needs it.

    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        fast_bias_correction=False,
    )


def save(model: ov.Model, path: Path) -> None:
    """Write ``path`` (.xml) and its .bin; weights as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, path, compress_to_fp16=False)
