"""ONNX -> OpenVINO IR, and INT8 by NNCF.

NNCF corrects biases, and holds INT8 to fp32, by what this machine computes. Where that cuts off sums of INT8
products (:mod:`jepa_runtime.backends.cpu_int8`), weights use half of their range, with which it does not: of
a ViT-S, the latents then have a cosine of 0.9993 with those of fp32; with the whole range 0.914, and 0.9998
where nothing is cut off."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
from numpy.typing import NDArray

from jepa_export.errors import JepaExportError
from jepa_runtime.backends import cpu_int8

# Read-outs of this size cost next to nothing, and their outputs are the latent itself: in INT8 they made the
# robot token five times as wrong (0.24 instead of 0.05, where one step at top speed is 0.66).
SMALL_WEIGHTS = 8192
Sample = dict[str, NDArray[np.generic]]


def convert(onnx_path: Path) -> ov.Model:
    """The IR of an ONNX file, in fp32.

    Inputs have their own name alone: where OpenVINO leaves out what comes first, as it does with a division
    by 1, they would have the name of its output too, and go by that."""
    model = ov.convert_model(onnx_path)
    for port in model.inputs:
        port.get_tensor().set_names({port.get_node().get_friendly_name()})
    return model


def quantize_int8(model: ov.Model, samples: Sequence[Sample]) -> ov.Model:
    """Post-training quantization by NNCF, calibrated on ``samples`` (real inputs by tensor name): symmetric
    weights, asymmetric activations. Matrix products of fewer than :data:`SMALL_WEIGHTS`
    weights stay in fp32.
    """
    import nncf  # Takes seconds to load, and only what quantizes needs it.

    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(samples),
        fast_bias_correction=False,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=_overflow_fix()),
        ignored_scope=nncf.IgnoredScope(names=_small_products(model)),
    )


def quantize_transformer_int8(
    model: ov.Model, samples: Sequence[Sample], *, extremes: bool = False
) -> ov.Model:
    """Post-training quantization of a transformer by NNCF, calibrated on ``samples`` (real inputs by tensor
    name), see :func:`transformer_options`."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    options = transformer_options(samples, extremes=extremes)
    return with_whole_bytes(nncf.quantize(model, nncf.Dataset(samples), **options))


def transformer_options(samples: Sequence[Sample], *, extremes: bool = False) -> dict[str, Any]:
    """How NNCF quantizes a transformer: weights and activations of matrix products in INT8; softmax,
    normalisation and residual in fp32.

    Asymmetric activations, for which OpenVINO 2026.4 has the faster products (a ViT-S takes a tenth less). No
    SmoothQuant (Xiao et al. 2022): the factors that it leaves before some products cost the same again.

    Args:
        extremes: activations range over all samples, not over a mean one. So it has to be where a sample is
            one action: the range of a mean action leaves out most.
    """
    import nncf
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    off = nncf.AdvancedSmoothQuantParameters(matmul=-1, convolution=-1)
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=_overflow_fix(), smooth_quant_alphas=off)
    if extremes:
        advanced.activations_range_estimator_params = RangeEstimatorParametersSet.MINMAX
    return {
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(samples),
        "advanced_parameters": advanced,
    }


def with_whole_bytes(quantized: ov.Model) -> ov.Model:
    """``quantized``, changed so that products of the bytes of a frame read each as it is. NNCF gives them the
    range of a mean sample, and what is brighter is lost."""
    for operation in quantized.get_ops():
        read = operation.input_value(0).get_node() if operation.get_type_name() == "FakeQuantize" else None
        if read and read.get_type_name() == "Convert" and read.get_input_element_type(0) == ov.Type.u8:
            for port, limit in enumerate((0, 255, 0, 255), 1):
                shape = operation.input_value(port).get_shape()
                whole = ops.constant(np.full(shape, limit, np.float32))
                operation.input(port).replace_source_output(whole.output(0))
    return quantized


def multiplies_activations(model: ov.Model) -> bool:
    """Whether a product has no constant factor, as in attention: a transformer."""
    varying: set[str] = set()
    for each in model.get_ordered_ops():
        sources = [port.get_node().get_name() in varying for port in each.input_values()]
        if each.get_type_name() in ("MatMul", "ScaledDotProductAttention") and all(sources[:2]):
            return True
        if each.get_type_name() == "Parameter" or any(sources):
            varying.add(each.get_name())
    return False


def compress_int8(model: ov.Model) -> ov.Model:
    """Weights in INT8 (symmetric, one scale per output), activations in fp32: for rollouts, whose errors
    feed on themselves. Quantizing the activations of the demo's predictor too costs a third of a step at
    top speed."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def _overflow_fix() -> Any:
    from nncf.quantization.advanced_parameters import OverflowFix

    return OverflowFix.ENABLE if cpu_int8.cut_off_here() else None


def _small_products(model: ov.Model) -> list[str]:
    def weights(operation: ov.Node) -> int:
        constants = [port.get_node() for port in operation.input_values()]
        sizes = [node.get_data().size for node in constants if node.get_type_name() == "Constant"]
        return max(sizes, default=SMALL_WEIGHTS)

    products = [operation for operation in model.get_ops() if operation.get_type_name() == "MatMul"]
    return [product.get_friendly_name() for product in products if weights(product) < SMALL_WEIGHTS]


def save(model: ov.Model, path: Path, *, halve: bool = False) -> None:
    """Write ``path`` (.xml) and its .bin; weights as they are, or (``halve``) in fp16.

    Raises:
        JepaExportError: they cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        ov.save_model(model, path, compress_to_fp16=halve)
    # OpenVINO says no more than that of a full disk.
    except RuntimeError as error:
        raise JepaExportError(
            f"{path.name} cannot be written ({error}): is the disk full? nothing was written"
        ) from error
