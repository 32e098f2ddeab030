"""Parameters; multiply-adds: of a graph as the engine gets it, and before there is one, of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import openvino as ov

from jepa_export.errors import JepaExportError
from jepa_runtime.backends.base import Graph, Shape
from jepa_runtime.bundle import ROLES, Bundle, Role

if TYPE_CHECKING:
    from torch import Tensor, nn

# Products that are not counted: nothing that this project exports has them.
_UNCOUNTED = ("Einsum", "LSTM", "GRU", "RNN", "DeformableConvolution", "If", "BinaryConvolution")


def parameters(*modules: nn.Module) -> int:
    """How many numbers they learn, together."""
    return sum(learnt.numel() for module in modules for learnt in module.parameters())


def multiply_adds(graph: Graph, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of all matrix products and convolutions in one call, loops with all their turns.

    OpenVINO reads IR and ONNX alike (a Gemm becomes a MatMul); padding counts as if it were multiplied.

    Args:
        shapes: of every input whose own is not fixed.

    Raises:
        JepaExportError: it cannot be read, or holds an operation whose products are not counted.
    """
    try:
        model = ov.Core().read_model(graph.model, graph.weights or b"")
        model.reshape({name: list(shape) for name, shape in shapes.items()})
        return _count(model)
    except (RuntimeError, JepaExportError) as error:
        raise JepaExportError(f"{graph.name}: its multiply-adds cannot be counted: {error}") from error


def of_bundle(bundle: Bundle) -> dict[Role, int]:
    """Multiply-adds of one call of each graph, in the form that the bundle prefers: predictor and energy for
    all futures.

    Raises:
        JepaExportError: as for :func:`multiply_adds`.
        BundleError: it was changed meanwhile.
    """
    manifest, latent = bundle.manifest, bundle.manifest.io.latent
    free: dict[Role, dict[str, Shape]] = {
        "predictor": {"actions": (manifest.num_samples, manifest.horizon, manifest.action_size)},
        "energy": {"latents": (manifest.num_samples * manifest.horizon, latent.tokens, latent.dim)},
    }
    found: dict[Role, int] = {}
    for role in ROLES:
        for variant in manifest.graphs.variants(role)[:1]:
            model, *weights = (bundle.read(path) for path in variant.paths)
            graph = Graph(str(bundle.path / variant.path), model, weights[0] if weights else None)
            # An NPU's graph has its shapes fixed.
            found[role] = multiply_adds(graph, {} if variant.target == "npu" else free.get(role, {}))
    return found


def shown(count: int) -> str:
    """A number of multiply-adds for people."""
    scale, unit = (1e9, "G") if count >= 1e9 else (1e6, "M")
    return f"{count / scale:.4g} {unit}"


def of_network(module: nn.Module, *inputs: Tensor | None) -> int:
    """Multiply-adds of the matrix products of one call in torch; on its meta device nothing is computed."""
    import torch  # Who measures bundles does without.
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Products inside a fused attention are not counted everywhere.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return int(counter.get_total_flops()) // 2


def _count(model: ov.Model) -> int:
    total = 0
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind.startswith(_UNCOUNTED):
            raise JepaExportError(f"it has the operation {kind}")
        if kind in ("TensorIterator", "Loop"):
            turns = operation.get_num_iterations()
            if turns < 0:
                raise JepaExportError("it has a loop without a fixed number of turns")
            total += turns * _count(operation.get_function())
        elif kind in _PRODUCTS:
            total += _PRODUCTS[kind](operation)
    return total


def _matmul(operation: Any) -> int:
    first, transposed = operation.input(0).get_shape(), operation.get_attributes()["transpose_a"]
    inner = first[-2] if transposed and len(first) > 1 else first[-1]
    return _size(operation.output(0)) * int(inner)


def _attention(operation: Any) -> int:
    """Scores of queries [..., L, E] with keys [..., S, E], and their products with values [..., S, V]."""
    *batch, queries, values = operation.output(0).get_shape()
    keys, width = operation.input(1).get_shape()[-2:]
    return int(math.prod(batch) * queries * keys * (width + values))


def _convolution(leading: int) -> Callable[[Any], int]:
    """Each output is as many products as a filter has weights: those after the ``leading`` axes."""
    return lambda operation: _size(operation.output(0)) * math.prod(operation.input(1).get_shape()[leading:])


def _transposed(leading: int) -> Callable[[Any], int]:
    """Each input goes into as many products."""
    return lambda operation: _size(operation.input(0)) * math.prod(operation.input(1).get_shape()[leading:])


def _size(port: Any) -> int:
    return math.prod(port.get_shape())


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "MatMul": _matmul,
    "ScaledDotProductAttention": _attention,
    "Convolution": _convolution(1),
    "GroupConvolution": _convolution(2),
    "ConvolutionBackpropData": _transposed(1),
    "GroupConvolutionBackpropData": _transposed(2),
}
