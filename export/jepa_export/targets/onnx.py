"""Export of torch modules to ONNX, as static graphs; only the number of candidates may stay free."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError
from jepa_export.targets.onnx_network import DOMAIN, insert_networks, networks_of

OPSET = 18
# Size limit of a file, which is one protocol buffers message.
MAX_BYTES = 2**31


def fits(weights: int) -> bool:
    """Return whether a network with this number of parameters fits into one ONNX file."""
    return 4 * weights < MAX_BYTES


def check_size(name: str, weights: int, targets: Collection[str] = ("onnx",)) -> None:
    """Check that a network fits into one ONNX file, if a target needs one.

    Args:
        name: Name of the network, for messages.
        weights: Number of parameters.
        targets: The targets to build. OpenVINO alone needs no ONNX file.

    Raises:
        JepaExportError: It does not fit.
    """
    if not fits(weights) and set(targets) != {"openvino"}:
        raise JepaExportError(
            f"{name} cannot be built: it has {4 * weights / 1e9:.1f} GB of weights, and an ONNX file, from "
            "which these targets are built, has at most 2.1 GB: choose a smaller teacher, or build "
            "V-JEPA 2-AC with --target openvino alone",
            code="target.model_too_large",
        )


def export_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    *,
    free_axis: tuple[str, ...] = (),
) -> None:
    """Write ``module`` to ``path`` as one self-contained file.

    Args:
        module: Module in evaluation mode; called with ``inputs`` in order. Parts of it may be ONNX graphs
            (:class:`~jepa_export.targets.onnx_network.OnnxNetwork`).
        inputs: Examples by tensor name; their shapes become those of the graph.
        outputs: Names by position.
        path: Destination.
        free_axis: Inputs whose first axis may have any length; the first axes of the outputs follow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "count"} for name in (*free_axis, *outputs)} if free_axis else {}
    networks = networks_of(module)
    with warnings.catch_warnings(), _attention_as_operations():
        # The tracing exporter is chosen deliberately: its graphs use only operators that every target
        # supports.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes are supposed to become constants, and slices need not be folded.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            custom_opsets={DOMAIN: 1} if networks else None,
            dynamo=False,
        )
    if networks:
        onnx.save(insert_networks(onnx.load(path), networks), path)
    onnx.checker.check_model(str(path), full_check=True)


@contextmanager
def _attention_as_operations() -> Iterator[None]:
    """Turn off the fused layers of torch.nn.TransformerEncoder in the block: ONNX has no such operation."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
