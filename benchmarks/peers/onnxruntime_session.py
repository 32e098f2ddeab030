"""onnxruntime as in its documentation: two sessions, numpy arrays in and out.

In INT8 it runs the output of its own quantizer for the fp32 graphs: Q/DQ at the matrix products, weights per
channel, activations in uint8, calibrated on the golden inputs. Where the sum of two products of uint8 and
int8 saturates (see :mod:`jepa_runtime.backends.cpu_int8`), weights have 7 bits, as its documentation advises.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serving import AbsentError, InTurn, Task, serve

from jepa_runtime.backends import cpu_int8

try:
    import onnxruntime
except ImportError:
    onnxruntime = None

# With Softmax, sums and normalizations in INT8 too, the graphs take longer.
_QUANTIZED = ["MatMul", "Gemm"]


def _graph(task: Task, role: str, folder: Path) -> Path:
    if task.precision != "int8":
        return task.graph(role, "onnx")
    source = replace(task, precision="fp32").graph(role, "onnx")
    try:
        from onnxruntime.quantization import QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise AbsentError(f"its quantizer needs a package that is not installed: {error.name}") from error
    logging.getLogger().setLevel(logging.ERROR)
    prepared, path = folder / f"{role}_fp32.onnx", folder / f"{role}.onnx"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        path,
        _Inputs(task.inputs(role)),
        per_channel=True,
        reduce_range=cpu_int8.saturates_here(),
        op_types_to_quantize=_QUANTIZED,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
    )
    return path


class _Inputs:
    """Samples in the interface of the quantizer."""

    def __init__(self, samples: Iterator[dict[str, NDArray[np.generic]]]) -> None:
        self._samples = samples

    def get_next(self) -> dict[str, NDArray[np.generic]] | None:
        """Return the next sample, or None at the end."""
        return next(self._samples, None)


class _Sessions:
    def __init__(self, task: Task) -> None:
        if onnxruntime is None:
            raise AbsentError("onnxruntime is not installed (extra onnxruntime)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        with tempfile.TemporaryDirectory() as folder:
            self._encoder, self._predictor = (
                onnxruntime.InferenceSession(
                    str(_graph(task, role, Path(folder))), options, providers=["CPUExecutionProvider"]
                )
                for role in ("encoder", "predictor")
            )

    def encode(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        return self._encoder.run(None, {"frame": frame})[0]

    def predict(
        self, latents: NDArray[np.float32], actions: NDArray[np.float32], past: NDArray[np.float32] | None
    ) -> NDArray[np.float32]:
        """See :class:`serving.Model`."""
        feeds = {"history_latents": latents, "actions": actions}
        if past is not None:
            feeds["history_actions"] = past
        return self._predictor.run(None, feeds)[0]


if __name__ == "__main__":
    serve(partial(InTurn, open_model=_Sessions))
