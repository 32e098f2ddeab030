"""onnxruntime as its documentation shows it: two sessions, numpy arrays in and out."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from serving import AbsentError, InTurn, Task, serve

try:
    import onnxruntime
except ImportError:
    onnxruntime = None


class _Sessions:
    def __init__(self, task: Task) -> None:
        if onnxruntime is None:
            raise AbsentError("onnxruntime is not installed (extra onnxruntime)")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = task.threads
        self._encoder, self._predictor = (
            onnxruntime.InferenceSession(
                str(task.graph(role, "onnx")), options, providers=["CPUExecutionProvider"]
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
