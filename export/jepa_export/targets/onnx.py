"""torch -> ONNX: one static graph each, but for the number of candidates, which the runtime fixes at load."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from jepa_export.errors import JepaExportError

OPSET = 18
# Of a file: it is one message of protocol buffers.
_MAX_BYTES = 2**31


def check_size(name: str, weights: int) -> None:
    """Whether a network of so many weights goes into a file.

    Raises:
        JepaExportError: it does not.
    """
    if 4 * weights >= _MAX_BYTES:
        raise JepaExportError(
            f"{name} cannot be built: its encoder takes {4 * weights / 1e9:.1f} GB, a file of ONNX holds at "
            "most 2.1 GB, and a bundle keeps weights in no other: choose a smaller teacher"
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
        module: in evaluation mode; takes ``inputs`` in order.
        inputs: examples by tensor name; their shapes become the graph's.
        outputs: names by position.
        free_axis: inputs whose first axis may have any length; the outputs' first axes follow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    axes = {name: {0: "count"} for name in (*free_axis, *outputs)} if free_axis else {}
    with warnings.catch_warnings():
        # The tracing exporter is asked for by name: it keeps these graphs to the plain operators that every
        # target has.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        # Sizes are meant to become constants, and slices need not be folded.
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Constant folding")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    onnx.checker.check_model(str(path), full_check=True)
