"""Conversion of ONNX and of torch modules to OpenVINO IR, and INT8 quantization with NNCF.

NNCF corrects biases and compares INT8 with fp32 on this CPU. Where the CPU saturates sums of INT8 products
(:mod:`jepa_runtime.backends.cpu_int8`), weights use half of their range, which avoids saturation: the latents
of a ViT-S then have a cosine of 0.9993 with those of fp32, with the whole range 0.914; on a CPU without
saturation 0.9998.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_runtime.backends import cpu_int8

# Output layers of this size cost next to nothing, and their outputs are the latent itself: in INT8 the error
# of the robot token was five times as large (0.24 instead of 0.05, where one step at top speed is 0.66).
SMALL_WEIGHTS = 8192
_GENERATED_NAME = re.compile(r'\bname="([A-Z][A-Za-z0-9]*)_([0-9]+)((?:[/_][^"]*)?)"')
Sample = dict[str, NDArray[np.generic]]


def convert(onnx_path: Path) -> ov.Model:
    """Convert an ONNX file to an IR in fp32.

    Inputs get their own name only. Where OpenVINO removes the first operation, such as a division by 1, an
    input would also get the name of its output, and be addressed by that.
    """
    model = ov.convert_model(onnx_path)
    for port in model.inputs:
        port.get_tensor().set_names({port.get_node().get_friendly_name()})
    return model


def convert_module(
    module: nn.Module, inputs: dict[str, Tensor], output: str, *, free_axis: tuple[str, ...] = ()
) -> ov.Model:
    """Convert a torch module to an IR in fp32, without an ONNX file and its size limit.

    The IR shares its weights with the module, which takes no memory for a second copy.

    Args:
        module: Module in evaluation mode; called with ``inputs`` in order.
        inputs: Examples by tensor name; their shapes become those of the graph.
        output: Name of the output.
        free_axis: Inputs whose first axis may have any length.
    """
    described = []
    for name, each in inputs.items():
        count, *rest = each.shape
        shape = ov.PartialShape([-1 if name in free_axis else count, *rest])
        described.append((shape, ov.Type(each.numpy().dtype)))
    with warnings.catch_warnings():
        # OpenVINO traces the module.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes are supposed to become constants.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        model = ov.convert_model(module.eval(), example_input=tuple(inputs.values()), input=described)
    for port, name in zip((*model.inputs, *model.outputs), (*inputs, output), strict=True):
        port.get_tensor().set_names({name})
        port.get_node().set_friendly_name(name)
    return model


def quantize_int8(model: ov.Model, samples: Sequence[Sample]) -> ov.Model:
    """Quantize with NNCF after training: symmetric weights, asymmetric activations.

    Matrix products with fewer than :data:`SMALL_WEIGHTS` weights stay in fp32.

    Args:
        model: Model in fp32.
        samples: Recorded inputs by tensor name, to calibrate on.
    """
    import nncf  # Takes seconds to import, and only quantization needs it.

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
    """Quantize a transformer with NNCF after training; see :func:`transformer_options`.

    Args:
        model: Model in fp32.
        samples: Recorded inputs by tensor name, to calibrate on.
        extremes: See :func:`transformer_options`.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    options = transformer_options(samples, extremes=extremes)
    return with_full_byte_range(nncf.quantize(model, nncf.Dataset(samples), **options))


def transformer_options(samples: Sequence[Sample], *, extremes: bool = False) -> dict[str, Any]:
    """Return NNCF's options for a transformer.

    Weights and activations of matrix products are in INT8; softmax, normalization and residuals in fp32.
    Activations are asymmetric, for which OpenVINO 2026.4 has the faster kernels (a ViT-S takes a tenth less
    time). SmoothQuant (Xiao et al. 2022) is off: the multiplications that it inserts before some products
    cost as much as they save.

    Args:
        samples: Samples to calibrate on.
        extremes: Whether the range of activations covers all samples instead of the mean sample. Necessary
            where a sample is one action: the range of a mean action excludes most others.
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


def with_full_byte_range(quantized: ov.Model) -> ov.Model:
    """Set the range of products that read the bytes of a frame to 0 … 255; return the changed model.

    NNCF sets the range of a mean sample, which would clip brighter pixels.
    """
    for operation in quantized.get_ops():
        read = operation.input_value(0).get_node() if operation.get_type_name() == "FakeQuantize" else None
        if read and read.get_type_name() == "Convert" and read.get_input_element_type(0) == ov.Type.u8:
            for port, limit in enumerate((0, 255, 0, 255), 1):
                shape = operation.input_value(port).get_shape()
                whole = ops.constant(np.full(shape, limit, np.float32))
                operation.input(port).replace_source_output(whole.output(0))
    return quantized


def multiplies_activations(model: ov.Model) -> bool:
    """Return whether a matrix product has no constant factor, as in the attention of a transformer."""
    varying: set[str] = set()
    for each in model.get_ordered_ops():
        sources = [port.get_node().get_name() in varying for port in each.input_values()]
        if each.get_type_name() in ("MatMul", "ScaledDotProductAttention") and all(sources[:2]):
            return True
        if each.get_type_name() == "Parameter" or any(sources):
            varying.add(each.get_name())
    return False


def compress_int8(model: ov.Model) -> ov.Model:
    """Compress weights to INT8 (symmetric, one scale per output), with activations in fp32.

    Used for rollouts, whose errors accumulate: quantizing the activations of the demo's predictor as well
    would add an error of a third of a step at top speed.
    """
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)


def _overflow_fix() -> Any:
    from nncf.quantization.advanced_parameters import OverflowFix

    return OverflowFix.ENABLE if cpu_int8.saturates_here() else None


def _small_products(model: ov.Model) -> list[str]:
    def weights(operation: ov.Node) -> int:
        constants = [port.get_node() for port in operation.input_values()]
        sizes = [node.get_data().size for node in constants if node.get_type_name() == "Constant"]
        return max(sizes, default=SMALL_WEIGHTS)

    products = [operation for operation in model.get_ops() if operation.get_type_name() == "MatMul"]
    return [product.get_friendly_name() for product in products if weights(product) < SMALL_WEIGHTS]


def save(model: ov.Model, path: Path, *, halve: bool = False) -> None:
    """Write ``path`` (.xml) and its .bin; the files do not depend on what the process converted before.

    Args:
        model: Model to write.
        path: Destination.
        halve: Whether weights are stored in fp16.

    Raises:
        JepaExportError: The files cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        ov.save_model(model, path, compress_to_fp16=halve)
        path.write_text(_number_operations(path.read_text()))
    # OpenVINO reports a full disk as a RuntimeError without details.
    except RuntimeError as error:
        raise JepaExportError(
            f"{path.name} cannot be written ({error}): is the disk full? nothing was written",
            code="export.write_failed",
        ) from error


def _number_operations(xml: str) -> str:
    """Replace the numbers in names such as ``Convert_471``, which count all operations of the process.

    NNCF and OpenVINO append to such names: ``Convert_471/fq_output_0``, ``Constant_471_compressed``.
    """
    numbers: defaultdict[str, dict[str, int]] = defaultdict(dict)

    def renumber(found: re.Match[str]) -> str:
        kind, number, rest = found.groups()
        seen = numbers[kind]
        return f'name="{kind}_{seen.setdefault(number, len(seen))}{rest}"'

    return _GENERATED_NAME.sub(renumber, xml)
